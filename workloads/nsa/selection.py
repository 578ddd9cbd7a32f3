"""Which blocks a query reads: their scores from the compressed branch's weights, and the best n of them."""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from runner.worker.compilers import check_triton, has_triton
from workloads.nsa import reference
from workloads.nsa.geometry import Geometry
from workloads.nsa.problem import Problem, by_rows, keys_and_values, take_rows

CHUNK_BYTES = 2**29
"""Weights that the PyTorch form holds at a time."""

NEAR_TIE = 0.01
"""A chosen block may score this much less than the true last of the best n: rounding decides between near ties."""


def scores(q: Tensor, pooled: Tensor, at: Tensor, num_blocks: int, geometry: Geometry) -> Tensor:
    """Return the block scores [B, Hkv, R, blocks] in float32 with PyTorch's own operators, a chunk of queries at a time.

    q [B, R, Hq, D] at positions `at` [B | 1, R]; pooled [B, C, Hkv, D].
    """
    batch, queries, heads, dim = q.shape
    kv_heads = pooled.shape[2]
    keys = pooled.permute(0, 2, 3, 1)
    compressed = torch.arange(pooled.shape[1], device=q.device)
    last_key = compressed * geometry.stride + geometry.block_len - 1
    chunk = max(1, CHUNK_BYTES // (4 * batch * heads * max(1, len(compressed))))
    found = []
    for start in range(0, queries, chunk):
        grouped = q[:, start : start + chunk].unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4)  # [B, Hkv, h, r, D]
        rows = grouped.shape[3]
        logits = _products(grouped.flatten(2, 3), keys).unflatten(2, (-1, rows)) / math.sqrt(dim)
        visible = last_key <= at[:, None, None, start : start + chunk, None]
        weights = logits.masked_fill(~visible, -math.inf).softmax(-1).nan_to_num(0.0).sum(2)
        found.append(of_blocks(weights, num_blocks, geometry))
    return torch.cat(found, 2)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """Return a @ b in float32: rounded to the inputs' 16 bits, it would decide between blocks that are no near ties."""
    if a.device.type == "cuda" and a.dtype != torch.float32:
        found: Tensor = torch.bmm(a.flatten(0, 1), b.flatten(0, 1), out_dtype=torch.float32).unflatten(0, a.shape[:2])
        return found
    return a.float() @ b.float()


def of_blocks(weights: Tensor, num_blocks: int, geometry: Geometry) -> Tensor:
    """Return what the blocks get of the compressed tokens' weights [..., C] -> [..., blocks]: equation 9 as a strided sum."""
    per_block, spill = geometry.select_len // geometry.stride, geometry.block_len // geometry.stride - 1
    after = num_blocks * per_block - weights.shape[-1]
    padded = torch.nn.functional.pad(weights, (spill, after))
    return padded.unfold(-1, per_block + spill, per_block) @ _overlap(per_block, spill, weights.dtype, weights.device)


@functools.cache
def _overlap(per_block: int, spill: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """How many strides of a block each compressed token covers that reaches into it; made once, since a graph can't copy it."""
    width = per_block + spill
    return torch.tensor([min(i + 1, width - i, per_block, spill + 1) for i in range(width)], dtype=dtype, device=device)


def choose_by_torch(block_scores: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """Return the best n blocks [B, Hkv, R, n] int32, in the reference's order."""
    return reference.choose(block_scores, at, geometry).int()


def choose(block_scores: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """The same by one Triton kernel where that can run; `at` [B, R] int32."""
    if not has_triton(block_scores.device):
        return choose_by_torch(block_scores, at, geometry)
    from workloads.nsa import kernels

    return kernels.choose(block_scores, at, geometry)


def torch_choice(q: Tensor, pooled: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """Return the best n blocks [B, Hkv, S, n] int32 for the queries [B, S, Hq, D] of a whole sequence, by PyTorch's operators."""
    return choose_by_torch(scores(q, pooled, at, geometry.num_blocks(q.shape[1]), geometry), at, geometry)


def triton_choice(q: Tensor, pooled: Tensor, lse: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """Return the same choice with two Triton kernels, for queries [B, S, Hq, D] of a whole sequence.

    `lse` [B, Hq, S] is the log-sum-exp of the compressed branch's scores, which that branch gives with its output.
    """
    check_triton(q.device)
    from workloads.nsa import kernels

    num_blocks = geometry.num_blocks(q.shape[1])
    return kernels.choose(kernels.block_scores(q, pooled, lse, at, num_blocks, geometry), at, geometry)


def truth_of_choice(p: Problem, blocks: Tensor) -> Tensor:
    """Return the true scores of the chosen blocks [B, Hkv, R, n] of the checked rows, best first; 0 in slots that stay empty.

    Two choices are equally good when these are equal, whatever rounding decided between near ties. A choice that is none gives
    -1 all over: one with a block twice or from the future, without a forced block, or with fewer than could be chosen.
    """
    return _scores_of(blocks, true_scores(p), p)


def _scores_of(blocks: Tensor, true: Tensor, p: Problem) -> Tensor:
    geometry = p.geometry
    ordered = blocks.long().sort(-1).values
    own = p.at[:, None, :, None] // geometry.select_len
    taken = ordered >= 0
    twice = ((ordered[..., 1:] == ordered[..., :-1]) & taken[..., 1:]).any(-1, keepdim=True)
    fewer = taken.sum(-1, keepdim=True) != (own + 1).clamp(max=geometry.num_select)
    forced = [(ordered == block).any(-1, keepdim=True) for block in (torch.zeros_like(own), (own - 1).clamp(min=0), own)]
    wrong = twice | fewer | (ordered > own).any(-1, keepdim=True) | ~(forced[0] & forced[1] & forced[2])
    found = true.gather(-1, ordered.clamp(min=0)).masked_fill(~taken, 0.0)
    return found.sort(-1, descending=True).values.masked_fill(wrong, -1.0)


def true_scores(p: Problem) -> Tensor:
    """Return the reference's block scores of the checked rows, [B, Hkv, R, blocks]."""
    k, _ = keys_and_values(p)
    return by_rows(lambda q, t: reference.block_scores(q, k, t, p.geometry), p)


def settle(found: Tensor, blocks: Tensor, p: Problem, truth: Callable[[Tensor], Tensor]) -> Tensor:
    """Return what the whole operation `found` as it would be with the reference's blocks, where only near ties differ.

    `blocks` [B, Hkv, R, n] are those that it chose for the checked rows. Where they score as much as the best up to NEAR_TIE,
    the result is moved by the difference that the reference, `truth(blocks)`, finds between both choices. A worse choice
    gives NaN, which no gate lets pass.
    """
    true = true_scores(p)
    best = reference.choose(true, p.at, p.geometry)
    if torch.equal(best, blocks):
        return found
    if (_scores_of(blocks, true, p) < (1 - NEAR_TIE) * _scores_of(best, true, p)).any():
        return torch.full_like(found, math.nan)
    return found.double() + truth(best) - truth(blocks)


def blocks_at_rows(blocks: Tensor, p: Problem) -> Tensor:
    """Return the checked rows of chosen blocks [B, Hkv, S, n] as [B, Hkv, R, n]."""
    return take_rows(blocks.transpose(1, 2), p.rows).long()
