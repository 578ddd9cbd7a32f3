"""Several rows of activations: a matrix product for each two bits of the bytes, summed in one accumulator.

The weights are the left operand: unpacked from registers to registers, they need not pass through shared memory. Programs that
follow each other share the activations.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.kernels.codes import column, held_words, multiple, numbers, planes, words
from workloads.ternary.kernels.plan import Plan

STAGES = 3
"""Steps whose loads are under way: 80 KiB of shared memory at the most before SM 9.0, where some GPUs have no more than 99."""


@triton.jit
def _tile(
    x, weights, row_scales, output, m, n, columns, row_words, depth, factor,
    FEATURES: tl.constexpr, TOKENS: tl.constexpr, WIDTH: tl.constexpr, PLANES: tl.constexpr,
    SUM: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """A tile of outputs from `depth` words of each weight row, summed in the type SUM; `output` is [splits, m, n]."""
    feature = tl.program_id(0) * FEATURES + tl.arange(0, FEATURES)
    token = (tl.program_id(1) * TOKENS + tl.arange(0, TOKENS)).to(tl.int64)
    first = tl.program_id(2) * depth
    sums = tl.zeros([FEATURES, TOKENS], dtype=SUM)
    for start in range(first, tl.minimum(first + depth, row_words), WIDTH):
        word, packed = held_words(weights, feature, n, start, row_words, WIDTH)
        for plane in tl.static_range(PLANES):
            k = column(word, plane, PLANES)
            seen = (k < columns)[:, None] & (token < m)[None, :]
            values = tl.load(x + token[None, :] * columns + k[:, None], mask=seen, other=0)
            unpacked = numbers(packed, plane, x.dtype.element_ty, PAIRS)
            sums = tl.dot(unpacked, values, sums, input_precision="ieee", out_dtype=SUM)
    result = sums.to(tl.float32) * factor
    if row_scales is not None:
        result *= tl.load(row_scales + token, mask=token < m, other=0.0)[None, :]
    place = (tl.program_id(2).to(tl.int64) * m + token[None, :]) * n + feature[:, None]
    fits = (feature < n)[:, None] & (token < m)[None, :]
    tl.store(output + place, result.to(output.dtype.element_ty), mask=fits)


def tile(x: Tensor, packed: Tensor, scale: float, row_scales: Tensor | None, output: Tensor, plan: Plan) -> None:
    """Write x W^T * scale, or what each split of the plan adds to it, into `output` [splits, m, n]."""
    held = words(packed, x.dtype)
    (m, k), (n, row_words) = x.shape, held.shape
    size = packed.shape[1] // row_words
    _tile[(triton.cdiv(n, plan.features), triton.cdiv(m, plan.tokens), plan.splits)](
        x, held, row_scales, output, m, n, k, row_words, plan.depth // size, scale / multiple(x.dtype),
        FEATURES=plan.features, TOKENS=plan.tokens, WIDTH=plan.width // size, PLANES=planes(x.dtype),
        SUM=tl.int32 if x.dtype == torch.int8 else tl.float32, PAIRS=x.is_cuda,
        num_warps=plan.num_warps, num_stages=STAGES,
    )  # fmt: skip
