"""Attention over a band of keys: a query at t sees the keys [first(t), last(t)), as in the sliding and the compressed branch.

The query heads of a group share their keys, so TOKENS neighbouring queries of a group's heads are the rows of one tile: 4 tokens
of 16 heads are 64 rows, what one warp group of Hopper multiplies, and every key and value that is loaded serves all of them. The
tile looks at the keys that any of its rows sees, KEYS at a time, with the softmax done online:

    whole |---- masked ----|-------- every row sees all --------|---- masked ----|
          first(t0)        first(t0 + TOKENS - 1)               last(t0)         last(t0 + TOKENS - 1)

Only the steps at both ends compare positions. The sliding branch has first(t) = t - w + 1 and last(t) = t + 1; the compressed one
begins at 0 and ends at num_cmp(t) = (t + 1 - l) // d + 1, which is what `last_key` and `stride` say: key j can be seen from
position j * stride + last_key on, which is 0 and 1 without pooling. Programs for late tokens have the most keys and start first.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.kernels.rows import rows_of
from workloads.nsa.kernels.tiles import LOG2_E, Tile, attention_tile, padded, precision, room


@triton.jit
def _step(
    queries, top, total, sums, start, end, first, last, k, v, k_token, v_token, scale_log2,
    DIM: tl.constexpr, V_DIM: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM_PAD: tl.constexpr, KEYS: tl.constexpr,
    MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One step of the online softmax over the keys [start, start + KEYS); `first` and `last` [rows] bound what each row sees."""
    key, dim, v_dim = start + tl.arange(0, KEYS), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    at_k = k + key[:, None].to(tl.int64) * k_token + dim[None, :]
    at_v = v + key[:, None].to(tl.int64) * v_token + v_dim[None, :]
    if MASKED:
        keys = tl.load(at_k, mask=(key[:, None] >= 0) & (key[:, None] < end) & (dim[None, :] < DIM), other=0.0)
        values = tl.load(at_v, mask=(key[:, None] >= 0) & (key[:, None] < end) & (v_dim[None, :] < V_DIM), other=0.0)
    else:
        keys = tl.load(at_k) if DIM == DIM_PAD else tl.load(at_k, mask=dim[None, :] < DIM, other=0.0)
        values = tl.load(at_v) if V_DIM == V_DIM_PAD else tl.load(at_v, mask=v_dim[None, :] < V_DIM, other=0.0)
    products = tl.dot(queries, tl.trans(keys), input_precision=PRECISION)
    if MASKED:
        seen = (key[None, :] >= first[:, None]) & (key[None, :] < last[:, None])
        products = tl.where(seen, products, float("-inf"))
    new_top = tl.maximum(top, tl.max(products, 1) * scale_log2)
    safe_top = tl.where(new_top == float("-inf"), 0.0, new_top) if MASKED else new_top
    weights = tl.exp2(products * scale_log2 - safe_top[:, None])
    shrink = tl.exp2(top - safe_top)
    total = total * shrink + tl.sum(weights, 1)
    sums = tl.dot(weights.to(values.dtype), values, sums * shrink[:, None], input_precision=PRECISION)
    return new_top, total, sums


@triton.jit
def _band(
    q, k, v, output, lse,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    seq_len, num_keys, last_key, stride, window, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    TOKENS: tl.constexpr, GROUP_PAD: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM_PAD: tl.constexpr, KEYS: tl.constexpr,
    WINDOWED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attention of TOKENS queries of one KV head's group over their band."""
    first_token = (tl.num_programs(0) - 1 - tl.program_id(0)) * TOKENS
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = (tl.program_id(1) % KV_HEADS).to(tl.int64)
    token, _, head, real, queries = rows_of(
        q, q_batch, q_token, q_head, batch, kv_head, first_token, seq_len, GROUP, GROUP_PAD, TOKENS, DIM, DIM_PAD
    )
    v_dim = tl.arange(0, V_DIM_PAD)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head

    last_token = tl.minimum(first_token + TOKENS, seq_len) - 1
    last = tl.where(token >= last_key, tl.minimum((token - last_key) // stride + 1, num_keys), 0)
    least_last = tl.where(first_token >= last_key, tl.minimum((first_token - last_key) // stride + 1, num_keys), 0)
    most_last = tl.where(last_token >= last_key, tl.minimum((last_token - last_key) // stride + 1, num_keys), 0)
    first = tl.zeros_like(token)
    top = tl.full([TOKENS * GROUP_PAD], float("-inf"), dtype=tl.float32)
    total = tl.zeros([TOKENS * GROUP_PAD], dtype=tl.float32)
    sums = tl.zeros([TOKENS * GROUP_PAD, V_DIM_PAD], dtype=tl.float32)
    start = 0
    if WINDOWED:
        first = tl.maximum(token - window + 1, 0)
        start = tl.maximum(first_token - window + 1, 0) // KEYS * KEYS
        all_from = tl.minimum(tl.cdiv(tl.maximum(last_token - window + 1, 0), KEYS) * KEYS, tl.cdiv(most_last, KEYS) * KEYS)
        for at in range(start, all_from, KEYS):
            top, total, sums = _step(
                queries, top, total, sums, at, most_last, first, last, k, v, k_token, v_token, scale_log2,
                DIM, V_DIM, DIM_PAD, V_DIM_PAD, KEYS, True, PRECISION,
            )  # fmt: skip
        start = all_from
    all_to = tl.maximum(least_last // KEYS * KEYS, start)
    for at in range(start, all_to, KEYS):
        top, total, sums = _step(
            queries, top, total, sums, at, most_last, first, last, k, v, k_token, v_token, scale_log2,
            DIM, V_DIM, DIM_PAD, V_DIM_PAD, KEYS, False, PRECISION,
        )  # fmt: skip
    for at in range(all_to, most_last, KEYS):
        top, total, sums = _step(
            queries, top, total, sums, at, most_last, first, last, k, v, k_token, v_token, scale_log2,
            DIM, V_DIM, DIM_PAD, V_DIM_PAD, KEYS, True, PRECISION,
        )  # fmt: skip

    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    where = (batch * seq_len + token) * KV_HEADS * GROUP + head
    at_output = output + where[:, None] * V_DIM + v_dim[None, :]
    tl.store(at_output, result.to(output.dtype.element_ty), mask=real[:, None] & (v_dim[None, :] < V_DIM))
    found = tl.where(total > 0, (top + tl.log2(tl.where(total > 0, total, 1.0))) * 0.6931471805599453, float("inf"))
    tl.store(lse + where, found, mask=real)


def band(
    q: Tensor, k: Tensor, v: Tensor, *, window: int = 0, last_key: int = 0, stride: int = 1, tile: Tile | None = None
) -> tuple[Tensor, Tensor]:
    """Return the output [B, S, Hq, Dv] and the natural log-sum-exp [B, Hq, S]; zeros and +inf for a query that sees no key.

    q [B, S, Hq, Dk] at positions 0..S - 1; k [B, N, Hkv, Dk], v [B, N, Hkv, Dv]. Key j is seen from position
    `j * stride + last_key` on and, with a `window`, by that many queries.
    """
    batch, seq_len, heads, dim = q.shape
    kv_heads, v_dim = k.shape[2], v.shape[-1]
    group = heads // kv_heads
    dim_pad, v_dim_pad, group_pad = padded(dim), padded(v_dim), triton.next_power_of_2(group)
    tile = tile or attention_tile(dim_pad, v_dim_pad, q.element_size(), room(q.device))
    tokens = max(1, tile.rows // group_pad)
    output = torch.empty(batch, seq_len, heads, v_dim, dtype=q.dtype, device=q.device)
    lse = torch.empty(batch, seq_len, heads, dtype=torch.float32, device=q.device)
    _band[(triton.cdiv(seq_len, tokens), batch * kv_heads)](
        q, k, v, output, lse,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        seq_len, k.shape[1], last_key, stride, window, dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, V_DIM=v_dim,
        TOKENS=tokens, GROUP_PAD=group_pad, DIM_PAD=dim_pad, V_DIM_PAD=v_dim_pad, KEYS=tile.keys,
        WINDOWED=bool(window), PRECISION=precision(q), num_warps=tile.warps, num_stages=tile.stages, maxnreg=tile.registers,
    )  # fmt: skip
    return output, lse.transpose(1, 2)
