"""The "TriHash" of the report, as its benchmark computed it: no hash, which is why it is here.

From scripts/runpod_benchmark.py of github.com/gHashTag/trinity-fpga: of 256 random trits, the sum of squares XOR the sum of
absolute values. For a trit d, d * d = |d|, so both sums are one number and the XOR is 0 for every input.
"""

import torch
from torch import Tensor

WIDTH = 256
BATCH = 1_000_000
"""The rows that it computed again and again; more than that are not drawn here, as they are never timed."""


def draw(n: int, device: torch.device, generator: torch.Generator) -> Tensor:
    """Return [n, 256] random trits, int8, at most a million rows."""
    return torch.randint(-1, 2, (min(n, BATCH), WIDTH), device=device, dtype=torch.int8, generator=generator)


def trihash(trits: Tensor) -> Tensor:
    """Return what the report calls a hash of each row, [n]."""
    squares = torch.sum(trits * trits, dim=1)
    absolute = torch.sum(torch.abs(trits), dim=1)
    return squares ^ absolute.int()
