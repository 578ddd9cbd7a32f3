"""The gate in one pass: three branches and their gates are read once, the gated sum is written once. Nothing is kept between.

It moves 4 elements of a branch and 3 gates for each output and computes 5 operations: memory is all that bounds it.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

GATE_ROWS = 32
"""Rows (token and query head) of a program: with 128 wide values and 4 warps, each thread moves 64 bytes of each branch."""


@triton.jit
def _gate(gates, compressed, selected, sliding, output, rows, V_DIM: tl.constexpr, V_DIM_PAD: tl.constexpr, ROWS: tl.constexpr):
    """The gated sum of ROWS rows."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    dim = tl.arange(0, V_DIM_PAD)
    where, there = row[:, None] * V_DIM + dim[None, :], (row[:, None] < rows) & (dim[None, :] < V_DIM)
    total = tl.load(gates + row * 3, mask=row < rows).to(tl.float32)[:, None] * tl.load(compressed + where, mask=there)
    total += tl.load(gates + row * 3 + 1, mask=row < rows).to(tl.float32)[:, None] * tl.load(selected + where, mask=there)
    total += tl.load(gates + row * 3 + 2, mask=row < rows).to(tl.float32)[:, None] * tl.load(sliding + where, mask=there)
    tl.store(output + where, total.to(output.dtype.element_ty), mask=there)


def gate(gates: Tensor, compressed: Tensor, selected: Tensor, sliding: Tensor) -> Tensor:
    """Return the gated sum [B, S, Hq, Dv], summed in float32; `gates` [B, S, Hq, 3], branches [B, S, Hq, Dv]."""
    gates, compressed, selected, sliding = (x.contiguous() for x in (gates, compressed, selected, sliding))
    output = torch.empty_like(compressed)
    v_dim = compressed.shape[-1]
    rows = compressed.numel() // v_dim
    _gate[(triton.cdiv(rows, GATE_ROWS),)](
        gates, compressed, selected, sliding, output, rows,
        V_DIM=v_dim, V_DIM_PAD=triton.next_power_of_2(v_dim), ROWS=GATE_ROWS, num_warps=4,
    )  # fmt: skip
    return output
