"""One row of activations: every weight is unpacked in the thread that read it, multiplied and summed in float32.

A program has a few rows of weights, side by side, so that the activations that it reads serve all of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.kernels.codes import column, multiple, numbers
from workloads.ternary.kernels.plan import Plan


@triton.jit
def _values(x, columns, byte, PLANE: tl.constexpr):
    """The activations that the weights in the two bits number PLANE of these bytes meet."""
    k = column(byte, PLANE)
    return tl.load(x + k, mask=k < columns, other=0)


@triton.jit
def _vector(
    x, weights, row_scales, output, n, columns, row_bytes, depth, factor,
    FEATURES: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """FEATURES outputs from `depth` bytes of each weight row; `output` is [splits, n]."""
    feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    first = tl.program_id(1) * depth
    row = feature.to(tl.int64)[:, None] * row_bytes
    sums = tl.zeros([FEATURES, WIDTH], dtype=tl.float32)
    for start in range(first, tl.minimum(first + depth, row_bytes), WIDTH):
        byte = start + tl.arange(0, WIDTH)
        there = (feature < n)[:, None] & (byte < row_bytes)[None, :]
        packed = tl.load(weights + row + byte[None, :], mask=there, other=0)
        x0 = _values(x, columns, byte, 0)  # all loads are issued before the first is waited for
        x1 = _values(x, columns, byte, 1)
        x2 = _values(x, columns, byte, 2)
        x3 = _values(x, columns, byte, 3)
        sums += x0.to(tl.float32)[None, :] * numbers(packed, 0, tl.float32)
        sums += x1.to(tl.float32)[None, :] * numbers(packed, 1, tl.float32)
        sums += x2.to(tl.float32)[None, :] * numbers(packed, 2, tl.float32)
        sums += x3.to(tl.float32)[None, :] * numbers(packed, 3, tl.float32)
    result = tl.sum(sums, 1) * factor
    if row_scales is not None:
        result *= tl.load(row_scales)
    tl.store(output + tl.program_id(1) * n + feature, result.to(output.dtype.element_ty), mask=feature < n)


def vector(x: Tensor, packed: Tensor, scale: float, row_scales: Tensor | None, output: Tensor, plan: Plan) -> None:
    """Write x W^T * scale of one row, or what each split of the plan adds to it, into `output` [splits, 1, n]."""
    (_, k), (n, row_bytes) = x.shape, packed.shape
    _vector[(triton.cdiv(n, plan.features), plan.splits)](
        x, packed, row_scales, output, n, k, row_bytes, plan.depth, scale / multiple(torch.float32),
        FEATURES=plan.features, WIDTH=plan.width, num_warps=plan.num_warps,
    )  # fmt: skip
