"""Rotary position embedding: one program rotates some heads of one token, whose angles it reads once."""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_HEADS = 32
"""Heads of a program."""


@triton.jit
def _rope(x, cos, sin, output, heads, DIM: tl.constexpr, HALF_PAD: tl.constexpr, HEADS: tl.constexpr):
    """Pairs (i, i + DIM / 2) of HEADS heads; both halves of the tables are the same, so the first is read."""
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    pair = tl.arange(0, HALF_PAD)
    in_half = pair < DIM // 2
    c = tl.load(cos + token * DIM + pair, mask=in_half, other=0.0).to(tl.float32)[None, :]
    s = tl.load(sin + token * DIM + pair, mask=in_half, other=0.0).to(tl.float32)[None, :]
    there = (head[:, None] < heads) & in_half[None, :]
    at = (token * heads + head[:, None]) * DIM + pair[None, :]
    low = tl.load(x + at, mask=there, other=0.0).to(tl.float32)
    high = tl.load(x + at + DIM // 2, mask=there, other=0.0).to(tl.float32)
    tl.store(output + at, (low * c - high * s).to(output.dtype.element_ty), mask=there)
    tl.store(output + at + DIM // 2, (high * c + low * s).to(output.dtype.element_ty), mask=there)


def rope(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Return x [T, H, D] rotated by the angles whose cosines and sines [T, D] are given, their two halves equal."""
    tokens, heads, dim = x.shape
    output = torch.empty_like(x)
    of_program = min(MAX_HEADS, triton.next_power_of_2(heads))
    _rope[(tokens, triton.cdiv(heads, of_program))](
        x, cos, sin, output, heads, DIM=dim, HALF_PAD=triton.next_power_of_2(dim // 2), HEADS=of_program, num_warps=4
    )
    return output
