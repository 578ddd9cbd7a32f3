"""fla-core's NSA but for the window: its pooling, compressed branch, choice and selected branch, for prompts and steps alike."""

import torch
from torch import Tensor

from runner.worker.workload import Unsupported
from workloads.nsa import selected
from workloads.nsa.geometry import Geometry


def check(q: Tensor, k: Tensor, geometry: Geometry) -> None:
    """Raise Unsupported where fla-core isn't there or has other limits: it pools blocks of the selected length side by side."""
    selected.check_fla(q, k)
    if not geometry.block_len == geometry.stride == geometry.select_len:
        raise Unsupported("fla-core pools blocks that do not overlap: it needs block_len = stride = select_len")


def branches(
    q: Tensor, k: Tensor, v: Tensor, geometry: Geometry, ends: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the compressed branch, the selected branch and the chosen blocks [B, S, Hkv, n].

    q [B, S, Hq, Dk], k [B, N, Hkv, Dk], v [B, N, Hkv, Dv]. With `ends`, the cumulative lengths of queries and keys, several
    sequences stand one behind the other in a batch of one.
    """
    from fla.ops.nsa.compression import parallel_nsa_compression
    from fla.ops.nsa.parallel import ParallelNSAFunction, parallel_nsa_topk
    from fla.ops.utils.pooling import mean_pooling

    length, scale, count = geometry.select_len, q.shape[-1] ** -0.5, geometry.num_select
    pooled_k, pooled_v = (mean_pooling(x, length, ends[1] if ends else None) for x in (k, v))
    shared = {"TK": k.shape[1], "block_size": length, "scale": scale, "cu_seqlens": ends}
    of_compressed, lse = parallel_nsa_compression(q=q, k=pooled_k, v=pooled_v, **shared)
    with torch.no_grad():
        blocks = parallel_nsa_topk(q=q, k=pooled_k, lse=lse, block_counts=count, **shared)
    return of_compressed, ParallelNSAFunction.apply(q, k, v, blocks, count, length, scale, ends), blocks
