"""Block scores of many queries: the compressed branch's weights, summed over a group's heads and gathered into blocks.

The query heads of a group and TOKENS neighbouring queries become the rows of one matrix product, because they share keys: 8
tokens of 16 heads are 128 rows. The weights p = exp(q k - lse) need no second pass, since the compressed branch has left its
log-sum-exp. A second product, with the table of overlaps, turns COLUMNS weights into the scores of those blocks that these
compressed tokens cover completely. Blocks begin in the middle of a compressed token, so neighbouring steps share l/d - 1 columns.

Steps whose compressed tokens every row sees are not masked. In 16 bits the second product has float16 operands, at the full rate
of the tensor cores: weights are at most 1 and are scaled by 2^14, so that those down to 2^-28 keep float16's 11 bits; overlaps
are small whole numbers. The sum is in float32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.rows import rows_of
from workloads.nsa.kernels.tiles import LOG2_E, MIN_ROWS, Tile, padded, precision, room, score_tile


@triton.jit
def _scores_step(
    queries, shift, visible, k, k_token, begin, num_compressed, scale_log2, overlap,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, COLUMNS: tl.constexpr, TOKENS: tl.constexpr, GROUP_PAD: tl.constexpr,
    BLOCKS_PAD: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores [TOKENS, BLOCKS_PAD] from the compressed tokens [begin, begin + COLUMNS), times 2^14 in 16 bits."""
    column, dim = begin + tl.arange(0, COLUMNS), tl.arange(0, DIM_PAD)
    at_k = k + column[:, None].to(tl.int64) * k_token + dim[None, :]
    if MASKED:
        there = (column >= 0) & (column < num_compressed)
        keys = tl.load(at_k, mask=there[:, None] & (dim[None, :] < DIM), other=0.0)
    else:
        keys = tl.load(at_k) if DIM == DIM_PAD else tl.load(at_k, mask=dim[None, :] < DIM, other=0.0)
    products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    weights = tl.exp2(products * scale_log2 - shift[:, None])
    if MASKED:
        weights = tl.where((column[None, :] >= 0) & (column[None, :] < visible[:, None]), weights, 0.0)
    of_blocks = tl.dot(weights.to(overlap.dtype), overlap, input_precision=PRECISION)
    return tl.sum(tl.reshape(of_blocks, (TOKENS, GROUP_PAD, BLOCKS_PAD)), 1)


@triton.jit
def _block_scores(
    q, k, lse, positions, scores,
    q_batch, q_token, q_head, k_batch, k_token, k_head, lse_batch, lse_head, lse_token,
    seq_len, num_compressed, num_blocks, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr,
    BLOCK_LEN: tl.constexpr, STRIDE: tl.constexpr, SELECT_LEN: tl.constexpr,
    TOKENS: tl.constexpr, GROUP_PAD: tl.constexpr, DIM_PAD: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_PAD: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Scores of all blocks for TOKENS queries of one KV head; those for late queries, which have most blocks, start first."""
    first_token = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = (tl.program_id(1) % KV_HEADS).to(tl.int64)
    token, _, head, real, queries = rows_of(
        q, q_batch, q_token, q_head, batch, kv_head, first_token, seq_len, GROUP, GROUP_PAD, TOKENS, DIM, DIM_PAD
    )
    at_lse = lse + batch * lse_batch + head * lse_head + token.to(tl.int64) * lse_token
    half: tl.constexpr = q.dtype.element_ty != tl.float32
    scale_up: tl.constexpr = 14.0 if half else 0.0
    shift = tl.load(at_lse, mask=real, other=float("inf")) * 1.4426950408889634 - scale_up
    position = tl.load(positions + batch * seq_len + token, mask=token < seq_len, other=0)
    least = tl.min(tl.where(token < seq_len, position, 2147483647), 0)
    visible = tl.where(position + 1 >= BLOCK_LEN, (position + 1 - BLOCK_LEN) // STRIDE + 1, 0)
    all_see = tl.minimum(tl.where(least + 1 >= BLOCK_LEN, (least + 1 - BLOCK_LEN) // STRIDE + 1, 0), num_compressed)
    k += batch * k_batch + kv_head * k_head

    spill: tl.constexpr = BLOCK_LEN // STRIDE - 1
    per_block: tl.constexpr = SELECT_LEN // STRIDE
    column, block = tl.arange(0, COLUMNS), tl.arange(0, BLOCKS_PAD)
    begin, block_begin = (column - spill) * STRIDE, block * SELECT_LEN
    shared = tl.minimum(begin[:, None] + BLOCK_LEN, block_begin[None, :] + SELECT_LEN)
    shared -= tl.maximum(begin[:, None], block_begin[None, :])
    overlap = (tl.maximum(shared, 0) // STRIDE).to(tl.float16 if half else tl.float32)

    blocks_end = tl.max(position, 0) // SELECT_LEN + 1
    full_end = tl.where(all_see + spill >= COLUMNS, (all_see + spill - COLUMNS) // per_block + 1, 0)
    full_from = tl.minimum(BLOCKS if spill > 0 else 0, blocks_end)
    full_end = tl.maximum(tl.cdiv(full_end - full_from, BLOCKS) * BLOCKS + full_from, full_from)
    out_token = first_token + tl.arange(0, TOKENS)
    out = scores + ((batch * KV_HEADS + kv_head) * seq_len + out_token[:, None]) * num_blocks + block[None, :]
    inside = (out_token[:, None] < seq_len) & (block[None, :] < BLOCKS)
    unit: tl.constexpr = 0.00006103515625 if half else 1.0
    for first_block in range(0, full_from, BLOCKS):
        summed = _scores_step(
            queries, shift, visible, k, k_token, first_block * per_block - spill, num_compressed, scale_log2, overlap,
            DIM, DIM_PAD, COLUMNS, TOKENS, GROUP_PAD, BLOCKS_PAD, True, PRECISION,
        )  # fmt: skip
        tl.store(out + first_block, summed * unit, mask=inside & (first_block + block[None, :] < num_blocks))
    for first_block in range(full_from, full_end, BLOCKS):
        summed = _scores_step(
            queries, shift, visible, k, k_token, first_block * per_block - spill, num_compressed, scale_log2, overlap,
            DIM, DIM_PAD, COLUMNS, TOKENS, GROUP_PAD, BLOCKS_PAD, False, PRECISION,
        )  # fmt: skip
        tl.store(out + first_block, summed * unit, mask=inside)
    for first_block in range(full_end, blocks_end, BLOCKS):
        summed = _scores_step(
            queries, shift, visible, k, k_token, first_block * per_block - spill, num_compressed, scale_log2, overlap,
            DIM, DIM_PAD, COLUMNS, TOKENS, GROUP_PAD, BLOCKS_PAD, True, PRECISION,
        )  # fmt: skip
        tl.store(out + first_block, summed * unit, mask=inside & (first_block + block[None, :] < num_blocks))


def block_scores(
    q: Tensor, k: Tensor, lse: Tensor, positions: Tensor, num_blocks: int, geometry: Geometry, tile: Tile | None = None
) -> Tensor:
    """Return the scores of the selection blocks [B, Hkv, S, blocks] in float32; those after a query's own block are not written.

    q [B, S, Hq, D] at `positions` [B, S] int32; k [B, C, Hkv, D] pooled keys; lse [B, Hq, S] the natural log-sum-exp of the
    compressed branch's scaled scores.
    """
    batch, seq_len, heads, dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    group_pad, dim_pad = triton.next_power_of_2(group), padded(dim)
    tile = tile or score_tile(dim_pad, q.element_size(), room(q.device))
    tokens = max(1, max(tile.rows, MIN_ROWS) // group_pad)
    per_block, spill = geometry.select_len // geometry.stride, geometry.block_len // geometry.stride - 1
    columns = max(tile.keys, triton.next_power_of_2(per_block + spill))
    blocks = (columns - spill) // per_block
    scores = torch.empty(batch, kv_heads, seq_len, num_blocks, dtype=torch.float32, device=q.device)
    _block_scores[(triton.cdiv(seq_len, tokens), batch * kv_heads)](
        q, k, lse, positions, scores,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), lse.stride(0), lse.stride(1), lse.stride(2),
        seq_len, k.shape[1], num_blocks, dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim,
        BLOCK_LEN=geometry.block_len, STRIDE=geometry.stride, SELECT_LEN=geometry.select_len,
        TOKENS=tokens, GROUP_PAD=group_pad, DIM_PAD=dim_pad,
        COLUMNS=columns, BLOCKS=blocks, BLOCKS_PAD=padded(blocks), PRECISION=precision(q),
        num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
    )  # fmt: skip
    return scores
