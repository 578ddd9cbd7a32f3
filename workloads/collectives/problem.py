"""What each collective must leave on each rank, element by element: small whole numbers, so that every sum is exact.

Rank r sends the values v(0, r), v(1, r), ... from 1 to 16, hashed from index, rank and a seed of the case. A sum over eight ranks
is at most 128, which bf16 holds exactly too. With n ranks, `count` elements in the buffer that sizes refer to, and a rank's
share m = count / n, element i of rank r's output is

| collective | input | output | element |
|---|---|---|---|
| all_reduce | count | count, in place | sum over s of v(i, s) |
| all_gather | m | count | v(i mod m, s) of rank s = i div m |
| reduce_scatter | count | m | sum over s of v(r m + i, s) |
| broadcast | count | count, in place | v(i, n - 1): the last rank sends, so that rank 0 receives |
| all_to_all | count | count | v(r m + i mod m, s) of rank s = i div m |
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from runner.worker.workload import BYTES_PER_ELEMENT

COLLECTIVES = ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "all_to_all")
IN_PLACE = ("all_reduce", "broadcast")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
CHUNK = 2**22
"""Elements that are checked at a time: each takes some 100 bytes while it is."""

LEAST_REPEATS, MOST_REPEATS, REPEATED_BYTES = 4, 20, 2**24


@dataclass(frozen=True)
class Problem:
    """One collective over `ranks` ranks; `size` is what nccl-tests calls S: the bytes of the larger of a rank's two buffers."""

    collective: str
    ranks: int
    size: int
    dtype: str
    seed: int

    @property
    def count(self) -> int:
        """Elements of `size` bytes."""
        return self.size // BYTES_PER_ELEMENT[self.dtype]

    @property
    def share(self) -> int:
        """Elements that belong to one rank."""
        return self.count // self.ranks

    @property
    def sent(self) -> int:
        """Elements of a rank's input."""
        return self.share if self.collective == "all_gather" else self.count

    @property
    def received(self) -> int:
        """Elements of a rank's output."""
        return self.share if self.collective == "reduce_scatter" else self.count

    @property
    def root(self) -> int:
        """The rank that a broadcast comes from."""
        return self.ranks - 1

    @property
    def repeats(self) -> int:
        """How often it is done for one order: often where it is short, so that telling the other ranks weighs little."""
        return max(LEAST_REPEATS, min(MOST_REPEATS, REPEATED_BYTES // self.size))

    @property
    def fault(self) -> str | None:
        """Why there is no such problem, None when there is."""
        step = BYTES_PER_ELEMENT[self.dtype] * (1 if self.collective in IN_PLACE else self.ranks)
        if self.size % step:
            return f"{self.collective} of {self.dtype} over {self.ranks} ranks needs a multiple of {step} bytes, not {self.size}"
        return None


def value(index: Tensor, rank: Tensor | int, seed: int) -> Tensor:
    """Return v(index, rank), int64 from 1 to 16; two rounds of multiply and shift, which spread every bit of the three."""
    mixed = (index + rank * 0x9E3779B1 + seed) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 12) * 0x297A2D39) & 0xFFFFFFFF
    return ((mixed ^ mixed >> 15) & 15) + 1


def expected(problem: Problem, rank: int, index: Tensor) -> Tensor:
    """Return what `rank` must hold afterwards at the output's elements `index` (int64), int64."""
    share, seed = problem.share, problem.seed
    match problem.collective:
        case "all_reduce":
            return _sum(problem, index)
        case "reduce_scatter":
            return _sum(problem, rank * share + index)
        case "all_gather":
            return value(index % share, index // share, seed)
        case "all_to_all":
            return value(rank * share + index % share, index // share, seed)
        case _:
            return value(index, problem.root, seed)


def _sum(problem: Problem, index: Tensor) -> Tensor:
    total = torch.zeros_like(index)
    for rank in range(problem.ranks):
        total += value(index, rank, problem.seed)
    return total


def fill(buffer: Tensor, problem: Problem, rank: int) -> None:
    """Write what `rank` sends."""
    for start, part in _parts(buffer):
        part.copy_(value(_index(start, part), rank, problem.seed))


def wrong(output: Tensor, problem: Problem, rank: int) -> int:
    """Count the elements of a rank's output that are not what they must be, over all elements; NaN is wrong."""
    found = 0
    for start, part in _parts(output):
        found += int((part.double() != expected(problem, rank, _index(start, part))).sum())
    return found


def truth(problem: Problem, rank: int, device: torch.device) -> Tensor:
    """Return the whole output of a rank in float64."""
    output = torch.empty(problem.received, dtype=torch.float64, device=device)
    for start, part in _parts(output):
        part.copy_(expected(problem, rank, _index(start, part)))
    return output


def _parts(buffer: Tensor) -> list[tuple[int, Tensor]]:
    return [(start, buffer[start : start + CHUNK]) for start in range(0, len(buffer), CHUNK)]


def _index(start: int, part: Tensor) -> Tensor:
    return torch.arange(start, start + len(part), device=part.device)
