"""Activations to int8, one program a row: its largest value becomes 127."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.kernels.codes import in_byte_order
from workloads.ternary.packing import GROUP

NEAREST = tl.constexpr(12582912.0)
"""1.5 x 2^23: added to it, a small number is rounded to an integer, as few.cu does it."""


@triton.jit
def _int8_rows(x, rounded, scales, columns, filled, WIDTH: tl.constexpr):
    """One row of x, `columns` values, to `filled` of them; a row of zeros stays one."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    values = tl.load(x + row * columns + column, mask=column < columns, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(values), 0), 1e-30)
    tl.store(scales + row, largest / 127.0)
    nearest = (values * (127.0 / largest) + NEAREST) - NEAREST
    tl.store(rounded + row * filled + in_byte_order(column), nearest.to(tl.int8), mask=column < filled)


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [m, k] in int8, in the order of packed bytes, filled up with zeros to their groups, and a scale a row, [m]."""
    m, k = x.shape
    filled = triton.cdiv(k, GROUP) * GROUP
    rounded = torch.empty(m, filled, dtype=torch.int8, device=x.device)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    width = triton.next_power_of_2(filled)
    _int8_rows[(m,)](x, rounded, scales, k, filled, WIDTH=width, num_warps=max(1, min(16, width // 512)))
    return rounded, scales
