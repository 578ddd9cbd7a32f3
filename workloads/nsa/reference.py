"""Native Sparse Attention as the paper writes it (arXiv 2502.11089, section 3), in float64 and without any trick.

Shapes: q [B, Hq, R, Dk] are the queries at positions `t` [B, R] or [1, R]; k [B, Hkv, S, Dk] and v [B, Hkv, S, Dv] all keys and
values. The Hq / Hkv query heads that share a KV head stand next to each other. Results are [B, Hq, R, Dv]. Everything is
differentiable but the choice of blocks.
"""

import math

import torch
from torch import Tensor

from workloads.nsa.geometry import FORCED_LOCAL, Geometry


def attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dk)) v over the keys that are `visible` [B | 1, Hkv | 1, R, N]; zero for a query that sees none."""
    found = weights(q, k, visible)
    output: Tensor = (found.flatten(2, 3) @ v).unflatten(2, found.shape[2:4])
    return output.flatten(1, 2)


def weights(q: Tensor, k: Tensor, visible: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(Dk)) over the visible keys, [B, Hkv, Hq / Hkv, R, N]; zero for a query that sees none."""
    grouped = q.unflatten(1, (k.shape[1], -1))
    scores: Tensor = (grouped.flatten(2, 3) @ k.mT).unflatten(2, grouped.shape[2:4]) / math.sqrt(q.shape[-1])
    if not scores.numel():
        return scores  # there are no keys yet
    scores = scores.masked_fill(~visible.unsqueeze(2), -math.inf)
    top = scores.amax(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)  # finite where nothing is visible
    terms = (scores - top).exp()
    return terms / terms.sum(-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)


def pool(x: Tensor, geometry: Geometry) -> Tensor:
    """Phi of equation 7 as the mean: compressed token j is the mean of keys [j d, j d + l). [B, H, S, D] -> [B, H, C, D]."""
    if x.shape[2] < geometry.block_len:
        return x[:, :, :0]
    return x.unfold(2, geometry.block_len, geometry.stride).mean(-1)


def causal(t: Tensor, seq_len: int) -> Tensor:
    """Keys 0..t, as [B | 1, 1, R, S]."""
    return (torch.arange(seq_len, device=t.device) <= t[..., None])[:, None]


def dense(q: Tensor, k: Tensor, v: Tensor, t: Tensor) -> Tensor:
    """Full causal attention, the baseline."""
    return attend(q, k, v, causal(t, k.shape[2]))


def sliding(q: Tensor, k: Tensor, v: Tensor, t: Tensor, geometry: Geometry) -> Tensor:
    """Attention over the window (t - w, t]."""
    recent = torch.arange(k.shape[2], device=t.device) > t[..., None] - geometry.window
    return attend(q, k, v, causal(t, k.shape[2]) & recent[:, None])


def visible_compressed(t: Tensor, count: int, geometry: Geometry) -> Tensor:
    """The compressed tokens whose keys all are at most t, as [B | 1, 1, R, C]."""
    last_key = torch.arange(count, device=t.device) * geometry.stride + geometry.block_len - 1
    return (last_key <= t[..., None])[:, None]


def compressed(q: Tensor, k: Tensor, v: Tensor, t: Tensor, geometry: Geometry) -> Tensor:
    """Attention over the compressed tokens (equation 7)."""
    k, v = pool(k, geometry), pool(v, geometry)
    return attend(q, k, v, visible_compressed(t, k.shape[2], geometry))


def overlap(num_compressed: int, num_blocks: int, geometry: Geometry, device: torch.device | str = "cpu") -> Tensor:
    """How much of compressed token i lies in selection block j, in strides: [C, blocks], float64.

    This is the double sum of equation 9 with the index (l'/d) j + m - n. As printed, with - m, block j would be scored by tokens
    that end before it; the overlap of the ranges themselves settles the sign.
    """
    start = torch.arange(num_compressed, device=device)[:, None] * geometry.stride
    block = torch.arange(num_blocks, device=device)[None] * geometry.select_len
    shared = torch.minimum(start + geometry.block_len, block + geometry.select_len) - torch.maximum(start, block)
    return shared.clamp(min=0).double() / geometry.stride


def block_scores(q: Tensor, k: Tensor, t: Tensor, geometry: Geometry) -> Tensor:
    """Scores of the selection blocks (equations 8 to 10), summed over the heads of a group: [B, Hkv, R, blocks]."""
    pooled = pool(k, geometry)
    p_cmp = weights(q, pooled, visible_compressed(t, pooled.shape[2], geometry))
    shares = overlap(pooled.shape[2], geometry.num_blocks(k.shape[2]), geometry, q.device).to(p_cmp.dtype)
    return (p_cmp @ shares).sum(2)


def forced(t: Tensor, num_blocks: int, geometry: Geometry) -> Tensor:
    """Blocks that are always selected: the first, the query's own and the one before, [B | 1, 1, R, blocks]."""
    own = t[..., None] // geometry.select_len
    block = torch.arange(num_blocks, device=t.device)
    return (((block == 0) | (block > own - FORCED_LOCAL)) & (block <= own))[:, None]


def choose(scores: Tensor, t: Tensor, geometry: Geometry) -> Tensor:
    """The n blocks with the best scores, forced ones among them, ties to the lower index: [B, Hkv, R, n], ascending, then -1.

    Only blocks that begin at or before t can be chosen; where there are fewer than n, the rest is -1.
    """
    num_blocks = scores.shape[-1]
    must = forced(t, num_blocks, geometry)
    begun = (torch.arange(num_blocks, device=t.device) <= t[..., None] // geometry.select_len)[:, None]
    ranked = scores.masked_fill(must, math.inf).masked_fill(~begun, -math.inf)
    best, index = ranked.sort(dim=-1, descending=True, stable=True)
    width = min(geometry.num_select, num_blocks)
    index = index[..., :width].masked_fill(best[..., :width] == -math.inf, num_blocks).sort(-1).values
    index = torch.nn.functional.pad(index, (0, geometry.num_select - width), value=num_blocks)
    return index.masked_fill(index == num_blocks, -1)


def chosen_keys(blocks: Tensor, t: Tensor, seq_len: int, geometry: Geometry) -> Tensor:
    """The union of the chosen blocks' ranges within [0, t], as [B, Hkv, R, S]."""
    block = torch.arange(seq_len, device=t.device) // geometry.select_len
    num_blocks = geometry.num_blocks(seq_len)
    taken = torch.zeros(*blocks.shape[:-1], num_blocks + 1, dtype=torch.bool, device=t.device)
    taken.scatter_(-1, blocks.masked_fill(blocks < 0, num_blocks).long(), True)
    return taken[..., block] & causal(t, seq_len)


def selected(q: Tensor, k: Tensor, v: Tensor, t: Tensor, blocks: Tensor, geometry: Geometry) -> Tensor:
    """Attention over the keys of the chosen `blocks` [B, Hkv, R, n] (equations 11 and 12)."""
    return attend(q, k, v, chosen_keys(blocks, t, k.shape[2], geometry))


def combine(gates: Tensor, *branches: Tensor) -> Tensor:
    """The gated sum of the branches (equation 5); `gates` [B, Hq, R, branches] are the sigmoids of equation 6's gate scores."""
    return sum((gates[..., index, None] * branch for index, branch in enumerate(branches)), start=torch.zeros_like(branches[0]))


def nsa(q: Tensor, k: Tensor, v: Tensor, t: Tensor, gates: Tensor, geometry: Geometry, blocks: Tensor | None = None) -> Tensor:
    """All three branches and the gate; `blocks` replaces the choice that the scores would make."""
    if blocks is None:
        blocks = choose(block_scores(q, k, t, geometry), t, geometry)
    return combine(
        gates,
        compressed(q, k, v, t, geometry),
        selected(q, k, v, t, blocks, geometry),
        sliding(q, k, v, t, geometry),
    )
