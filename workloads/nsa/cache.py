"""The cache of a decode step: keys, values, the compressed tokens pooled from them, and which of all that each branch reads."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from workloads.nsa import compressed
from workloads.nsa.geometry import Geometry

ALIGNMENT = 8
"""Compressed tokens are kept in room for a multiple of this: matrix products with odd sizes take slow kernels."""


class View(NamedTuple):
    """Keys [B, N, Hkv, Dk] and values [B, N, Hkv, Dv] that a query reads; `visible` [B, 1, 1, N] where it does not read all."""

    k: Tensor
    v: Tensor
    visible: Tensor | None

    @property
    def keys(self) -> int:
        """Keys read per KV head, over all sequences."""
        return self.k.shape[0] * self.k.shape[1] if self.visible is None else int(self.visible.sum())


@dataclass
class Cache:
    """Keys k [B, N, Hkv, Dk] and values v [B, N, Hkv, Dv] of up to N tokens; pooled_k and pooled_v [B, C, Hkv, ...] of them.

    `lengths` counts the tokens of each sequence, `ends` the same on the device. What lies beyond has no influence, but must be
    finite where lengths differ. Sequences of one length are read as slices, others with a mask.
    """

    k: Tensor
    v: Tensor
    pooled_k: Tensor
    pooled_v: Tensor
    lengths: list[int]
    ends: Tensor
    geometry: Geometry

    @classmethod
    def of(cls, k: Tensor, v: Tensor, lengths: list[int], geometry: Geometry) -> "Cache":
        """Return a cache that holds the first `lengths` of these keys and values, and their compressed tokens."""
        return cls(
            k, v, _pooled(k, geometry), _pooled(v, geometry), list(lengths), torch.tensor(lengths, device=k.device), geometry
        )

    @property
    def complete(self) -> list[int]:
        """Compressed tokens of each sequence."""
        return [self.geometry.num_compressed(length) for length in self.lengths]

    @property
    def is_even(self) -> bool:
        """Whether all sequences have the same length."""
        return len(set(self.lengths)) == 1

    def append(self, k: Tensor, v: Tensor) -> None:
        """Add one token to each sequence, k [B, Hkv, Dk], v [B, Hkv, Dv], and the compressed token that it completes, if any."""
        rows = torch.arange(len(self.lengths), device=k.device)
        self.k[rows, self.ends], self.v[rows, self.ends] = k, v
        self.lengths = [length + 1 for length in self.lengths]
        self.ends = self.ends + 1
        self.emit()

    def emit(self) -> None:
        """Pool the last l keys and values where a compressed token is due: every d tokens, from the l-th on."""
        length, stride = self.geometry.block_len, self.geometry.stride
        if not any(end >= length and (end - length) % stride == 0 for end in self.lengths):
            return
        for source, pooled in ((self.k, self.pooled_k), (self.v, self.pooled_v)):
            if self.is_even:
                end = self.lengths[0]
                pooled[:, self.complete[0] - 1] = source[:, end - length : end].mean(1, dtype=torch.float32)
            else:  # the newest complete one of every sequence: where none is due, it is written again as it was
                newest = ((self.ends - length).clamp(min=0)) // stride
                rows = torch.arange(len(source), device=source.device)
                place = newest[:, None] * stride + torch.arange(length, device=source.device)
                pooled[rows, newest] = source[rows[:, None], place].mean(1, dtype=torch.float32).to(pooled.dtype)

    def everything(self) -> View:
        """What dense attention reads."""
        most = max(self.lengths)
        return View(self.k[:, :most], self.v[:, :most], None if self.is_even else self._before(self.ends, most))

    def compressed(self) -> View:
        """What the compressed branch reads."""
        most = max(self.complete)
        k, v = self.pooled_k[:, :most], self.pooled_v[:, :most]
        if self.is_even:
            return View(k, v, None)
        complete = (self.ends - self.geometry.block_len).div(self.geometry.stride, rounding_mode="floor") + 1
        return View(k, v, self._before(complete, most))

    def _before(self, ends: Tensor, width: int) -> Tensor:
        return (torch.arange(width, device=ends.device) < ends[:, None])[:, None, None]

    def window(self) -> View:
        """What the sliding branch reads."""
        width = self.geometry.window
        if self.is_even:
            last = slice(max(0, self.lengths[0] - width), self.lengths[0])
            return View(self.k[:, last], self.v[:, last], None)
        place = self.ends[:, None] - width + torch.arange(width, device=self.k.device)
        rows = torch.arange(len(place), device=place.device)[:, None]
        return View(self.k[rows, place.clamp(min=0)], self.v[rows, place.clamp(min=0)], (place >= 0)[:, None, None])


def _pooled(x: Tensor, geometry: Geometry) -> Tensor:
    """Pool into room for a multiple of ALIGNMENT, a head's tokens next to each other in memory: products then need no copy."""
    room = -geometry.num_compressed(x.shape[1]) % ALIGNMENT
    padded = torch.nn.functional.pad(compressed.pool(x, geometry), (0, 0, 0, 0, 0, room))
    return padded.transpose(1, 2).contiguous().transpose(1, 2)
