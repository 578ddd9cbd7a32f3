"""One decode step on a cache: each stage by itself, and the whole. Queries are [B, 1, Hq, Dk], outputs [B, 1, Hq, Dv]."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from runner.worker.compilers import check_triton
from runner.worker.workload import Unsupported
from workloads.nsa import combine as gate
from workloads.nsa import peer, sdpa, selected, selection
from workloads.nsa.cache import Cache, View
from workloads.nsa.geometry import Geometry


def attend(q: Tensor, view: View) -> Tensor:
    """Attention over what a branch reads."""
    if view.k.shape[1] == 0:
        return q.new_zeros(*q.shape[:3], view.v.shape[-1])
    return sdpa.flash_if_possible(q, view.k, view.v, view.visible)


def dense(q: Tensor, cache: Cache) -> Tensor:
    """Attention over the whole cache."""
    return attend(q, cache.everything())


def dense_cudnn(q: Tensor, cache: Cache) -> Tensor:
    """The same by cuDNN."""
    view = cache.everything()
    return sdpa.attention(q, view.k, view.v, visible=view.visible, backend=SDPBackend.CUDNN_ATTENTION)


def compressed(q: Tensor, cache: Cache) -> Tensor:
    """Attention over the compressed tokens that are in the cache."""
    return attend(q, cache.compressed())


def sliding(q: Tensor, cache: Cache) -> Tensor:
    """Attention over the last w tokens."""
    return attend(q, cache.window())


def choose(q: Tensor, cache: Cache, at: Tensor) -> Tensor:
    """Score the blocks and return the best n, [B, Hkv, 1, n] int32; `at` [B, 1] int32 are the queries' positions."""
    geometry = cache.geometry
    scores = selection.scores(q, cache.pooled_k, at, geometry.num_blocks(max(cache.lengths)), geometry)
    return selection.choose(scores, at, geometry)


def read_selected(q: Tensor, cache: Cache, blocks: Tensor, at: Tensor) -> Tensor:
    """Attention over the chosen blocks."""
    return selected.fastest(q, cache.k, cache.v, blocks, at, cache.geometry)


def whole(q: Tensor, gates: Tensor, cache: Cache, at: Tensor) -> tuple[Tensor, Tensor]:
    """Emit the compressed token that is due, choose blocks, read all three branches, combine; returns output and blocks.

    The new token's own key and value are in the cache already, as they are for dense attention.
    """
    cache.emit()
    blocks = choose(q, cache, at)
    output = gate.gated_sum(gates, compressed(q, cache), read_selected(q, cache, blocks, at), sliding(q, cache))
    return output, blocks


def whole_triton(q: Tensor, gates: Tensor, cache: Cache, at: Tensor, workspace: Any) -> tuple[Tensor, Tensor]:
    """The same in four Triton kernels that meet in `workspace` (kernels/decode_plan.py); lengths are read on the device only."""
    from workloads.nsa.kernels.decode_attend import decode_attend
    from workloads.nsa.kernels.decode_choose import decode_choose
    from workloads.nsa.kernels.decode_compressed import decode_compressed
    from workloads.nsa.kernels.decode_sum import decode_sum

    geometry, kv_heads = cache.geometry, cache.k.shape[2]
    decode_compressed(q, cache.k, cache.v, cache.pooled_k, cache.pooled_v, cache.ends, workspace, geometry)
    blocks = decode_choose(cache.ends, workspace, kv_heads, q.shape[2] // kv_heads, geometry)
    decode_attend(q, cache.k, cache.v, cache.ends, blocks, workspace, geometry)
    return decode_sum(gates, workspace, kv_heads, q), blocks


def workspace_for(q: Tensor, cache: Cache) -> Any:
    """Return the workspace of steps on this cache; raises Unsupported where the Triton kernels can't run."""
    check_triton(q.device)
    from workloads.nsa.kernels.decode_plan import Workspace

    return Workspace.of(q, cache.k, cache.v, cache.geometry)


def whole_fla(q: Tensor, gates: Tensor, cache: Cache, at: Tensor, ends: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """fla-core's step, with the window by PyTorch: it keeps no compressed tokens, so it pools the whole cache every time.

    `ends` are the cumulative lengths of queries and keys, [B + 1] each.
    """
    k, v = cache.k.flatten(0, 1)[None], cache.v.flatten(0, 1)[None]
    of_compressed, of_selected, blocks = peer.branches(q.transpose(0, 1), k, v, cache.geometry, ends)
    output = gate.gated_sum(gates, of_compressed.transpose(0, 1), of_selected.transpose(0, 1), sliding(q, cache))
    return output, blocks.transpose(0, 1).transpose(1, 2)


def check_fla(q: Tensor, cache: Cache) -> None:
    """Raise Unsupported where fla-core can't do the step."""
    peer.check(q, cache.k, cache.geometry)
    if not cache.is_even:
        raise Unsupported("fla-core's step is set up for sequences of one length here")


def keys_read(blocks: Tensor, at: Tensor, geometry: Geometry) -> int:
    """Count the keys in the union of the chosen blocks' ranges within [0, t], per KV head, over all sequences.

    Raises ValueError when KV heads differ in how many they read, which equally many blocks never do.
    """
    within = torch.arange(geometry.select_len, device=blocks.device)
    keys = (blocks.long()[..., None] * geometry.select_len + within).flatten(-2)
    valid = (blocks >= 0).repeat_interleave(geometry.select_len, -1) & (keys <= at[:, None, :, None])
    ordered = keys.masked_fill(~valid, -1).sort(-1).values
    fresh = (ordered >= 0) & (ordered.diff(dim=-1, prepend=torch.full_like(ordered[..., :1], -1)) != 0)
    per_head = fresh.sum((-1, -2))
    if (per_head != per_head[:, :1]).any():
        raise ValueError(f"KV heads read different numbers of keys: {per_head.tolist()}")
    return int(per_head[:, 0].sum())
