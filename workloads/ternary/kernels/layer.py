"""The layer by its plan: one kernel, and where the depth was dealt to several programs a second one that adds their sums."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.kernels.plan import Plan
from workloads.ternary.kernels.tile import tile
from workloads.ternary.kernels.vector import vector

ADDED = 1024
"""Outputs of a program that adds partial sums."""


@triton.jit
def _add(partial, output, count, splits, WIDTH: tl.constexpr):
    """Sum [splits, count] over the splits, in their order."""
    index = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    total = tl.zeros([WIDTH], dtype=tl.float32)
    for split in range(splits):
        total += tl.load(partial + split * count + index, mask=index < count, other=0.0)
    tl.store(output + index, total.to(output.dtype.element_ty), mask=index < count)


def layer(x: Tensor, packed: Tensor, scale: float, plan: Plan, dtype: torch.dtype, row_scales: Tensor | None = None) -> Tensor:
    """Return x W^T * scale, [m, n] in `dtype`; in float32 up to the rounding to it, with int8 x up to its own.

    x [m, k] is contiguous and fp32, fp16, bf16, or int8 with `row_scales` [m] as `int8_rows` gives both (k up to 250,000, so that
    sums fit into int32); `packed` are weights [n, k], four a byte.
    """
    m, n = x.shape[0], packed.shape[0]
    output = torch.empty(m, n, dtype=dtype, device=x.device)
    target = output if plan.splits == 1 else torch.empty(plan.splits, m, n, dtype=torch.float32, device=x.device)
    (vector if plan.tokens == 1 else tile)(x, packed, scale, row_scales, target, plan)
    if target is not output:
        _add[(triton.cdiv(m * n, ADDED),)](target, output, m * n, plan.splits, WIDTH=ADDED)
    return output
