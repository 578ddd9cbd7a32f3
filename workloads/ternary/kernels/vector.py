"""One row of activations: every weight is unpacked in the thread that read it, multiplied and summed in float32.

A program has a few rows of weights, side by side, so that the activations that it reads serve all of them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.kernels.codes import column, held_words, multiple, numbers, planes, words
from workloads.ternary.kernels.plan import Plan


@triton.jit
def _vector(
    x, weights, row_scales, output, n, columns, row_words, depth, factor,
    FEATURES: tl.constexpr, WIDTH: tl.constexpr, PLANES: tl.constexpr,
):  # fmt: skip
    """FEATURES outputs from `depth` words of each weight row; `output` is [splits, n]."""
    feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    first = tl.program_id(1) * depth
    sums = tl.zeros([FEATURES, WIDTH], dtype=tl.float32)
    for start in range(first, tl.minimum(first + depth, row_words), WIDTH):
        word, packed = held_words(weights, feature, n, start, row_words, WIDTH)
        for plane in tl.static_range(PLANES):
            k = column(word, plane, PLANES)
            values = tl.load(x + k, mask=k < columns, other=0).to(tl.float32)
            sums += values[None, :] * numbers(packed.to(tl.uint16), plane, tl.float32, False)
    result = tl.sum(sums, 1) * factor
    if row_scales is not None:
        result *= tl.load(row_scales)
    tl.store(output + tl.program_id(1) * n + feature, result.to(output.dtype.element_ty), mask=feature < n)


def vector(x: Tensor, packed: Tensor, scale: float, row_scales: Tensor | None, output: Tensor, plan: Plan) -> None:
    """Write x W^T * scale of one row, or what each split of the plan adds to it, into `output` [splits, 1, n]."""
    held = words(packed, x.dtype)
    (_, k), (n, row_words) = x.shape, held.shape
    size = packed.shape[1] // row_words
    _vector[(triton.cdiv(n, plan.features), plan.splits)](
        x, held, row_scales, output, n, k, row_words, plan.depth // size, scale / multiple(torch.float32),
        FEATURES=plan.features, WIDTH=plan.width // size, PLANES=planes(x.dtype), num_warps=plan.num_warps,
    )  # fmt: skip
