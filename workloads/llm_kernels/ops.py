"""The nine operations: for each its inputs, PyTorch's own way to do it, the truth in float64, and the least work.

A row or token is one row of the inputs; sizes are a model's. Operations are counted as written: a multiply-add is two; an
exponential, a quotient or a comparison is one.

| op | is | operations |
|---|---|---|
| add | a + b over n elements | n |
| embedding | rows of a table by T ids, none twice until all have been taken | 0 |
| gemv | W x of one token: W [rows, hidden] | 2 rows hidden |
| matmul | x W^T + b of T tokens: W [intermediate, hidden] | 2 T intermediate hidden + T intermediate |
| softmax | of rows of vocab logits | 5 an element: largest, difference, exponential, sum, quotient |
| rmsnorm | of rows of hidden elements, each with its own scale | 4 an element: square, sum, scale, weight |
| rmsnorm_flat | of one vector of n elements, with one scale for all | 4 an element |
| swiglu | silu(gate) * up of T tokens, both [T, intermediate] | 5 an element: negative, exponential, sum, quotient, product |
| rope | Llama's rotation of T tokens, [T, heads, head_dim], by given cosines and sines [T, head_dim] | 3 an element |
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from runner.worker.workload import Inputs, Work

EPS = 1e-5
"""Of RMSNorm in Llama 3 (rms_norm_eps)."""

THETA = 500_000.0
"""The base of the angles in Llama 3 (rope_theta)."""

ID_BYTES = 8

Draw = Callable[..., Tensor]
"""Normal values of a shape in the case's dtype."""


@dataclass(frozen=True)
class Sizes:
    """A model's sizes: those of its hidden state, its MLP, its vocabulary and its query heads."""

    hidden: int
    intermediate: int
    vocab: int
    heads: int
    head_dim: int


@dataclass(frozen=True)
class Op:
    """An operation on `count` elements, rows or tokens: `axis` says which.

    `inputs(count, sizes, draw, generator)` returns its arguments; `eager` and `reference` take them; `work(count, sizes, size)`
    is the least work with elements of `size` bytes.
    """

    axis: str
    inputs: Callable[[int, Sizes, Draw, torch.Generator], Inputs]
    eager: Callable[..., Tensor]
    reference: Callable[..., Tensor]
    work: Callable[[int, Sizes, int], Work]


def distinct_ids(count: int, vocab: int, generator: torch.Generator) -> Tensor:
    """Return `count` ids in random order, none twice until all of the vocabulary have been taken.

    So the bytes that must be read are known, and no row is in a cache already.
    """
    order = torch.randperm(vocab, generator=generator, device=generator.device)
    return order[torch.arange(count, device=order.device) % vocab]


def angles(tokens: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines [T, D] of positions 0 to T - 1 in float64, both halves equal, as Llama's code has them."""
    pairs = torch.arange(0, head_dim, 2, device=device, dtype=torch.float64)
    angle = torch.arange(tokens, device=device, dtype=torch.float64)[:, None] * THETA ** (-pairs / head_dim)
    both = torch.cat([angle, angle], -1)
    return both.cos(), both.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x [..., T, H, D] rotated, as Llama's implementations write it: x cos + rotate_half(x) sin."""
    low, high = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-high, low], -1) * sin[:, None]


def rotate_by_complex_numbers(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same in float64, as its authors define it: the pair (i, i + D / 2) is a complex number, times one of length 1."""
    low, high = x.double().chunk(2, -1)
    turn = torch.complex(cos.double(), sin.double()).chunk(2, -1)[0][:, None]
    turned = torch.complex(low, high) * turn
    return torch.cat([turned.real, turned.imag], -1)


def _rope_inputs(tokens: int, sizes: Sizes, draw: Draw, generator: torch.Generator) -> Inputs:
    x = draw(tokens, sizes.heads, sizes.head_dim)
    return x, *(table.to(x.dtype) for table in angles(tokens, sizes.head_dim, x.device))


def _true_softmax(x: Tensor) -> Tensor:
    terms = (x.double() - x.double().amax(-1, keepdim=True)).exp()
    return terms / terms.sum(-1, keepdim=True)


def _true_rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def _rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return functional.rms_norm(x, weight.shape, weight, eps)


def _elements(reads_and_writes: float, ops: float, count: float, size: int, once: float = 0) -> Work:
    """Return the work of an operation that moves each of `count` elements so often, and `once` further elements."""
    return Work(ops=ops * count, bytes=float((reads_and_writes * count + once) * size))


def _embedding_work(tokens: int, s: Sizes, size: int) -> Work:
    rows = min(tokens, s.vocab) + tokens
    return Work(ops=0.0, bytes=float(rows * s.hidden * size + tokens * ID_BYTES))


def _matmul_work(m: int, s: Sizes, size: int) -> Work:
    n, k = s.intermediate, s.hidden
    return Work(ops=2.0 * m * n * k + m * n, bytes=float((m * k + n * k + n + m * n) * size))


def _gemv_work(rows: int, s: Sizes, size: int) -> Work:
    return Work(ops=2.0 * rows * s.hidden, bytes=float((rows * s.hidden + s.hidden + rows) * size))


OPS: Mapping[str, Op] = {
    "add": Op(
        axis="elements",
        inputs=lambda n, s, draw, _: (draw(n), draw(n)),
        eager=torch.add,
        reference=lambda a, b: a.double() + b.double(),
        work=lambda n, s, size: _elements(3, 1, n, size),
    ),
    "embedding": Op(
        axis="tokens",
        inputs=lambda tokens, s, draw, generator: (distinct_ids(tokens, s.vocab, generator), draw(s.vocab, s.hidden)),
        eager=functional.embedding,
        reference=lambda ids, table: table[ids].double(),
        work=_embedding_work,
    ),
    "gemv": Op(
        axis="rows",
        inputs=lambda rows, s, draw, _: (draw(rows, s.hidden), draw(s.hidden)),
        eager=torch.mv,
        reference=lambda matrix, vector: matrix.double() @ vector.double(),
        work=_gemv_work,
    ),
    "matmul": Op(
        axis="tokens",
        inputs=lambda m, s, draw, _: (draw(m, s.hidden), draw(s.intermediate, s.hidden), draw(s.intermediate)),
        eager=functional.linear,
        reference=lambda x, weight, bias: x.double() @ weight.double().t() + bias.double(),
        work=_matmul_work,
    ),
    "softmax": Op(
        axis="rows",
        inputs=lambda rows, s, draw, _: (draw(rows, s.vocab),),
        eager=lambda x: torch.softmax(x, -1),
        reference=_true_softmax,
        work=lambda rows, s, size: _elements(2, 5, rows * s.vocab, size),
    ),
    "rmsnorm": Op(
        axis="rows",
        inputs=lambda rows, s, draw, _: (draw(rows, s.hidden), draw(s.hidden), EPS),
        eager=_rmsnorm,
        reference=_true_rmsnorm,
        work=lambda rows, s, size: _elements(2, 4, rows * s.hidden, size, once=s.hidden),
    ),
    "rmsnorm_flat": Op(
        axis="elements",
        inputs=lambda n, s, draw, _: (draw(n), draw(n), EPS),
        eager=_rmsnorm,
        reference=_true_rmsnorm,
        work=lambda n, s, size: _elements(3, 4, n, size),
    ),
    "swiglu": Op(
        axis="tokens",
        inputs=lambda tokens, s, draw, _: (draw(tokens, s.intermediate), draw(tokens, s.intermediate)),
        eager=lambda gate, up: functional.silu(gate) * up,
        reference=lambda gate, up: gate.double() / (1 + (-gate.double()).exp()) * up.double(),
        work=lambda tokens, s, size: _elements(3, 5, tokens * s.intermediate, size),
    ),
    "rope": Op(
        axis="tokens",
        inputs=_rope_inputs,
        eager=rotate,
        reference=rotate_by_complex_numbers,
        # the two halves of the tables are the same, so that one of each is the least to read
        work=lambda tokens, s, size: _elements(2, 3, tokens * s.heads * s.head_dim, size, once=tokens * s.head_dim),
    ),
}
