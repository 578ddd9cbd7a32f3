"""What the kernels share: the least tile of a matrix product, and how precise the products are."""

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634
"""Exponentials are powers of two on a GPU."""

MIN_ROWS = 16
"""The least rows, columns and depth of a tl.dot."""


def precision(x: Tensor) -> str:
    """Products of float32 are done in float32; Triton's default would round them to tf32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"
