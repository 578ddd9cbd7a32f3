"""From packed words to numbers by a shift and a mask: a weight's two bits on top of a number are a multiple of the weight.

In fp32, fp16 and bf16 the top two bits are the sign and the highest bit of the exponent: 01 is 2.0, 11 is -2.0 and 00 is zero.
In int8 they are 64, -64 and 0. The factor goes into the scale.

Packed weights are read as words of 16 bits with 8 planes, for int8 activations as bytes with 4: the even bytes are the lower four
planes of a word, the odd ones the upper four. `in_byte_order` brings int8 activations into the order that bytes have.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.packing import GROUP, GROUP_BYTES, PLANES

_GROUP, _GROUP_BYTES = tl.constexpr(GROUP), tl.constexpr(GROUP_BYTES)


def multiple(dtype: torch.dtype) -> int:
    """Return how many times the weight it is that `numbers` gives in `dtype`."""
    return 64 if dtype == torch.int8 else 2


def words(packed: Tensor, dtype: torch.dtype) -> Tensor:
    """Return packed weights [n, bytes] as the words that activations of `dtype` are computed with."""
    return packed if dtype == torch.int8 else packed.view(torch.int16)


@triton.jit
def held_words(weights, feature, n, start, row_words, WIDTH: tl.constexpr) -> tl.tuple:
    """The words [start, start + WIDTH) of each of these rows of weights, and which of their row they are."""
    word = start + tl.arange(0, WIDTH)
    there = (feature < n)[:, None] & (word < row_words)[None, :]
    return word, tl.load(weights + feature.to(tl.int64)[:, None] * row_words + word[None, :], mask=there, other=0)


@triton.jit
def numbers(packed, PLANE: tl.constexpr, dtype: tl.constexpr, PAIRS: tl.constexpr) -> tl.tensor:
    """The weights in the two bits number PLANE of each word, times `multiple(dtype)`.

    PAIRS: two 16-bit words in one instruction, which the compiler does not find; with TRITON_INTERPRET=1 there is no assembly.
    """
    if dtype == tl.int8:
        return ((packed.to(tl.uint8, bitcast=True) << (6 - 2 * PLANE)) & 0xC0).to(tl.int8, bitcast=True)
    elif dtype == tl.float32:
        return ((packed.to(tl.uint16, bitcast=True).to(tl.uint32) << (30 - 2 * PLANE)) & 0xC0000000).to(tl.float32, bitcast=True)
    elif PAIRS:
        top = tl.inline_asm_elementwise(
            f"{{.reg .b32 t; shl.b32 t, $1, {14 - 2 * PLANE}; and.b32 $0, t, 0xC000C000;}}", "=r,r", [packed], tl.int16, True, 2
        )
        return top.to(dtype, bitcast=True)
    else:
        return ((packed.to(tl.uint16, bitcast=True) << (14 - 2 * PLANE)) & 0xC000).to(dtype, bitcast=True)


@triton.jit
def column(word, PLANE: tl.constexpr, PLANES: tl.constexpr) -> tl.tensor:
    """Which activation it meets, in the order of the bytes for int8."""
    WORDS: tl.constexpr = _GROUP // PLANES
    return word // WORDS * _GROUP + PLANE * WORDS + word % WORDS


def planes(dtype: torch.dtype) -> int:
    """Return how many planes the words for activations of `dtype` have."""
    return PLANES // 2 if dtype == torch.int8 else PLANES


@triton.jit
def in_byte_order(k) -> tl.tensor:
    """Where activation number k of a row is for the kernels that take int8."""
    HALF: tl.constexpr = _GROUP // 2
    inside = k % HALF
    return k // _GROUP * _GROUP + inside // 32 * _GROUP_BYTES + inside % 32 * 2 + k % _GROUP // HALF
