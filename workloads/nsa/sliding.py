"""The sliding-window branch: every query attends to the last w keys."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from runner.worker.compilers import check_triton
from runner.worker.workload import Unsupported
from workloads.nsa import flash as fa
from workloads.nsa import flex as fx
from workloads.nsa import sdpa
from workloads.nsa.geometry import Geometry


def mask(seq_len: int, geometry: Geometry, device: torch.device) -> Tensor:
    """Which keys each query sees, [S, S]: what `masked` holds and nothing else here does."""
    return torch.ones(seq_len, seq_len, dtype=torch.bool, device=device).tril().triu(1 - geometry.window)


def masked(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """PyTorch's attention with the mask written out."""
    return sdpa.attention(q, k, v, visible=visible)


def loop(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> Tensor:
    """One call a query, as a first implementation is written."""
    starts = [max(0, t + 1 - geometry.window) for t in range(q.shape[1])]
    return torch.cat([sdpa.attention(q[:, t : t + 1], k[:, s : t + 1], v[:, s : t + 1]) for t, s in enumerate(starts)], 1)


def block_mask(seq_len: int, geometry: Geometry, device: torch.device) -> BlockMask:
    """The same mask for FlexAttention."""
    window = geometry.window
    return fx.block_mask(lambda b, h, i, j: (i >= j) & (i - j < window), seq_len, seq_len, device)


def flash(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> Tensor:
    """FlashAttention-2 with a window."""
    fa.check(q, k)
    return fa.attention(q, k, fa.pad(v, q.shape[-1]), causal=True, window=geometry.window)[0][..., : v.shape[-1]]


def triton(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> Tensor:
    """The Triton kernel of this project; forward only."""
    check_triton(q.device)
    from workloads.nsa import kernels

    return kernels.band(q, k, v, window=geometry.window)[0]


def flash_attn(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> Tensor:
    """The flash-attn package, where it is installed."""
    try:
        from flash_attn import flash_attn_func
    except ImportError as error:
        raise Unsupported("the package flash-attn isn't installed here") from error
    fa.check(q, k)
    output: Tensor = flash_attn_func(q, k, fa.pad(v, q.shape[-1]), causal=True, window_size=(geometry.window - 1, 0))
    return output[..., : v.shape[-1]]
