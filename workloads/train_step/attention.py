"""The attentions that a block can be trained with: each a factory that does once what need not be done in every step.

The kernels are those of workloads/nsa, where each is measured by itself.
"""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from runner.worker.workload import Unsupported
from workloads.nsa import compressed, sdpa, sliding, whole
from workloads.nsa import flex as fx
from workloads.train_step.block import Attend
from workloads.train_step.shape import DTYPES, Shape


def flash(shape: Shape, device: torch.device) -> Attend:
    """FlashAttention-2 as PyTorch ships it; on a CPU, its kernel of that name."""
    return lambda q, k, v, _: (sdpa.attention(q, k, v, causal=True, backend=SDPBackend.FLASH_ATTENTION), None)


def cudnn(shape: Shape, device: torch.device) -> Attend:
    """The attention of cuDNN."""
    return lambda q, k, v, _: (sdpa.attention(q, k, v, causal=True, backend=SDPBackend.CUDNN_ATTENTION), None)


def masked(shape: Shape, device: torch.device) -> Attend:
    """PyTorch's kernels that take a written-out mask; KV heads are repeated, as only then the fused one does."""
    visible = torch.ones(shape.seq_len, shape.seq_len, dtype=torch.bool, device=device).tril()

    def attend(q: Tensor, k: Tensor, v: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
        with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]):
            return sdpa.attention(q, k, v, visible=visible), None

    return attend


def flex(shape: Shape, device: torch.device) -> Attend:
    """FlexAttention, compiled, with a causal block mask."""
    fx.check(torch.empty(0, device=device, requires_grad=True))
    mask = fx.block_mask(lambda b, h, i, j: i >= j, shape.seq_len, shape.seq_len, device)
    return lambda q, k, v, _: (fx.attention(q, k, v, mask), None)


def nsa(shape: Shape, device: torch.device) -> Attend:
    """Native Sparse Attention: the fastest form that this software has a backward for, or with all masks written out."""
    geometry = shape.geometry
    if shape.seq_len < geometry.block_len:
        raise Unsupported(f"sparse attention needs at least block_len={geometry.block_len} tokens, not {shape.seq_len}")
    at = torch.arange(shape.seq_len, device=device, dtype=torch.int32).expand(shape.batch, -1).contiguous()
    like = torch.empty(1, 1, 1, shape.head_dim, dtype=DTYPES[shape.dtype], device=device)
    masks = []
    if not whole.can_be_fast(like, like):
        masks = [sliding.mask(shape.seq_len, geometry, device), compressed.mask(shape.seq_len, geometry, device)]

    def attend(q: Tensor, k: Tensor, v: Tensor, gates: Tensor | None) -> tuple[Tensor, Tensor]:
        assert gates is not None
        return whole.fastest(q, k, v, gates, at, geometry, *masks)

    return attend
