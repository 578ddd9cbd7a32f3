"""y = W x: the rows of W are split over programs, ROWS for each, which read them COLUMNS columns at a time and sum in float32."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS = 4
"""Few, so that already 4,096 rows give every multiprocessor some programs."""

COLUMNS = 1024


@triton.jit
def _gemv(matrix, vector, output, rows, width, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """The products of ROWS rows with the vector."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    at_row = matrix + row[:, None].to(tl.int64) * width
    sums = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for start in range(0, width, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        there = column < width
        values = tl.load(at_row + column[None, :], mask=real[:, None] & there[None, :], other=0.0).to(tl.float32)
        sums += values * tl.load(vector + column, mask=there, other=0.0).to(tl.float32)[None, :]
    tl.store(output + row, tl.sum(sums, 1).to(output.dtype.element_ty), mask=real)


def gemv(matrix: Tensor, vector: Tensor) -> Tensor:
    """Return the product [n] of matrix [n, k] and vector [k]."""
    rows, width = matrix.shape
    output = torch.empty(rows, dtype=matrix.dtype, device=matrix.device)
    columns = min(COLUMNS, triton.next_power_of_2(width))
    _gemv[(triton.cdiv(rows, ROWS),)](matrix, vector, output, rows, width, ROWS=ROWS, COLUMNS=columns, num_warps=4)
    return output
