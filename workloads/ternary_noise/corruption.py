"""What is stored of a weight matrix in each number format, and what noise makes of it.

Two kinds of noise, at the same probability p for all formats:

- `values`: each weight is replaced, with probability p, by a value drawn uniformly from the range of its format: one of the
  three trits, one of the 255 codes from -127 to 127, or (fp16) a number between plus and minus the largest weight of its column.
- `bits`: each stored bit is flipped with probability p. An fp16 weight has 16, and may become inf or NaN. An int8 weight has 8,
  and may become the code -128, which is read as it stands. A trit has two: 00 is 0, 01 is 1, 11 is -1; 10 is none and read as 0.

Scales are kept apart and stay as they are.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from workloads.ternary_noise.training import ternary

TRIT_OF_BITS = (0, 1, 0, -1)
"""Of 00, 01, 10 and 11."""


@dataclass(frozen=True)
class Stored:
    """A weight matrix of every seed as it is held in memory: `codes` [seeds, in, out], each times its `scale` in fp32."""

    format: str
    codes: Tensor
    scale: Tensor

    def values(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the weights."""
        return self.codes.to(dtype) * self.scale.to(dtype)


def as_ternary(weights: Tensor) -> Stored:
    """Return weights as trits with one scale for each matrix."""
    trits, scale = ternary(weights)
    return Stored("ternary", trits.to(torch.int8), scale)


def as_int8(weights: Tensor) -> Stored:
    """Return weights as int8 codes with one scale for each column, that is for each output."""
    scale = _largest(weights) / 127
    return Stored("int8", (weights / scale).round().to(torch.int8), scale)


def as_fp16(weights: Tensor) -> Stored:
    """Return weights rounded to half precision."""
    return Stored("fp16", weights.half(), torch.ones(1, 1, 1))


STORE: Mapping[str, Callable[[Tensor], Stored]] = {"ternary": as_ternary, "int8": as_int8, "fp16": as_fp16}


def replaced(clean: Stored, share: float, generator: torch.Generator) -> Stored:
    """Return a copy in which each weight is replaced, with probability `share`, by one drawn from its format's range."""
    codes, shape = clean.codes, clean.codes.shape
    if clean.format == "fp16":
        drawn = (_largest(codes.float()) * (2 * torch.rand(shape, generator=generator) - 1)).half()
    else:
        most = {"ternary": 1, "int8": 127}[clean.format]
        drawn = torch.randint(-most, most + 1, shape, generator=generator, dtype=torch.int8)
    hit = torch.rand(shape, generator=generator) < share
    return replace(clean, codes=torch.where(hit, drawn, codes))


def flipped(clean: Stored, share: float, generator: torch.Generator) -> Stored:
    """Return a copy in which each stored bit is flipped with probability `share`."""
    codes = clean.codes
    mask = _bits(codes.shape, {"ternary": 2, "int8": 8, "fp16": 16}[clean.format], share, generator)
    if clean.format == "fp16":
        return replace(clean, codes=(codes.view(torch.int16) ^ mask).view(torch.float16))
    if clean.format == "int8":
        return replace(clean, codes=codes ^ mask.to(torch.int8))
    bits = (codes & 3) ^ mask  # the two lowest bits of -1, 0 and 1 are 11, 00 and 01
    return replace(clean, codes=torch.tensor(TRIT_OF_BITS, dtype=torch.int8)[bits.long()])


CORRUPT: Mapping[str, Callable[[Stored, float, torch.Generator], Stored]] = {"values": replaced, "bits": flipped}


def _largest(weights: Tensor) -> Tensor:
    """Return the largest |w| of each column, [seeds, 1, out]."""
    return weights.abs().amax(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _bits(shape: torch.Size, count: int, share: float, generator: torch.Generator) -> Tensor:
    """Return int16 numbers of which each of the `count` lowest bits is set with probability `share`."""
    total = torch.zeros(shape, dtype=torch.int16)
    for bit in range(count):
        hit = torch.rand(shape, generator=generator) < share
        total |= hit.to(torch.int16) << bit
    return total
