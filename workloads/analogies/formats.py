"""How a row of the vocabulary is held: fp32, fp16, int8, and ternary in two bits or, as the report's program had it, in bytes.

A row's length doesn't matter to a cosine, so what scales a quantised row is one over the length of its codes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

ROW_BYTES = 16
"""Rows of codes are padded to a multiple of this, so that a GPU can load them in pieces of 16 bytes."""

THRESHOLD = 0.5
"""A number is 1 or -1 where it is larger than this share of its row's mean |x|, else 0: the rule of the report's program."""

Codes = tuple[Tensor, Tensor]
"""Codes [words, ...], and the factor of each row [words] in fp32; none where the codes are the unit vectors themselves."""


@dataclass(frozen=True)
class Format:
    """A storage format: `quantise` vectors [words, dim] of length 1, `unpack` some rows of codes into numbers [n, dim'].

    dim' is dim, and zeros that padding adds. `bits` are those of a number, `clamped` whether a query is made of trits too.
    """

    quantise: Callable[[Tensor], Codes]
    unpack: Callable[[Tensor], Tensor]
    bits: int
    clamped: bool = False


def rows(stored: Format, codes: Tensor, scale: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the vectors at `index` (of any shape) that are really stored, each with length 1 but for rounding."""
    found = stored.unpack(codes[index]).to(dtype)
    return found * scale[index].to(dtype)[..., None] if len(scale) else found


def queries(stored: Format, codes: Tensor, scale: Tensor, batch: Tensor, dtype: torch.dtype) -> Tensor:
    """Return b - a + c of questions [B, 4], [B, dim'].

    Clamped, it is the sign of the sum of trits, as the report's program has it, divided by its length.
    """
    if stored.clamped:
        a, b, c = stored.unpack(codes[batch[:, :3]]).to(dtype).unbind(1)
        trits = (b - a + c).sign()
        return trits / trits.abs().sum(-1, keepdim=True).clamp(min=1).sqrt()
    a, b, c = rows(stored, codes, scale, batch[:, :3], dtype).unbind(1)
    return b - a + c


def trits(vectors: Tensor) -> Tensor:
    """Return the trits of each row, int8."""
    threshold = THRESHOLD * vectors.abs().mean(1, keepdim=True)
    return torch.where(vectors.abs() > threshold, vectors.sign(), 0.0).to(torch.int8)


def pack(values: Tensor) -> Tensor:
    """Return trits [words, dim] packed four to a byte, uint8 [words, ROW_BYTES n].

    Byte j has the numbers j, j + m, j + 2 m and j + 3 m, each plus one in two bits, the first lowest; m is the bytes of a row.
    """
    width = _padded(-(-values.shape[1] // 4))
    planes = (pad(values, (0, 4 * width - values.shape[1])) + 1).to(torch.uint8).unflatten(1, (4, width))
    packed: Tensor = planes[:, 0]
    for plane in range(1, 4):
        packed = packed | planes[:, plane] << 2 * plane
    return packed


def unpack(packed: Tensor) -> Tensor:
    """Return the trits [..., 4 m] of packed rows [..., m], int8."""
    return torch.cat([((packed >> 2 * plane) & 3).to(torch.int8) - 1 for plane in range(4)], dim=-1)


def _fp16(vectors: Tensor) -> Codes:
    return vectors.half(), vectors.new_empty(0)


def _fp32(vectors: Tensor) -> Codes:
    return vectors, vectors.new_empty(0)


def _int8(vectors: Tensor) -> Codes:
    largest = vectors.abs().amax(1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
    codes = (vectors / largest * 127).round().to(torch.int8)
    return _pad(codes), _one_over_length(codes)


def _ternary(vectors: Tensor) -> Codes:
    codes = trits(vectors)
    return pack(codes), _one_over_length(codes)


def _trits_in_bytes(vectors: Tensor) -> Codes:
    codes = trits(vectors)
    return _pad(codes), _one_over_length(codes)


def _one_over_length(codes: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(codes.float(), dim=1)
    return length.clamp(min=1).reciprocal()


def _pad(codes: Tensor) -> Tensor:
    return pad(codes, (0, _padded(codes.shape[1]) - codes.shape[1]))


def _padded(count: int) -> int:
    return -(-count // ROW_BYTES) * ROW_BYTES


def _as_they_are(codes: Tensor) -> Tensor:
    return codes


FORMATS = {
    "fp32": Format(_fp32, _as_they_are, bits=32),
    "fp16": Format(_fp16, _as_they_are, bits=16),
    "int8": Format(_int8, _as_they_are, bits=8),
    "ternary": Format(_ternary, unpack, bits=2),
    "ternary_both": Format(_trits_in_bytes, _as_they_are, bits=8, clamped=True),
}
