"""Block scores of many queries: the compressed branch's weights, summed over a group's heads and gathered into blocks.

The query heads of a group and TOKENS neighbouring queries become the rows of one matrix product, because they share keys: 8
tokens of 16 heads are 128 rows. The weights p = exp(q k - lse) need no second pass, since the compressed branch has left its
log-sum-exp. A second product, with the table of overlaps, turns COLUMNS weights into the scores of those blocks that these
compressed tokens cover completely. Blocks begin in the middle of a compressed token, so neighbouring steps share l/d - 1 columns.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.tiles import LOG2_E, MIN_ROWS, precision

SCORE_ROWS = 128
"""Rows (tokens x heads) of a program. Half for head dims over 128: its tiles must fit into the 99 KiB of shared memory of Ada."""

SCORE_COLUMNS = 64
"""Compressed tokens that it looks at in one step."""


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
    """Scores of all blocks for TOKENS queries of one KV head."""
    first_token = tl.program_id(0) * TOKENS
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = tl.program_id(1) % KV_HEADS
    row = tl.arange(0, TOKENS * GROUP_PAD)
    token, member = first_token + row // GROUP_PAD, row % GROUP_PAD
    head = kv_head * GROUP + member
    real = (token < seq_len) & (member < GROUP)
    dim = tl.arange(0, DIM_PAD)
    where = batch * q_batch + token[:, None].to(tl.int64) * q_token + head[:, None] * q_head + dim[None, :]
    queries = tl.load(q + where, mask=real[:, None] & (dim[None, :] < DIM), other=0.0)
    at_lse = lse + batch * lse_batch + head * lse_head + token * lse_token
    top = tl.load(at_lse, mask=real, other=float("inf")) * 1.4426950408889634
    position = tl.load(positions + batch * seq_len + token, mask=real, other=0)
    visible = tl.where(position + 1 >= BLOCK_LEN, (position + 1 - BLOCK_LEN) // STRIDE + 1, 0)

    own_block = tl.max(position, 0) // SELECT_LEN
    column, block = tl.arange(0, COLUMNS), tl.arange(0, BLOCKS_PAD)
    for first_block in range(0, own_block + 1, BLOCKS):
        compressed = first_block * (SELECT_LEN // STRIDE) - (BLOCK_LEN // STRIDE - 1) + column
        there = (compressed >= 0) & (compressed < num_compressed)
        where_k = batch * k_batch + compressed[None, :].to(tl.int64) * k_token + kv_head * k_head + dim[:, None]
        keys = tl.load(k + where_k, mask=there[None, :] & (dim[:, None] < DIM), other=0.0)
        products = tl.dot(queries, keys, input_precision=PRECISION) * scale_log2
        seen = there[None, :] & (compressed[None, :] < visible[:, None]) & real[:, None]
        weights = tl.where(seen, tl.exp2(products - top[:, None]), 0.0)

        begin, block_begin = compressed * STRIDE, (first_block + block) * SELECT_LEN
        end = tl.minimum(begin[:, None] + BLOCK_LEN, block_begin[None, :] + SELECT_LEN)
        shared = end - tl.maximum(begin[:, None], block_begin[None, :])
        overlap = tl.maximum(shared, 0).to(tl.float32) / STRIDE
        of_blocks = tl.dot(weights, overlap, input_precision=PRECISION)
        summed = tl.sum(tl.reshape(of_blocks, (TOKENS, GROUP_PAD, BLOCKS_PAD)), 1)
        out_token = first_token + tl.arange(0, TOKENS)
        out_block = first_block + block
        out = ((batch * KV_HEADS + kv_head) * seq_len + out_token[:, None]) * num_blocks + out_block[None, :]
        fits = (out_token[:, None] < seq_len) & (block[None, :] < BLOCKS) & (out_block[None, :] < num_blocks)
        tl.store(scores + out, summed, mask=fits)


def block_scores(q: Tensor, k: Tensor, lse: Tensor, positions: Tensor, num_blocks: int, geometry: Geometry) -> Tensor:
    """Return the scores of the selection blocks [B, Hkv, S, blocks] in float32; those after a query's own block are not written.

    q [B, S, Hq, D] at `positions` [B, S] int32; k [B, C, Hkv, D] pooled keys; lse [B, Hq, S] the natural log-sum-exp of the
    compressed branch's scaled scores.
    """
    batch, seq_len, heads, dim = q.shape
    kv_heads = k.shape[2]
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    dim_pad = max(MIN_ROWS, triton.next_power_of_2(dim))
    tokens = max(1, (SCORE_ROWS if dim_pad <= 128 else SCORE_ROWS // 2) // group_pad)
    per_block, spill = geometry.select_len // geometry.stride, geometry.block_len // geometry.stride - 1
    columns = max(SCORE_COLUMNS, triton.next_power_of_2(per_block + spill))
    blocks = (columns - spill) // per_block
    scores = torch.empty(batch, kv_heads, seq_len, num_blocks, dtype=torch.float32, device=q.device)
    _block_scores[(triton.cdiv(seq_len, tokens), batch * kv_heads)](
        q, k, lse, positions, scores,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), lse.stride(0), lse.stride(1), lse.stride(2),
        seq_len, k.shape[1], num_blocks, dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim,
        BLOCK_LEN=geometry.block_len, STRIDE=geometry.stride, SELECT_LEN=geometry.select_len,
        TOKENS=tokens, GROUP_PAD=group_pad, DIM_PAD=dim_pad,
        COLUMNS=columns, BLOCKS=blocks, BLOCKS_PAD=max(MIN_ROWS, triton.next_power_of_2(blocks)), PRECISION=precision(q),
        num_warps=8 if tokens * group_pad >= SCORE_ROWS else 4, num_stages=2,
    )  # fmt: skip
    return scores
