"""Attention of every query over its own chosen blocks: one program for one query of one KV head.

The heads of a group are the rows, padded to the 16 that a tensor core wants. Every program reads n l' keys and values, most
of them from L2, which is what bounds it: neighbouring queries choose different blocks, so programs share nothing.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.tiles import LOG2_E, MIN_ROWS, precision


@triton.jit
def _selected(
    q, k, v, blocks, positions, output,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head,
    seq_len, key_len, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr,
    GROUP_PAD: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM_PAD: tl.constexpr, KEYS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Online-softmax attention of one query's group over its chosen blocks, KEYS keys at a time."""
    token = tl.program_id(0).to(tl.int64)
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = tl.program_id(1) % KV_HEADS
    position = tl.load(positions + batch * seq_len + token)
    member, dim, v_dim = tl.arange(0, GROUP_PAD), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    head = kv_head * GROUP + member
    real = member < GROUP
    where = batch * q_batch + token * q_token + head[:, None] * q_head + dim[None, :]
    queries = tl.load(q + where, mask=real[:, None] & (dim[None, :] < DIM), other=0.0)
    top = tl.full([GROUP_PAD], float("-inf"), dtype=tl.float32)
    total = tl.zeros([GROUP_PAD], dtype=tl.float32)
    sums = tl.zeros([GROUP_PAD, V_DIM_PAD], dtype=tl.float32)
    chosen = blocks + ((batch * KV_HEADS + kv_head) * seq_len + token) * NUM_SELECT
    for index in range(NUM_SELECT):
        block = tl.load(chosen + index).to(tl.int64)
        if block >= 0:
            for start in range(0, SELECT_LEN, KEYS):
                within = start + tl.arange(0, KEYS)
                key = block * SELECT_LEN + within
                seen = (within < SELECT_LEN) & (key <= position) & (key < key_len)
                at_k = k + batch * k_batch + key[None, :] * k_token + kv_head * k_head + dim[:, None]
                keys = tl.load(at_k, mask=seen[None, :] & (dim[:, None] < DIM), other=0.0)
                products = tl.dot(queries, keys, input_precision=PRECISION) * scale_log2
                products = tl.where(seen[None, :], products, float("-inf"))
                new_top = tl.maximum(top, tl.max(products, 1))
                safe_top = tl.where(new_top == float("-inf"), 0.0, new_top)
                weights = tl.exp2(products - safe_top[:, None])
                shrink = tl.exp2(top - safe_top)
                total = total * shrink + tl.sum(weights, 1)
                at_v = v + batch * v_batch + key[:, None] * v_token + kv_head * v_head + v_dim[None, :]
                values = tl.load(at_v, mask=seen[:, None] & (v_dim[None, :] < V_DIM), other=0.0)
                sums = sums * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
                top = new_top
    result = sums / tl.where(total > 0, total, 1.0)[:, None]
    out = ((batch * seq_len + token) * KV_HEADS * GROUP + head[:, None]) * V_DIM + v_dim[None, :]
    tl.store(output + out, result.to(output.dtype.element_ty), mask=real[:, None] & (v_dim[None, :] < V_DIM))


def selected(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, positions: Tensor, geometry: Geometry) -> Tensor:
    """Return attention over the chosen blocks, [B, S, Hq, Dv]; q [B, S, Hq, Dk] at `positions` [B, S] int32.

    `blocks` [B, Hkv, S, n] are indices, -1 for none.
    """
    batch, seq_len, heads, dim = q.shape
    kv_heads, v_dim = k.shape[2], v.shape[-1]
    group = heads // kv_heads
    output = torch.empty(batch, seq_len, heads, v_dim, dtype=q.dtype, device=q.device)
    keys = min(64, max(MIN_ROWS, triton.next_power_of_2(geometry.select_len)))
    _selected[(seq_len, batch * kv_heads)](
        q, k, v, blocks, positions, output,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        seq_len, k.shape[1], dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, DIM=dim, V_DIM=v_dim,
        SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select,
        GROUP_PAD=max(MIN_ROWS, triton.next_power_of_2(group)), DIM_PAD=max(MIN_ROWS, triton.next_power_of_2(dim)),
        V_DIM_PAD=max(MIN_ROWS, triton.next_power_of_2(v_dim)), KEYS=keys, PRECISION=precision(q),
        num_warps=2 if max(dim, v_dim) <= 128 else 4,
    )  # fmt: skip
    return output
