"""All of NSA for a prompt: pool, score, choose, three branches and the gate. Each returns the output and the chosen blocks."""

import torch
from torch import Tensor

from runner.worker.compilers import check_triton
from runner.worker.workload import Unsupported
from workloads.nsa import combine, compressed, peer, selected, selection, sliding
from workloads.nsa import flash as fa
from workloads.nsa.geometry import Geometry

Found = tuple[Tensor, Tensor]


def masked(
    q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry, window: Tensor, visible: Tensor
) -> Found:
    """PyTorch's operators alone, with the masks written out: runs everywhere."""
    with torch.no_grad():
        blocks = selection.torch_choice(q, compressed.pool(k, geometry), at, geometry)
    of_compressed = compressed.masked(q, k, v, visible, geometry)
    of_selected = selected.gather(q, k, v, blocks, at, geometry)
    return combine.gated_sum(gates, of_compressed, of_selected, sliding.masked(q, k, v, window)), blocks


def can_be_fast(q: Tensor, k: Tensor) -> bool:
    """Whether `triton` can run in 16 bits, or, where gradients are wanted, `fused`: it needs FlashAttention-2 too."""
    try:
        check_triton(q.device)
        if q.requires_grad:
            fa.check(q, k)
    except Unsupported:
        return False
    return q.dtype in (torch.float16, torch.bfloat16) and q.shape[-1] <= fa.MAX_HEAD_DIM


def triton(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry) -> Found:
    """The Triton kernels of this project for everything; forward only.

    The log-sum-exp of the compressed branch serves the scores. Where the selected branch goes block by block, its last kernel
    forms the gated sum as well.
    """
    check_triton(q.device)
    from workloads.nsa import kernels

    pooled_k, pooled_v = kernels.pool(k, v, geometry)
    of_compressed, lse = compressed.triton_pooled(q, pooled_k, pooled_v, geometry)
    blocks = selection.triton_choice(q, pooled_k, lse, at, geometry)
    of_sliding = sliding.triton(q, k, v, geometry)
    if kernels.pays(q, k, v, geometry):
        return kernels.by_block(q, k, v, blocks, geometry, (gates, of_compressed, of_sliding)), blocks
    of_selected = kernels.selected(q, k, v, blocks, at, geometry)
    return kernels.gate(gates, of_compressed, of_selected, of_sliding), blocks


def fused(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry) -> Found:
    """What training uses: FlashAttention-2 for the compressed and the sliding branch, Triton for the choice.

    The log-sum-exp of the compressed branch serves the scores. Where gradients are wanted the selected branch is fla-core's, if
    it can, else gathered.
    """
    pooled = compressed.pool(k, geometry)
    of_compressed, lse = compressed.flash_pooled(q, pooled, compressed.pool(v, geometry), geometry)
    with torch.no_grad():
        blocks = selection.triton_choice(q, pooled, lse, at, geometry)
    of_selected = selected.fastest(q, k, v, blocks, at, geometry)
    return combine.gated_sum(gates, of_compressed, of_selected, sliding.flash(q, k, v, geometry)), blocks


def fastest(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry, *masks: Tensor) -> Found:
    """The best that this software has: `triton`, where gradients are wanted `fused`; given masks, `masked`."""
    if masks:
        return masked(q, k, v, gates, at, geometry, *masks)
    return fused(q, k, v, gates, at, geometry) if q.requires_grad else triton(q, k, v, gates, at, geometry)


def fla(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry) -> Found:
    """fla-core's branches, with the window, which it leaves to flash-attn, in FA-2."""
    peer.check(q, k, geometry)
    fa.check(q, k)
    of_compressed, of_selected, blocks = peer.branches(q, k, v, geometry)
    return combine.gated_sum(gates, of_compressed, of_selected, sliding.flash(q, k, v, geometry)), blocks.transpose(1, 2)
