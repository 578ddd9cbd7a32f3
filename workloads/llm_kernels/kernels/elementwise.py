"""a + b, and SwiGLU silu(gate) * up: every program does ELEMENTS neighbouring elements, 8 for each thread."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ELEMENTS = 1024


@triton.jit
def _add(a, b, output, count, ELEMENTS: tl.constexpr):
    """Elements of one program."""
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    there = at < count
    total = tl.load(a + at, mask=there).to(tl.float32) + tl.load(b + at, mask=there).to(tl.float32)
    tl.store(output + at, total.to(output.dtype.element_ty), mask=there)


@triton.jit
def _swiglu(gate, up, output, count, ELEMENTS: tl.constexpr):
    """Elements of one program."""
    at = tl.program_id(0).to(tl.int64) * ELEMENTS + tl.arange(0, ELEMENTS)
    there = at < count
    gates = tl.load(gate + at, mask=there).to(tl.float32)
    product = gates / (1.0 + tl.exp(-gates)) * tl.load(up + at, mask=there).to(tl.float32)
    tl.store(output + at, product.to(output.dtype.element_ty), mask=there)


def add(a: Tensor, b: Tensor) -> Tensor:
    """Return a + b of tensors of one shape."""
    output = torch.empty_like(a)
    _add[(triton.cdiv(a.numel(), ELEMENTS),)](a, b, output, a.numel(), ELEMENTS=ELEMENTS, num_warps=4)
    return output


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """Return silu(gate) * up of tensors of one shape, computed in float32."""
    output = torch.empty_like(gate)
    _swiglu[(triton.cdiv(gate.numel(), ELEMENTS),)](gate, up, output, gate.numel(), ELEMENTS=ELEMENTS, num_warps=4)
    return output
