"""The truth of a step: the block and its gradients in float64, with attention written out, a few queries at a time.

What a group of queries computes is computed again in the backward, so that no more than its own scores are held.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from workloads.llm_kernels.ops import EPS, rotate_by_complex_numbers
from workloads.nsa import operations, reference, selection
from workloads.nsa import problem as nsa
from workloads.train_step.shape import Shape

CHUNK_ELEMENTS = 2**26
"""Attention weights that are held at a time (0.5 GiB in float64)."""


class Problem(NamedTuple):
    """A case: float32 weights by name, x [B, S, hidden] in its dtype, a float32 target, RoPE's cosines and sines [S, D]."""

    weights: Mapping[str, Tensor]
    x: Tensor
    target: Tensor
    tables: tuple[Tensor, Tensor]
    shape: Shape

    def of(self, sparse: bool) -> dict[str, Tensor]:
        """Return the parameters that a block with this attention has."""
        return {name: self.weights[name] for name in self.shape.parameters(sparse)}


class Heads(NamedTuple):
    """What attention is given in float64, [B, H, S, D]; gates [B, H, S, 3] where it is sparse."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Tensor | None


def dense(p: Problem) -> Tensor:
    """Return output and gradients of the block with causal attention, as rows (see `rows`)."""
    return _step(p, False, lambda h: _by_queries(lambda q, k, v, t: reference.dense(q, k, v, t), p.shape, h.q, h.k, h.v))


def sparse(p: Problem, blocks: Tensor | None = None) -> Tensor:
    """The same with Native Sparse Attention; `blocks` [B, Hkv, S, n] replaces the choice that the true scores make."""
    geometry = p.shape.geometry

    def attend(h: Heads) -> Tensor:
        assert h.gates is not None
        chosen = operations.best_blocks(_choice(p, h)) if blocks is None else blocks

        def some(q: Tensor, k: Tensor, v: Tensor, t: Tensor, gates: Tensor, chosen: Tensor) -> Tensor:
            return reference.nsa(q, k, v, t, gates, geometry, chosen)

        return _by_queries(some, p.shape, h.q, h.k, h.v, h.gates, chosen)

    return _step(p, True, attend)


def settled(found: Tensor, blocks: Tensor, p: Problem) -> Tensor:
    """Return rows that were `found` with these blocks as they would be with the reference's, where only near ties differ.

    A worse choice, or one that is none, gives NaN, which no gate lets pass.
    """
    given: list[Heads] = []

    def look(h: Heads) -> Tensor:
        given.append(h)
        return h.q

    with torch.no_grad():
        _forward(p.of(sparse=True), p.x, p, look)
        choice = _choice(p, given[0])
        best = operations.best_blocks(choice)
        if torch.equal(best, blocks):
            return found
        worth, most = (selection.truth_of_choice(choice, one) for one in (blocks, best))
    if (worth < (1 - selection.NEAR_TIE) * most).any():
        return torch.full_like(found, math.nan)
    return found.double() + sparse(p) - sparse(p, blocks)


def rows(output: Tensor, gradients: Sequence[Tensor], names: Sequence[str], shape: Shape) -> Tensor:
    """Return output [B, S, hidden], gradients of the parameters `names` and of x as one tensor of rows as wide as `hidden`.

    A row is a token, or the weights between the hidden state and one element of a layer. Gradients of parameters are sums over
    tokens and divided by the root of their number: rows are then all about as large, and none hides behind another.
    """
    *of_parameters, of_x = gradients
    scaled = [
        (one.t() if name in ("o", "down") else one).double().reshape(-1, shape.hidden) / math.sqrt(shape.tokens)
        for name, one in zip(names, of_parameters, strict=True)
    ]
    return torch.cat([output.double().flatten(0, 1), of_x.double().flatten(0, 1), *scaled])


def _step(p: Problem, sparse: bool, attend: Callable[[Heads], Tensor]) -> Tensor:
    weights = {name: one.detach().double().requires_grad_() for name, one in p.of(sparse).items()}
    x = p.x.detach().double().requires_grad_()
    with torch.enable_grad():
        output = _forward(weights, x, p, attend)
        loss = (output - p.target.double()).square().sum() / 2
        gradients = torch.autograd.grad(loss, [*weights.values(), x])
    return rows(output.detach(), gradients, list(weights), p.shape)


def _forward(weights: Mapping[str, Tensor], x: Tensor, p: Problem, attend: Callable[[Heads], Tensor]) -> Tensor:
    x = x.double()
    w = {name: one.double() for name, one in weights.items()}

    def norm(x: Tensor, weight: Tensor) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + EPS).sqrt() * weight

    def heads(x: Tensor, count: int) -> Tensor:
        split: Tensor = x.unflatten(-1, (count, -1))
        return split

    normed, shape = norm(x, w["attention_norm"]), p.shape
    q = rotate_by_complex_numbers(heads(normed @ w["q"].t(), shape.heads), *p.tables)
    k = rotate_by_complex_numbers(heads(normed @ w["k"].t(), shape.kv_heads), *p.tables)
    v = heads(normed @ w["v"].t(), shape.kv_heads)
    gates = None
    if "branch_gates" in w:
        gates = heads(1 / (1 + (-(normed @ w["branch_gates"].t())).exp()), shape.heads).transpose(1, 2)
    attended = attend(Heads(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), gates))
    x = x + attended.transpose(1, 2).flatten(2) @ w["o"].t()
    normed = norm(x, w["mlp_norm"])
    gate = normed @ w["gate"].t()
    output: Tensor = x + (gate / (1 + (-gate).exp()) * (normed @ w["up"].t())) @ w["down"].t()
    return output


def _by_queries(function: Callable[..., Tensor], shape: Shape, q: Tensor, k: Tensor, v: Tensor, *per_query: Tensor) -> Tensor:
    """Return `function(q, k, v, t, *per_query)` [B, H, S, D] for all queries, some at a time."""
    count = max(1, CHUNK_ELEMENTS // (shape.batch * shape.heads * shape.seq_len))
    t = torch.arange(shape.seq_len, device=q.device)[None]
    pieces = []
    for start in range(0, shape.seq_len, count):
        some = slice(start, start + count)
        given = (q[:, :, some], k, v, t[:, some], *(one[:, :, some] for one in per_query))
        pieces.append(checkpoint(function, *given, use_reentrant=False, preserve_rng_state=False))
    return torch.cat(pieces, 2)


def _choice(p: Problem, h: Heads) -> nsa.Problem:
    """Return the problem of choosing blocks, as workloads/nsa has it, for all queries."""
    s = p.shape
    shape = nsa.Shape(s.batch, s.heads, s.kv_heads, s.head_dim, s.head_dim, s.seq_len, s.dtype, s.geometry)
    at = torch.arange(s.seq_len, device=h.q.device).expand(s.batch, -1)
    q, k, v = (one.detach().transpose(1, 2) for one in h[:3])
    assert h.gates is not None
    return nsa.Problem(q, k, v, h.gates.detach().transpose(1, 2), at, at, at, shape, at)
