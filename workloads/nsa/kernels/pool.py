"""Pooled keys and values in one launch: compressed token j is the mean of the tokens [j d, j d + l), summed in float32.

Neighbouring compressed tokens share l - d tokens, which the second one finds in the cache, so that memory is read once. Done with
PyTorch's operators it is four kernels each for keys and values, and launching those takes longer than the work of a short prompt.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry

POOLED = 8
"""Compressed tokens of a program."""


@triton.jit
def _pool(
    k, v, pooled_k, pooled_v, k_batch, k_token, k_head, v_batch, v_token, v_head, count,
    KV_HEADS: tl.constexpr, DIM: tl.constexpr, V_DIM: tl.constexpr, BLOCK_LEN: tl.constexpr, STRIDE: tl.constexpr,
    WIDTH: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """ROWS compressed tokens of one KV head: of the keys, or of the values in the second half of the grid's last index."""
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    batch = (tl.program_id(1) // KV_HEADS).to(tl.int64)
    kv_head = (tl.program_id(1) % KV_HEADS).to(tl.int64)
    of_values = tl.program_id(2)
    dim = tl.arange(0, WIDTH)
    if of_values == 0:
        x, out, token_stride, width = k + batch * k_batch + kv_head * k_head, pooled_k, k_token, DIM
    else:
        x, out, token_stride, width = v + batch * v_batch + kv_head * v_head, pooled_v, v_token, V_DIM
    there = (index[:, None] < count) & (dim[None, :] < width)
    first = x + (index[:, None] * STRIDE).to(tl.int64) * token_stride + dim[None, :]
    total = tl.zeros([ROWS, WIDTH], dtype=tl.float32)
    for token in range(BLOCK_LEN):
        total += tl.load(first + token * token_stride, mask=there, other=0.0).to(tl.float32)
    at = ((batch * count + index[:, None]) * KV_HEADS + kv_head) * width + dim[None, :]
    tl.store(out + at, (total / BLOCK_LEN).to(out.dtype.element_ty), mask=there)


def pool(k: Tensor, v: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Return the means of keys [B, S, Hkv, Dk] and values [B, S, Hkv, Dv] for every complete j: [B, C, Hkv, ...]."""
    batch, seq_len, kv_heads, dim = k.shape
    v_dim, count = v.shape[-1], geometry.num_compressed(seq_len)
    pooled_k = torch.empty(batch, count, kv_heads, dim, dtype=k.dtype, device=k.device)
    pooled_v = torch.empty(batch, count, kv_heads, v_dim, dtype=v.dtype, device=v.device)
    if count:
        _pool[(triton.cdiv(count, POOLED), batch * kv_heads, 2)](
            k, v, pooled_k, pooled_v,
            k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2), count,
            KV_HEADS=kv_heads, DIM=dim, V_DIM=v_dim, BLOCK_LEN=geometry.block_len, STRIDE=geometry.stride,
            WIDTH=triton.next_power_of_2(max(dim, v_dim)), ROWS=POOLED, num_warps=4,
        )  # fmt: skip
    return pooled_k, pooled_v
