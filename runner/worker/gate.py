"""The gate: an output is compared with the float64 reference before it may be timed. NaN never passes."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from runner import spec

FLOOR = 1e-3
"""Rows near zero are held against this share of the rows' root mean square instead of their own norm."""

MAX_POISONED, POISON_BYTES = 32, 2**26


@dataclass(frozen=True)
class GateResult:
    """How far the output was from the reference, and how far it may be (see runner.spec.Gate); inf for what isn't finite."""

    rel_l2: float
    rel_l2_bound: float
    worst: float
    worst_bound: float
    worst_row: float
    worst_row_bound: float

    @property
    def failure(self) -> str | None:
        """Why the output is not accepted, None when it is."""
        if not math.isfinite(self.rel_l2):
            return "the output has NaN or infinite values where the reference has none"
        if self.rel_l2 > self.rel_l2_bound:
            return f"relative L2 error {self.rel_l2:.2e} is over {self.rel_l2_bound:.0e}"
        if self.worst > self.worst_bound:
            return f"the worst element is off by {self.worst:.2e} of itself and its row's RMS, over {self.worst_bound:.0e}"
        if self.worst_row > self.worst_row_bound:
            return f"relative L2 error {self.worst_row:.2e} in one row is over {self.worst_row_bound:.0e}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the journal, null for what isn't finite."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def check(output: Tensor, reference: Tensor, bound: float, bounds: spec.Gate) -> GateResult:
    """Compare `output` with `reference` (float64, the same shape); `bound` is on the relative L2 error.

    Raises ValueError when the shapes differ or there is nothing to compare.
    """
    if output.shape != reference.shape:
        raise ValueError(f"the output has shape {tuple(output.shape)}, the reference {tuple(reference.shape)}")
    if output.is_complex() and not reference.is_complex():
        raise ValueError("the output is complex, the reference is not")
    if not reference.numel():
        raise ValueError("there is nothing to compare: the reference is empty")
    rows = reference if reference.ndim > 1 else reference[None]
    error = (output.to(torch.float64) - reference).reshape(rows.shape)
    norm, off = float(torch.linalg.vector_norm(rows)), float(torch.linalg.vector_norm(error))
    row_norms = torch.linalg.vector_norm(rows, dim=-1, keepdim=True).clamp(min=FLOOR * norm / math.sqrt(rows[..., 0].numel()))
    row = float((torch.linalg.vector_norm(error, dim=-1, keepdim=True) / row_norms).max()) if norm else off
    worst = float((error.abs() / (rows.abs() + row_norms / math.sqrt(rows.shape[-1]))).max()) if norm else off
    found = (off / norm if norm else off, worst, row)
    rel_l2, worst, row = found if all(map(math.isfinite, found)) else (math.inf,) * 3
    return GateResult(rel_l2, bound, worst, bound * bounds.worst_factor, row, bound * bounds.row_factor)


def poison(device: torch.device, nbytes: int) -> None:
    """Fill freed blocks of `nbytes` with 0xFF (NaN in every float format), so that output which is not written shows up.

    Several blocks where they are small: which of them an allocator hands out next is its business.
    """
    count = max(1, min(MAX_POISONED, POISON_BYTES // max(nbytes, 1)))
    blocks = [torch.full((max(nbytes, 1),), 0xFF, dtype=torch.uint8, device=device) for _ in range(count)]
    del blocks
