"""From real numbers to few: ternary weights with one scale (absmean), activations in int8 with one scale a row (absmax)."""

import torch
from torch import Tensor

INT8_MAX = 127
TINY = 1e-30
"""A scale is never zero: zeros divided by it stay zeros."""


def absmean(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return weights in {-1, 0, 1} int8 and their scale (float32, no dimensions).

    The scale is the mean of |W|, and each weight becomes round(W / scale), clipped: arXiv 2402.17764, equations 1 to 3.
    """
    scale = weights.abs().mean(dtype=torch.float32).clamp(min=TINY)
    return (weights / scale).round().clamp(-1, 1).to(torch.int8), scale


def absmax_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return x [m, k] in int8 and one float32 scale a row, [m, 1], so that a row's largest value is 127."""
    scales = x.float().abs().amax(1, keepdim=True).clamp(min=TINY) / INT8_MAX
    return (x / scales).round().to(torch.int8), scales
