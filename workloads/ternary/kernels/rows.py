"""Activations to int8, one program a row: its largest value becomes 127."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _int8_rows(x, rounded, scales, columns, WIDTH: tl.constexpr):
    """One row of x; a row of zeros stays one."""
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, WIDTH)
    values = tl.load(x + row * columns + column, mask=column < columns, other=0.0).to(tl.float32)
    largest = tl.maximum(tl.max(tl.abs(values), 0), 1e-30)
    tl.store(scales + row, largest / 127.0)
    nearest = tl.floor(values * (127.0 / largest) + 0.5)
    tl.store(rounded + row * columns + column, nearest.to(tl.int8), mask=column < columns)


def int8_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [m, k] in int8 and one float32 scale a row, [m]."""
    m, k = x.shape
    rounded = torch.empty_like(x, dtype=torch.int8)
    scales = torch.empty(m, dtype=torch.float32, device=x.device)
    width = triton.next_power_of_2(k)
    _int8_rows[(m,)](x, rounded, scales, k, WIDTH=width, num_warps=max(1, min(16, width // 512)))
    return rounded, scales
