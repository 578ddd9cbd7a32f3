"""What others projected, each figure beside the same arithmetic done here, and what differs between the two."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.errors import RequestError, nearest
from runner.projection import bounds
from runner.projection.model import Model, Weights
from runner.spec import GpuSpec

FIGURES = {"decode": ("batch", "context"), "prefill": ("prompt",), "weights": ()}
"""What a claim may be about, and which numbers its case needs: tokens/s of either phase, or what weights occupy."""


@dataclass(frozen=True)
class Claim:
    """One published projection. `said` is the figure in the source's words, `differs` what is different here and why.

    `figure` is a name of FIGURES; `weights` needs no `gpu`.
    """

    source: str
    said: str
    figure: str
    model: str
    weights: str
    differs: str
    gpu: str = ""
    case: dict[str, int] = field(default_factory=dict)

    def check(self, key: str, models: Iterable[str], weights: Iterable[str]) -> None:
        """Check what types can't say. Raises RequestError."""
        for name, value, choices in (
            ("figure", self.figure, FIGURES),
            ("model", self.model, models),
            ("weights", self.weights, weights),
        ):
            if value not in choices:
                raise RequestError(f"{key}.{name}={value}: no such {name}; {nearest(value, choices)}")
        needed = FIGURES[self.figure]
        if set(self.case) != set(needed) or any(number < 1 for number in self.case.values()):
            raise RequestError(f"{key}.case: expected {', '.join(needed) or 'nothing'}, from 1 on, for figure={self.figure}")
        if bool(self.gpu) == (self.figure == "weights"):
            raise RequestError(
                f"{key}.gpu={self.gpu or 'null'}: expected a choice of gpu/ for decode and prefill, and none for weights"
            )


def beside(
    claims: Iterable[Claim],
    models: Mapping[str, Model],
    weights: Mapping[str, Weights],
    gpus: Mapping[str, GpuSpec],
    kv_bits: float,
) -> list[dict[str, Any]]:
    """Return the claims about these `gpus`, or about no GPU, as rows: what was said, the same here, and what differs."""
    found = []
    for claim in claims:
        if claim.gpu and claim.gpu not in gpus:
            continue
        model, how = models[claim.model], weights[claim.weights]
        row: dict[str, Any] = {"source": claim.source, "gpu": claim.gpu or None, "model": claim.model, "weights": claim.weights}
        row |= {"figure": claim.figure, **claim.case, "said": claim.said}
        if claim.figure == "weights":
            row["projected_gb"] = how.stored_bytes(model) / 1e9
        else:
            bound = bounds.of_case(model, how, gpus[claim.gpu], claim.case, kv_bits)
            row |= {"projected_tokens_per_s": bound.tokens_per_s, "bound_by": bound.by}
        found.append(row | {"differs": claim.differs})
    return found
