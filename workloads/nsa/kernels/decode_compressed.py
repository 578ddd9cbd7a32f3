"""First part of a decode step: the compressed branch, and the blocks' scores from the same pass over the compressed tokens.

For each sequence and KV head (a unit) the compressed tokens are dealt to a few programs, which do what split-K decoding does: a
program keeps the maximum, the sum of weights and the weighted sum of values of those that it saw. COLUMNS compressed tokens are
the rows of the matrix products and the heads of the group their columns: turned around like this a tile of 64 is what Hopper's
matrix unit takes although few heads ask, and its four warps share the work instead of each doing all of it.

Scores need the weights exp(q k - lse), and lse is known only when all programs are done. A second pass is not needed for that:
within a tile all weights of a head share one reference, the head's running maximum, so the tile's share of the block scores is
written per head, relative to it: 4 bytes for each block and head, where the block's keys and values have 4 (l'/d) Dk bytes. The
next part multiplies each tile by exp(reference - lse) and sums over the heads.

A tile is BLOCKS selection blocks: (l'/d) BLOCKS compressed tokens, and before them the l/d - 1 that reach into the first block
from the tile before. Those count for scores here, but were summed into the branch there. So no program needs another one's
weights, at the cost of 4 of 64 columns for the paper's lengths.

The compressed token that the newest key completes, if any, is pooled and stored first, by whoever will read it.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.decode_plan import Workspace, can_start_early
from workloads.nsa.kernels.decode_tile import load_tile, soften
from workloads.nsa.kernels.tiles import LOG2_E, MIN_ROWS, padded, precision

STAGES, NUM_WARPS = 3, 4


@triton.jit
def _last_tokens(
    source, end, token_stride, BLOCK_LEN: tl.constexpr, LEN_PAD: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr
):  # fmt: skip
    """The last BLOCK_LEN of `end` tokens, [LEN_PAD, DIM_PAD]."""
    within, dim = tl.arange(0, LEN_PAD), tl.arange(0, DIM_PAD)
    token = (end - BLOCK_LEN + within).to(tl.int64)
    there = (within < BLOCK_LEN)[:, None] & (dim < DIM)[None, :]
    return tl.load(source + token[:, None] * token_stride + dim[None, :], mask=there, other=0.0)


@triton.jit
def _store_mean(tokens, pooled, BLOCK_LEN: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr):
    """Store the mean of the tokens as the compressed token at `pooled`."""
    dim = tl.arange(0, DIM_PAD)
    mean = tl.sum(tokens.to(tl.float32), 0) / BLOCK_LEN
    tl.store(pooled + dim, mean.to(pooled.dtype.element_ty), mask=dim < DIM)


@triton.jit
def _decode_compressed(
    q, k, v, pooled_k, pooled_v, ends, sums, tops, totals, scores, score_tops,
    q_batch, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    pk_batch, pk_token, pk_head, pv_batch, pv_token, pv_head, tiles_room, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, ROWS: tl.constexpr,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM: tl.constexpr, V_DIM_PAD: tl.constexpr,
    BLOCK_LEN: tl.constexpr, LEN_PAD: tl.constexpr, STRIDE: tl.constexpr, SELECT_LEN: tl.constexpr,
    COLUMNS: tl.constexpr, BLOCKS: tl.constexpr, BLOCKS_PAD: tl.constexpr, SPLITS: tl.constexpr, SPLITS_ROOM: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One split of one unit."""
    if EARLY:
        gdc_launch_dependents()
    PER_BLOCK: tl.constexpr = SELECT_LEN // STRIDE
    SPILL: tl.constexpr = BLOCK_LEN // STRIDE - 1
    split, unit = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, kv_head = unit // KV_HEADS, unit % KV_HEADS
    end = tl.load(ends + batch).to(tl.int32)
    visible = tl.where(end >= BLOCK_LEN, (end - BLOCK_LEN) // STRIDE + 1, 0)
    own = (end - 1) // SELECT_LEN
    tiles = own // BLOCKS + 1
    of_each = tl.cdiv(tiles, SPLITS)
    working = tl.cdiv(tiles, of_each)
    if split < working:
        last = tl.minimum((split + 1) * of_each, tiles)
        pooled_k += batch * pk_batch + kv_head * pk_head
        pooled_v += batch * pv_batch + kv_head * pv_head
        seen_from, seen_to = split * of_each * (BLOCKS * PER_BLOCK) - SPILL, last * (BLOCKS * PER_BLOCK)
        due = (end >= BLOCK_LEN) & ((end - BLOCK_LEN) % STRIDE == 0)
        if due & (visible > seen_from) & (visible <= seen_to):  # two programs may see it; then both store the same
            of_k = _last_tokens(k + batch * k_batch + kv_head * k_head, end, k_token, BLOCK_LEN, LEN_PAD, DIM, DIM_PAD)
            of_v = _last_tokens(v + batch * v_batch + kv_head * v_head, end, v_token, BLOCK_LEN, LEN_PAD, V_DIM, V_DIM_PAD)
            _store_mean(of_k, pooled_k + (visible - 1).to(tl.int64) * pk_token, BLOCK_LEN, DIM, DIM_PAD)
            _store_mean(of_v, pooled_v + (visible - 1).to(tl.int64) * pv_token, BLOCK_LEN, V_DIM, V_DIM_PAD)
            tl.debug_barrier()  # other threads of this program read it

        member, dim, v_dim = tl.arange(0, ROWS), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
        of_q = q + batch * q_batch + (kv_head * GROUP + member)[None, :] * q_head + dim[:, None]
        queries = tl.load(of_q, mask=(member < GROUP)[None, :] & (dim < DIM)[:, None], other=0.0)
        top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
        total = tl.zeros([ROWS], dtype=tl.float32)
        weighted = tl.zeros([V_DIM_PAD, ROWS], dtype=tl.float32)
        column, block = tl.arange(0, COLUMNS), tl.arange(0, BLOCKS_PAD)
        shared_end = tl.minimum((column - SPILL)[None, :] * STRIDE + BLOCK_LEN, (block[:, None] + 1) * SELECT_LEN)
        shared = shared_end - tl.maximum((column - SPILL)[None, :] * STRIDE, block[:, None] * SELECT_LEN)
        overlap = tl.maximum(shared, 0).to(tl.float32) / STRIDE
        in_tile = column >= SPILL
        for tile in tl.range(split * of_each, last, num_stages=STAGES):
            token = tile * (BLOCKS * PER_BLOCK) - SPILL + column
            seen = (token >= 0) & (token < visible) & (column < SPILL + BLOCKS * PER_BLOCK)
            keys, values = load_tile(pooled_k, pooled_v, token, seen, pk_token, pv_token, DIM, DIM_PAD, V_DIM, V_DIM_PAD)
            products = tl.dot(keys, queries, input_precision=PRECISION) * scale_log2
            top, reference, weights, shrink = soften(products, seen[:, None], top)
            own_weights = tl.where(in_tile[:, None], weights, 0.0)
            total = total * shrink + tl.sum(own_weights, 0)
            weighted *= shrink[None, :]
            weighted = tl.dot(tl.trans(values), own_weights.to(values.dtype), weighted, input_precision=PRECISION)
            of_blocks = tl.dot(overlap, weights, input_precision=PRECISION)
            at = unit * tiles_room + tile
            to = (at * BLOCKS_PAD + block)[:, None] * GROUP_PAD + member[None, :]
            tl.store(scores + to, of_blocks, mask=(member < GROUP_PAD)[None, :])
            tl.store(score_tops + at * GROUP_PAD + member, reference, mask=member < GROUP_PAD)
        at = unit * SPLITS_ROOM + split
        tl.store(tops + at * GROUP_PAD + member, top, mask=member < GROUP_PAD)
        tl.store(totals + at * GROUP_PAD + member, total, mask=member < GROUP_PAD)
        to = (at * V_DIM + v_dim)[:, None] * GROUP_PAD + member[None, :]
        tl.store(sums + to, weighted, mask=(v_dim < V_DIM)[:, None] & (member < GROUP_PAD)[None, :])
    else:
        head, number = tl.arange(0, GROUP_PAD), tl.arange(0, V_DIM_PAD)
        idle = unit * SPLITS_ROOM + split
        tl.store(tops + idle * GROUP_PAD + head, tl.full([GROUP_PAD], float("-inf"), tl.float32))
        tl.store(totals + idle * GROUP_PAD + head, tl.zeros([GROUP_PAD], tl.float32))
        of_head = (idle * V_DIM + number)[:, None] * GROUP_PAD + head[None, :]
        nothing = tl.zeros([V_DIM_PAD, GROUP_PAD], tl.float32)  # its weight is 0, but 0 times what stood there may be NaN
        tl.store(sums + of_head, nothing, mask=(number < V_DIM)[:, None])


def decode_compressed(
    q: Tensor, k: Tensor, v: Tensor, pooled_k: Tensor, pooled_v: Tensor, ends: Tensor, workspace: Workspace, geometry: Geometry
) -> None:
    """Emit the compressed token that is due, attend to all of them; leave partial sums and scores in the workspace.

    q [B, 1, Hq, Dk]; k [B, N, Hkv, Dk], v [B, N, Hkv, Dv] and pooled_k, pooled_v [B, C, Hkv, ...] are the cache, `ends` [B] the
    tokens in it.
    """
    batch, _, heads, dim = q.shape
    kv_heads, v_dim, cut, parts = k.shape[2], v.shape[-1], workspace.plan, workspace.parts
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    _decode_compressed[(cut.compressed_splits, batch * kv_heads)](
        q, k, v, pooled_k, pooled_v, ends,
        parts.sums, parts.tops, parts.totals, workspace.scores, workspace.score_tops,
        q.stride(0), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        pooled_k.stride(0), pooled_k.stride(1), pooled_k.stride(2), pooled_v.stride(0), pooled_v.stride(1), pooled_v.stride(2),
        cut.tiles, dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=group_pad, ROWS=max(MIN_ROWS, group_pad),
        DIM=dim, DIM_PAD=padded(dim),
        V_DIM=v_dim, V_DIM_PAD=padded(v_dim),
        BLOCK_LEN=geometry.block_len, LEN_PAD=triton.next_power_of_2(geometry.block_len), STRIDE=geometry.stride,
        SELECT_LEN=geometry.select_len, COLUMNS=cut.columns, BLOCKS=cut.blocks, BLOCKS_PAD=workspace.scores.shape[2],
        SPLITS=cut.compressed_splits, SPLITS_ROOM=parts.tops.shape[1],
        PRECISION=precision(q), STAGES=STAGES, EARLY=can_start_early(q.device), num_warps=NUM_WARPS,
    )  # fmt: skip
