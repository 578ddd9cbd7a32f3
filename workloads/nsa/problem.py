"""The inputs of a case: shapes from its axes, random tensors in the layout that models store, and which rows are checked."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Params, Unsupported
from workloads.nsa.geometry import Geometry

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
RAGGED_SHORTEST = 0.5
"""`lengths: ragged` spreads a batch evenly between this share of the length and the whole of it."""

CHUNK_ELEMENTS = 2**26
"""Attention weights that the reference holds at a time (0.5 GiB in float64)."""


@dataclass(frozen=True)
class Shape:
    """A case's sizes; `seq_len` is the longest sequence of the batch (in decode: its tokens in the cache)."""

    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    v_head_dim: int
    seq_len: int
    dtype: str
    geometry: Geometry
    ragged: bool = False
    backward: bool = False

    def __post_init__(self) -> None:
        """Refuse what no attention is defined for."""
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads}: expected a multiple of kv_heads={self.kv_heads}")
        if self.seq_len < self.geometry.block_len:
            raise ValueError(f"{self.seq_len} tokens: expected at least block_len={self.geometry.block_len}")

    @property
    def group(self) -> int:
        """Query heads that share a KV head."""
        return self.heads // self.kv_heads

    @property
    def lengths(self) -> list[int]:
        """Tokens of each sequence of the batch."""
        if not self.ragged or self.batch == 1:
            return [self.seq_len] * self.batch
        shortest = max(self.geometry.block_len, math.ceil(RAGGED_SHORTEST * self.seq_len))
        return [shortest + (self.seq_len - shortest) * index // (self.batch - 1) for index in range(self.batch)]


class Problem(NamedTuple):
    """A case: q [B, S, Hq, Dk] (S is 1 in decode), k [B, N, Hkv, Dk], v [B, N, Hkv, Dv], gates [B, S, Hq, 3], in its dtype.

    `blocks` [B, Hkv, S, n] are the blocks that the selected branch reads, chosen beforehand so that every variant of that branch
    reads the same; `rows` [B, R] are the queries that are compared with the reference, as indices into S; `at` [B, R] their
    positions; `branches` [3, B, S, Hq, Dv] stand for the outputs that the gate combines; `grad` [B, S, Hq, Dv] is the gradient
    that training sends back, None when only the forward pass is measured.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Tensor
    blocks: Tensor
    rows: Tensor
    at: Tensor
    shape: Shape
    branches: Tensor
    grad: Tensor | None = None

    @property
    def geometry(self) -> Geometry:
        """The case's lengths."""
        return self.shape.geometry


def shape_of(axes: Axes, params: Params) -> Shape:
    """Return the sizes of a case; its length is the axis `seq_len`, `context`, or `cmp_len` compressed tokens."""
    geometry = Geometry(*(int(axes[name]) for name in ("block_len", "stride", "select_len", "num_select", "window")))
    length = geometry.seq_len_of(axes["cmp_len"]) if "cmp_len" in axes else axes.get("seq_len", axes.get("context"))
    return Shape(
        batch=int(axes.get("batch", 1)),
        heads=int(axes["heads"]),
        kv_heads=int(axes["kv_heads"]),
        head_dim=int(axes["head_dim"]),
        v_head_dim=int(axes.get("v_head_dim") or axes["head_dim"]),
        seq_len=int(length),
        dtype=str(axes["dtype"]),
        geometry=geometry,
        ragged=axes.get("lengths") == "ragged",
        backward=axes.get("pass") == "forward_backward",
    )


def tensors_of(shape: Shape, queries: int, context: Context) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return q, k, v and gates of `queries` queries a sequence: normal values, and sigmoids of normal values.

    They are rounded to the case's dtype here, so that the reference sees exactly what the variants see: which blocks are best
    may hang on the last bit.

    Raises Unsupported for a dtype that this device lacks.
    """
    if shape.dtype == "bf16" and context.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Unsupported("this GPU has no bf16 (SM 8.0 or newer)")
    dtype = DTYPES[shape.dtype]
    q = context.randn(shape.batch, queries, shape.heads, shape.head_dim).to(dtype)
    k = context.randn(shape.batch, shape.seq_len, shape.kv_heads, shape.head_dim).to(dtype)
    v = context.randn(shape.batch, shape.seq_len, shape.kv_heads, shape.v_head_dim).to(dtype)
    gates = context.randn(shape.batch, queries, shape.heads, 3).sigmoid().to(dtype)
    return q, k, v, gates


def checked_rows(lengths: Sequence[int], most: int, generator: torch.Generator) -> Tensor:
    """Return which queries are compared with the reference, [B, R], ascending: all, or `most` of each sequence.

    The first and the last eighth of those are the first and last queries, where masks begin and end; the rest is drawn at random.
    """
    count = min(most, *lengths)
    rows = []
    for length in lengths:
        edge = count // 8
        inner = torch.randperm(length - 2 * edge, generator=generator, device=generator.device)[: count - 2 * edge] + edge
        first, last = torch.arange(edge, device=inner.device), torch.arange(length - edge, length, device=inner.device)
        rows.append(torch.cat([first, inner.sort().values, last]))
    return torch.stack(rows)


def take_rows(x: Tensor, rows: Tensor) -> Tensor:
    """Return x [B, S, H, D] at `rows` [B, R] as [B, H, R, D]: the reference's layout."""
    return x[torch.arange(len(x), device=x.device)[:, None], rows].transpose(1, 2)


def by_rows(function: Callable[..., Tensor], p: Problem, *per_row: Tensor) -> Tensor:
    """Return `function(q, t, *per_row)` for the checked rows in float64, a chunk of rows at a time; results [B, H, R, ...].

    `per_row` tensors are [B, H, R, ...] for all checked rows.
    """
    q = take_rows(p.q, p.rows).double()
    chunk = max(1, CHUNK_ELEMENTS // (p.shape.batch * p.shape.heads * p.shape.seq_len))
    pieces = [
        function(*(x[:, :, start : start + chunk] if x.ndim > 2 else x[:, start : start + chunk] for x in (q, p.at, *per_row)))
        for start in range(0, p.rows.shape[1], chunk)
    ]
    return torch.cat(pieces, 2)


def keys_and_values(p: Problem) -> tuple[Tensor, Tensor]:
    """Return k and v in float64 and the reference's layout [B, Hkv, N, D]."""
    return p.k.transpose(1, 2).double(), p.v.transpose(1, 2).double()


def at_rows(output: Tensor, p: Problem) -> Tensor:
    """Return a variant's output [B, S, Hq, Dv] at the checked rows, as the reference has it."""
    return take_rows(output, p.rows)
