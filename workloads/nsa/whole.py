"""All of NSA for a prompt: pool, score, choose, three branches and the gate. Each returns the output and the chosen blocks."""

import torch
from torch import Tensor

from runner.worker.workload import Unsupported
from workloads.nsa import combine, compressed, selected, selection, sliding
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
    """fla-core's pooling, compressed branch, choice and selected branch; the window, which it leaves to flash-attn, in FA-2.

    It pools blocks of the selected length without overlap, so it can do l = d = l' alone.
    """
    selected.check_fla(q, k)
    fa.check(q, k)
    if not geometry.block_len == geometry.stride == geometry.select_len:
        raise Unsupported("fla-core pools blocks that do not overlap: it needs block_len = stride = select_len")
    from fla.ops.nsa.compression import parallel_nsa_compression
    from fla.ops.nsa.parallel import parallel_nsa_topk
    from fla.ops.utils.pooling import mean_pooling

    scale, length = q.shape[-1] ** -0.5, geometry.select_len
    pooled_k, pooled_v = mean_pooling(k, length), mean_pooling(v, length)
    of_compressed, lse = parallel_nsa_compression(
        q=q, k=pooled_k, v=pooled_v, TK=k.shape[1], block_size=length, scale=scale, cu_seqlens=None
    )
    with torch.no_grad():
        blocks = parallel_nsa_topk(
            q=q, k=pooled_k, lse=lse, TK=k.shape[1], block_counts=geometry.num_select, block_size=length, scale=scale
        )
    of_selected = selected.fla(q, k, v, blocks, geometry)
    return combine.gated_sum(gates, of_compressed, of_selected, sliding.flash(q, k, v, geometry)), blocks.transpose(1, 2)
