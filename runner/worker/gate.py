"""The gate: an output is compared with the float64 reference before it may be timed. NaN never passes."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from runner import spec
from runner.worker.workload import Variant

MAX_POISONED, POISON_BYTES = 32, 2**26


@dataclass(frozen=True)
class GateResult:
    """How far the output was from the reference, and how far it may be (see runner.spec.Gate); inf for what isn't finite."""

    rel_l2: float
    rel_l2_bound: float
    worst: float
    worst_bound: float

    @property
    def failure(self) -> str | None:
        """Why the output is not accepted, None when it is."""
        if not math.isfinite(self.rel_l2):
            return "the output has NaN or infinite values where the reference has none"
        if self.rel_l2 > self.rel_l2_bound:
            return f"relative L2 error {self.rel_l2:.2e} is over {self.rel_l2_bound:.0e}"
        if self.worst > self.worst_bound:
            return f"the worst element is off by {self.worst:.2e} of the reference's RMS, over {self.worst_bound:.0e}"
        return None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the journal, null for what isn't finite."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


def check(output: Tensor, reference: Tensor, variant: Variant, bounds: spec.Gate) -> GateResult:
    """Compare `output` with `reference` (float64, the same shape).

    Raises ValueError when the shapes differ or no bound is known for the variant's dtype.
    """
    if output.shape != reference.shape:
        raise ValueError(f"the output has shape {tuple(output.shape)}, the reference {tuple(reference.shape)}")
    if output.is_complex() and not reference.is_complex():
        raise ValueError("the output is complex, the reference is not")
    if not reference.numel():
        raise ValueError("there is nothing to compare: the reference is empty")
    bound = variant.rel_l2 if variant.rel_l2 is not None else bounds.rel_l2.get(variant.dtype)
    if bound is None:
        raise ValueError(f"no error bound for dtype {variant.dtype}; add measure.gate.rel_l2.{variant.dtype}")
    norm = float(torch.linalg.vector_norm(reference))
    rms = norm / math.sqrt(max(reference.numel(), 1))
    error = output.to(torch.float64) - reference
    rel_l2 = float(torch.linalg.vector_norm(error)) / norm if norm else float(torch.linalg.vector_norm(error))
    worst = float(error.abs().max()) / rms if rms else float(error.abs().max())
    finite = math.isfinite(rel_l2) and math.isfinite(worst)
    return GateResult(rel_l2 if finite else math.inf, bound, worst if finite else math.inf, bound * bounds.worst_factor)


def poison(device: torch.device, nbytes: int) -> None:
    """Fill freed blocks of `nbytes` with 0xFF (NaN in every float format), so that output which is not written shows up.

    Several blocks where they are small: which of them an allocator hands out next is its business.
    """
    count = max(1, min(MAX_POISONED, POISON_BYTES // max(nbytes, 1)))
    blocks = [torch.full((max(nbytes, 1),), 0xFF, dtype=torch.uint8, device=device) for _ in range(count)]
    del blocks
