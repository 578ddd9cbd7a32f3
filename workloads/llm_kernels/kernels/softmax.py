"""Softmax of every row, one program a row: in registers where the row fits, else in two walks over it.

The first walk keeps the largest value and the sum of exponentials so far; the second one reads the row again, mostly from L2.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

IN_REGISTERS = 16384
"""The widest row that one program holds, padded to a power of two."""

COLUMNS = 8192
"""Columns that a walk takes in one step."""


@triton.jit
def _softmax(x, output, width, WIDTH_PAD: tl.constexpr):
    """A row that fits."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, WIDTH_PAD)
    there = column < width
    values = tl.load(x + row + column, mask=there, other=float("-inf")).to(tl.float32)
    terms = tl.exp(values - tl.max(values, 0))
    tl.store(output + row + column, (terms / tl.sum(terms, 0)).to(output.dtype.element_ty), mask=there)


@triton.jit
def _softmax_wide(x, output, width, COLUMNS: tl.constexpr):
    """A row that does not."""
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, COLUMNS)
    values = tl.load(x + row + column).to(tl.float32)  # the first step is always full
    top = tl.max(values, 0)
    total = tl.sum(tl.exp(values - top), 0)
    for start in range(COLUMNS, width, COLUMNS):
        values = tl.load(x + row + start + column, mask=start + column < width, other=float("-inf")).to(tl.float32)
        new_top = tl.maximum(top, tl.max(values, 0))
        total = total * tl.exp(top - new_top) + tl.sum(tl.exp(values - new_top), 0)
        top = new_top
    for start in range(0, width, COLUMNS):
        there = start + column < width
        values = tl.load(x + row + start + column, mask=there, other=float("-inf")).to(tl.float32)
        tl.store(output + row + start + column, (tl.exp(values - top) / total).to(output.dtype.element_ty), mask=there)


def softmax(x: Tensor) -> Tensor:
    """Return the softmax over the last dimension of x [rows, width], computed in float32."""
    rows, width = x.shape
    output = torch.empty_like(x)
    pad = triton.next_power_of_2(width)
    if pad <= IN_REGISTERS:
        _softmax[(rows,)](x, output, width, WIDTH_PAD=pad, num_warps=max(1, min(16, pad // 512)))
    else:
        _softmax_wide[(rows,)](x, output, width, COLUMNS=COLUMNS, num_warps=8)
    return output
