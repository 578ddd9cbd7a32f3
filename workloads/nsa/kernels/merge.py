"""The end of the selected branch: attention over the forced blocks, then the far blocks' parts weighed by their log-sum-exp.

TOKENS neighbouring queries of a group's heads are the rows of a tile. They share the first block and the one or two blocks around
their own, which are read once for all and masked by position, and by whether the query chose them. What `far` has left for the
other blocks is read once: with M the largest of all log-sum-exps, each part counts exp(lse - M) times. Given gates and the two
other branches, the gated sum is formed in the same registers, which saves writing and reading the selected branch.
"""

import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.rows import rows_of
from workloads.nsa.kernels.tiles import LOG2_E, Tile, padded, precision


@triton.jit
def _merge(
    q, k, v, blocks, parts, lse, output, gates, compressed, sliding,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    seq_len, first, num_tokens, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, SLOTS: tl.constexpr,
    TOKENS: tl.constexpr, GROUP_PAD: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM_PAD: tl.constexpr, KEYS: tl.constexpr,
    GATED: tl.constexpr, UNROLL: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The selected branch, or with gates the whole, of TOKENS queries of one KV head's group."""
    batch_head = tl.program_id(1)
    batch = (batch_head // KV_HEADS).to(tl.int64)
    kv_head = (batch_head % KV_HEADS).to(tl.int64)
    first_token = first + tl.program_id(0) * TOKENS
    last_token = tl.minimum(first_token + TOKENS, seq_len) - 1
    token, member, head, real, queries = rows_of(
        q, q_batch, q_token, q_head, batch, kv_head, first_token, seq_len, GROUP, GROUP_PAD, TOKENS, DIM, DIM_PAD
    )
    own = token // SELECT_LEN
    dim, v_dim = tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    chosen = blocks + (batch_head.to(tl.int64) * seq_len + token) * NUM_SELECT
    pair = (batch_head.to(tl.int64) * num_tokens + token - first) * NUM_SELECT

    slot = tl.arange(0, SLOTS)[None, :]
    block = tl.load(chosen[:, None] + slot, mask=real[:, None] & (slot < NUM_SELECT), other=-1)
    has_first, has_before = tl.max((block == 0).to(tl.int32), 1), tl.max((block == own[:, None] - 1).to(tl.int32), 1)
    has_own = tl.max((block == own[:, None]).to(tl.int32), 1)
    is_far = (block > 0) & (block < own[:, None] - 1)
    most = tl.max(tl.load(lse + (pair[:, None] + slot) * GROUP + member[:, None], mask=is_far, other=float("-inf")), 1)

    # the loop over parts comes first: what it sums has the layout of its loads, and is brought to the products' layout once
    base = tl.where(most == float("-inf"), 0.0, most)
    total = tl.zeros([TOKENS * GROUP_PAD], dtype=tl.float32)
    sums = tl.zeros([TOKENS * GROUP_PAD, V_DIM_PAD], dtype=tl.float32)
    for index in tl.range(NUM_SELECT, num_stages=1, loop_unroll_factor=UNROLL):
        block_of = tl.load(chosen + index, mask=real, other=-1)
        far_of = (block_of > 0) & (block_of < own - 1)
        where = (pair + index) * GROUP + member
        at_part = parts + where[:, None] * V_DIM + v_dim[None, :]
        part = tl.load(at_part, mask=far_of[:, None] & (v_dim[None, :] < V_DIM), other=0.0, eviction_policy="evict_first")
        weight = tl.exp2(tl.load(lse + where, mask=far_of, other=float("-inf")) - base)
        total += weight
        sums += part.to(tl.float32) * weight[:, None]

    top = most
    near_from = tl.maximum(first_token // SELECT_LEN - 1, 0) * SELECT_LEN
    of_first = tl.where(near_from > 0, (SELECT_LEN + KEYS - 1) // KEYS, 0)
    for step in range(of_first + (last_token - near_from) // KEYS + 1):
        start = tl.where(step < of_first, step * KEYS, near_from + (step - of_first) * KEYS)
        end = tl.where(step < of_first, SELECT_LEN, last_token + 1)
        key = start + tl.arange(0, KEYS)
        there = key < end
        at_k = k + key[:, None].to(tl.int64) * k_token + dim[None, :]
        at_v = v + key[:, None].to(tl.int64) * v_token + v_dim[None, :]
        keys = tl.load(at_k, mask=there[:, None] & (dim[None, :] < DIM), other=0.0)
        values = tl.load(at_v, mask=there[:, None] & (v_dim[None, :] < V_DIM), other=0.0)
        products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale_log2
        of = key[None, :] // SELECT_LEN
        is_own = (of == own[:, None]) & (has_own[:, None] > 0)
        is_before = (of == own[:, None] - 1) & (has_before[:, None] > 0)
        is_first = (of == 0) & (has_first[:, None] > 0)
        seen = there[None, :] & (key[None, :] <= token[:, None]) & (is_own | is_before | is_first)
        products = tl.where(seen, products, float("-inf"))
        new_top = tl.maximum(top, tl.max(products, 1))
        safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
        weights = tl.exp2(products - safe_top[:, None])
        shrink = tl.exp2(top - safe_top)
        total = total * shrink + tl.sum(weights, 1)
        sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION)
        top = new_top

    result = sums * (1.0 / tl.where(total > 0, total, 1.0))[:, None]
    where = (batch * seq_len + token) * KV_HEADS * GROUP + head
    at_output = where[:, None] * V_DIM + v_dim[None, :]
    there = real[:, None] & (v_dim[None, :] < V_DIM)
    if GATED:
        result *= tl.load(gates + where * 3 + 1, mask=real, other=0.0).to(tl.float32)[:, None]
        of_compressed = tl.load(compressed + at_output, mask=there, other=0.0).to(tl.float32)
        result += of_compressed * tl.load(gates + where * 3, mask=real, other=0.0).to(tl.float32)[:, None]
        of_sliding = tl.load(sliding + at_output, mask=there, other=0.0).to(tl.float32)
        result += of_sliding * tl.load(gates + where * 3 + 2, mask=real, other=0.0).to(tl.float32)[:, None]
    tl.store(output + at_output, result.to(output.dtype.element_ty), mask=there)


def merge(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, parts: Tensor, lse: Tensor, output: Tensor,
    gated: tuple[Tensor, Tensor, Tensor] | None, geometry: Geometry, first: int, tile: Tile,
) -> None:  # fmt: skip
    """Write the output [B, S, Hq, Dv] of the queries from `first` on that `parts` has room for.

    `blocks` [B, Hkv, S, n] of queries at 0..S - 1; `gated` holds gates [B, S, Hq, 3], the compressed and the sliding branch
    [B, S, Hq, Dv]; all of these are contiguous. `parts` and `lse` as `far` leaves them.
    """
    seq_len, heads, dim, kv_heads, v_dim = q.shape[1], q.shape[2], q.shape[3], k.shape[2], v.shape[-1]
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    tokens = max(1, tile.rows // group_pad)
    many = min(parts.shape[2], seq_len - first)
    _merge[(triton.cdiv(many, tokens), q.shape[0] * kv_heads)](
        q, k, v, blocks, parts, lse, output, *(gated or (output, output, output)),
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        seq_len, first, parts.shape[2], dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, V_DIM=v_dim,
        SELECT_LEN=geometry.select_len, NUM_SELECT=blocks.shape[-1], SLOTS=triton.next_power_of_2(blocks.shape[-1]),
        TOKENS=tokens, GROUP_PAD=group_pad, DIM_PAD=padded(dim), V_DIM_PAD=padded(v_dim), KEYS=tile.keys,
        num_warps=tile.warps, num_stages=1, maxnreg=tile.registers,
        GATED=gated is not None, UNROLL=tile.stages, PRECISION=precision(q),
    )  # fmt: skip
