"""RMSNorm over the last dimension, one program a row; and over a whole vector, which takes two kernels.

A single row would keep one multiprocessor busy. Over a whole vector therefore many programs first sum the squares of their parts,
then each adds up all those sums, always in the same order, and scales its part.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024
"""Elements of a program in one step of the flat form."""

MAX_PROGRAMS = 1024
"""Parts of a vector, so that their sums fit into one program."""


@triton.jit
def _rmsnorm(x, weight, output, width, eps, WIDTH_PAD: tl.constexpr):
    """One row."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, WIDTH_PAD)
    there = column < width
    values = tl.load(x + row + column, mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(values * values, 0) / width + eps)
    weights = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(output + row + column, (values * scale * weights).to(output.dtype.element_ty), mask=there)


@triton.jit
def _squares(x, sums, count, steps, ELEMENTS: tl.constexpr):
    """The sum of squares of one program's part: `steps` times ELEMENTS elements."""
    first = tl.program_id(0).to(tl.int64) * steps * ELEMENTS
    squares = tl.zeros([ELEMENTS], dtype=tl.float32)
    for step in range(steps):
        at = first + step * ELEMENTS + tl.arange(0, ELEMENTS)
        values = tl.load(x + at, mask=at < count, other=0.0).to(tl.float32)
        squares += values * values
    tl.store(sums + tl.program_id(0), tl.sum(squares, 0))


@triton.jit
def _scale(x, weight, sums, output, count, parts, eps, ELEMENTS: tl.constexpr, PARTS_PAD: tl.constexpr):
    """ELEMENTS elements, scaled by what all parts add up to."""
    part = tl.arange(0, PARTS_PAD)
    total = tl.sum(tl.load(sums + part, mask=part < parts, other=0.0), 0)
    scale = tl.rsqrt(total / count + eps)
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    there = at < count
    values = tl.load(x + at, mask=there).to(tl.float32) * scale * tl.load(weight + at, mask=there).to(tl.float32)
    tl.store(output + at, values.to(output.dtype.element_ty), mask=there)


def rmsnorm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / sqrt(mean(x^2) + eps) * weight over the last dimension, computed in float32; x [rows, width]."""
    rows, width = x.shape
    pad = triton.next_power_of_2(width)
    output = torch.empty_like(x)
    _rmsnorm[(rows,)](x, weight, output, width, eps, WIDTH_PAD=pad, num_warps=max(1, min(16, pad // 512)))
    return output


def rmsnorm_flat(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The same over all elements of x [n], with a weight for each."""
    count = x.numel()
    chunks = triton.cdiv(count, ELEMENTS)
    steps = triton.cdiv(chunks, MAX_PROGRAMS)
    parts = triton.cdiv(chunks, steps)
    sums = torch.empty(parts, dtype=torch.float32, device=x.device)
    output = torch.empty_like(x)
    _squares[(parts,)](x, sums, count, steps, ELEMENTS=ELEMENTS, num_warps=4)
    _scale[(chunks,)](
        x, weight, sums, output, count, parts, eps,
        ELEMENTS=ELEMENTS, PARTS_PAD=triton.next_power_of_2(parts), num_warps=4,
    )  # fmt: skip
    return output
