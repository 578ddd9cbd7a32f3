"""What a projection is given: models and formats from the workload's params, datasheets, cases; when planned, and from a job."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner.errors import RequestError, nearest
from runner.projection.claims import Claim
from runner.projection.model import Model, Weights
from runner.schema import read
from runner.spec import Case, GpuSpec


@dataclass(frozen=True)
class Params:
    """`params` of conf/workload/roofline.yaml; `kv_bits` is of one number in the KV cache."""

    models: dict[str, Model]
    weights: dict[str, Weights]
    kv_bits: float = 16
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Declared:
    """All that a projection is worked out from. `gpus` are datasheets by choice of `gpu/`, `formats` names of `params.weights`.

    A case with a `context` is a decoding step, one with a `prompt` is the reading of one.
    """

    params: Params
    gpus: dict[str, GpuSpec]
    cases: list[dict[str, Any]]
    formats: list[str]

    @property
    def models(self) -> list[str]:
        """The models in the cases, in their order."""
        return list(dict.fromkeys(str(case["model"]) for case in self.cases))

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Return (model, format) of all that is projected."""
        return [(name, one) for name in self.models for one in self.params.models[name].weights if one in self.formats]


def derive(
    params: Mapping[str, Any], cases: Sequence[Case], formats: Sequence[str], gpus: Mapping[str, GpuSpec]
) -> dict[str, Any]:
    """Return what a job holds of a projection beside the workload's params: datasheets and cases, as plain data.

    Raises RequestError where the params are wrong, or nothing is left to project.
    """
    held = {"gpus": {choice: asdict(one) for choice, one in gpus.items()}, "cases": [dict(case.axes) for case in cases]}
    found = _declared(params, held, formats)
    for index, case in enumerate(held["cases"]):
        if "model" not in case or not ({"batch", "context"} <= {*case} or "prompt" in case):
            raise RequestError(f"case {index} of the grid: expected model and prompt, or model, batch and context")
    if not found.gpus:
        raise RequestError(
            "no datasheet to project from: the config folders have no file in gpu/; name one with --config-dir DIR"
        )
    if not found.pairs:
        own = "; ".join(f"{name}: {', '.join(found.params.models[name].weights)}" for name in found.models)
        raise RequestError(f"workload.variants=[{','.join(formats)}]: no model of the grid has any of them; choose from {own}")
    return held


def of_job(job: Mapping[str, Any]) -> Declared:
    """Return what a job (plain data) projects. Raises RequestError where that is not of this version."""
    return _declared(job["params"], job["derive"].get("projection") or {}, job["variants"])


def _declared(params: Mapping[str, Any], held: Mapping[str, Any], formats: Sequence[str]) -> Declared:
    found = read(Params, params, "workload.params")
    for name, weights in found.weights.items():
        weights.check(f"workload.params.weights.{name}")
    for name in formats:
        if name not in found.weights:
            raise RequestError(f"workload.variants={name}: no such format in params.weights; {nearest(name, found.weights)}")
    for name, model in found.models.items():
        model.check(f"workload.params.models.{name}")
        for one in model.weights:
            if one not in found.weights:
                wrong = f"workload.params.models.{name}.weights={one}: no such format in params.weights"
                raise RequestError(f"{wrong}; {nearest(one, found.weights)}")
    if found.kv_bits <= 0:
        raise RequestError(f"workload.params.kv_bits={found.kv_bits:g}: expected more than 0")
    for index, claim in enumerate(found.claims):
        claim.check(f"workload.params.claims[{index}]", found.models, found.weights)
    try:
        gpus = {str(choice): GpuSpec(**one) for choice, one in (held.get("gpus") or {}).items()}
    except TypeError as error:
        raise RequestError(f"the job has a datasheet that this version does not know ({error}); write the job anew") from error
    return Declared(found, gpus, [dict(case) for case in held.get("cases") or []], list(formats))
