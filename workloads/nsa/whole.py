"""All of NSA for a prompt: pool, score, choose, three branches and the gate. Each returns the output and the chosen blocks."""

import torch
from torch import Tensor

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
    """Whether `fused` can run: FlashAttention-2 and Triton are there for this device and dtype."""
    try:
        fa.check(q, k)
        selection.check_triton(q.device)
    except Unsupported:
        return False
    return True


def fused(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry) -> Found:
    """FlashAttention-2 for the compressed and the sliding branch, Triton for the choice and, forward, the selected branch.

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
    """The best that this software has for the device: `fused`; given masks, `masked`."""
    return masked(q, k, v, gates, at, geometry, *masks) if masks else fused(q, k, v, gates, at, geometry)


def fla(q: Tensor, k: Tensor, v: Tensor, gates: Tensor, at: Tensor, geometry: Geometry) -> Found:
    """fla-core's branches, with the window, which it leaves to flash-attn, in FA-2."""
    peer.check(q, k, geometry)
    fa.check(q, k)
    of_compressed, of_selected, blocks = peer.branches(q, k, v, geometry)
    return combine.gated_sum(gates, of_compressed, of_selected, sliding.flash(q, k, v, geometry)), blocks.transpose(1, 2)
