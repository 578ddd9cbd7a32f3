"""Attention over far blocks, block by block: a block's keys and values are loaded once for all queries of a chunk that chose it.

A program that takes one query reads n l' keys and values for the few rows of its group, 32 KiB a block, through L2.
Turned round, a pair of query and block costs its query (4 KiB for 16 heads of 128), its part of the output
written and read again (4 KiB each), and the product has as many rows as the tensor cores want: 4 queries of 16 heads are 64. The
parts are softmaxes over one block each, with their log-sum-exp; `merge` weighs them. Chunks of queries can stay in the L2 cache
while all blocks pass by: chunks are the slowest index of the grid, blocks the fastest.
"""

import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.tiles import LOG2_E, Tile, padded, precision


@triton.jit
def _far(
    q, k, v, pairs, counts, ends, parts, lse,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    seq_len, first_chunk, num_tokens, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, CHUNK: tl.constexpr,
    TOKENS: tl.constexpr, GROUP_PAD: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM_PAD: tl.constexpr, KEYS: tl.constexpr,
    STAGES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention over one block of all queries of a chunk that chose it, TOKENS at a time."""
    block, batch_head, chunk = tl.program_id(0), tl.program_id(1), tl.program_id(2) + first_chunk
    of = (chunk.to(tl.int64) * tl.num_programs(1) + batch_head) * tl.num_programs(0) + block
    count = tl.load(counts + of)
    if count > 0:
        listed = pairs + tl.load(ends + of) - count
        batch = (batch_head // KV_HEADS).to(tl.int64)
        kv_head = (batch_head % KV_HEADS).to(tl.int64)
        row = tl.arange(0, TOKENS * GROUP_PAD)
        within, dim, v_dim = tl.arange(0, KEYS), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
        member = row % GROUP_PAD
        key = block.to(tl.int64) * SELECT_LEN + within
        at_k = k + batch * k_batch + kv_head * k_head + key[:, None] * k_token + dim[None, :]
        at_v = v + batch * v_batch + kv_head * v_head + key[:, None] * v_token + v_dim[None, :]
        keys = tl.load(at_k, mask=(within[:, None] < SELECT_LEN) & (dim[None, :] < DIM), other=0.0)
        values = tl.load(at_v, mask=(within[:, None] < SELECT_LEN) & (v_dim[None, :] < V_DIM), other=0.0)
        at_q = q + batch * q_batch + (kv_head * GROUP + member[:, None]) * q_head + dim[None, :]
        first_pair = (batch_head.to(tl.int64) * num_tokens - first_chunk * CHUNK) * NUM_SELECT
        for at in tl.range(0, count, TOKENS, num_stages=STAGES):
            place = at + row // GROUP_PAD
            real = (place < count) & (member < GROUP)
            pair = tl.load(listed + place, mask=real, other=0)
            token = (pair // NUM_SELECT).to(tl.int64)
            queries = tl.load(at_q + token[:, None] * q_token, mask=real[:, None] & (dim[None, :] < DIM), other=0.0)
            products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
            if KEYS != SELECT_LEN:
                products = tl.where(within[None, :] < SELECT_LEN, products, float("-inf"))
            top = tl.max(products, 1) * scale_log2
            weights = tl.exp2(products * scale_log2 - top[:, None])
            total = tl.sum(weights, 1)
            sums = tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
            where = (first_pair + pair) * GROUP + member
            at_part = parts + where[:, None] * V_DIM + v_dim[None, :]
            part = sums * (1.0 / total)[:, None]
            inside = real[:, None] & (v_dim[None, :] < V_DIM)
            tl.store(at_part, part.to(parts.dtype.element_ty), mask=inside, eviction_policy="evict_first")  # L2 is for queries
            tl.store(lse + where, top + tl.log2(total), mask=real)


def far(
    q: Tensor, k: Tensor, v: Tensor, listed: tuple[Tensor, Tensor, Tensor], parts: Tensor, lse: Tensor,
    geometry: Geometry, chunk: int, first_chunk: int, tile: Tile,
) -> None:  # fmt: skip
    """Write the parts of the queries from `first_chunk` on: `parts` [B, Hkv, T, n, h, Dv], base-2 `lse` [B, Hkv, T, n, h].

    q [B, S, Hq, Dk], k [B, S, Hkv, Dk], v [B, S, Hkv, Dv]; `listed` as `lists` returns it; T is a multiple of `chunk`. Slots of
    blocks that are not far are not written.
    """
    heads, dim, kv_heads, v_dim = q.shape[2], q.shape[3], k.shape[2], v.shape[-1]
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    pairs, counts, ends = listed
    chunks = min(parts.shape[2] // chunk, counts.shape[0] - first_chunk)
    _far[(counts.shape[2], counts.shape[1], chunks)](
        q, k, v, pairs, counts, ends, parts, lse,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        q.shape[1], first_chunk, parts.shape[2], dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, V_DIM=v_dim,
        SELECT_LEN=geometry.select_len, NUM_SELECT=parts.shape[3], CHUNK=chunk,
        TOKENS=max(1, tile.rows // group_pad), GROUP_PAD=group_pad, DIM_PAD=padded(dim), V_DIM_PAD=padded(v_dim), KEYS=tile.keys,
        STAGES=tile.stages, PRECISION=precision(q), num_warps=tile.warps, maxnreg=tile.registers,
    )  # fmt: skip
