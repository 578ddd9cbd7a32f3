"""projection.yaml: what was assumed, what follows for every GPU, model and case, what others said. None of it is a metric."""

from typing import Any

from runner.projection import bounds, claims, compared
from runner.projection.declared import Declared
from runner.projection.measured import Measured
from runner.results import Results

SCHEMA = 1
NAME = "projection.yaml"
ASSUMED = {
    "bounds": "A step takes no less than its bytes at the datasheet's bandwidth, and than its operations at the dense peak. "
    "Launches, activations, norms and sampling are left out, and no program reaches either figure.",
    "decode": "A step reads all weights once for the whole batch, and each sequence's KV cache; of an embedding of its own one "
    "row, not counted. The output layer is read and computed in 16 bits. A context has the new token in it.",
    "prefill": "One prompt, with causal attention and the logits of the last token.",
    "arithmetic": "Weights of 8 bits and less are multiplied at the int8 peak, as if activations had 8 bits too; all else at the "
    "bf16 peak. Unpacking and the scales of weights are free.",
    "fits": "Where weights and KV cache are no more than the least memory that a driver reports of such a card: in GiB 2% to 10% "
    "under the datasheet's number. CUDA, activations and fragments take a part of it.",
    "cache": "What stays in the L2 cache from step to step would be read faster: of models of some 100 MB that is a part.",
}


def as_dict(declared: Declared, measured: Measured, results: Results) -> dict[str, Any]:
    """Return the content of `projection.yaml`; its run in MLflow is the one with the tag `session`."""
    params = declared.params
    found = {
        "schema": SCHEMA,
        "kind": "projection",
        "measured_here": "nothing",
        "source": {
            "session": results.session,
            "workload": results.workload,
            "job_hash": results.job_hash,
            "git_sha": results.git["sha"],
            "projected_at": results.started_at,
        },
        "assumed": dict(ASSUMED),
        "datasheets": [_sheet(declared, choice) for choice in declared.gpus],
        "models": weights(declared),
        "projected": projected(declared),
        "claims_of_others": claims.beside(params.claims, params.models, params.weights, declared.gpus, params.kv_bits),
        "measured_elsewhere": {
            "store": measured.store or None,
            "note": measured.note or None,
            "rows": compared.rows(declared, measured),
        },
    }
    rounded: dict[str, Any] = _rounded(found)
    return rounded


def weights(declared: Declared) -> list[dict[str, Any]]:
    """Return a row for each model in each format: parameters, and what they and the KV cache of a token take."""
    found = []
    for name, one in declared.pairs:
        model, how = declared.params.models[name], declared.params.weights[one]
        found.append(
            {
                "model": name,
                "weights": one,
                "parameters": model.parameters,
                "weights_gb": how.stored_bytes(model) / 1e9,
                "read_per_step_gb": how.read_bytes(model) / 1e9,
                "kv_kb_per_token": model.kv_bytes(declared.params.kv_bits) / 1e3,
                "source": model.source,
            }
            | ({"note": model.note} if model.note else {})
        )
    return found


def projected(declared: Declared) -> list[dict[str, Any]]:
    """Return a row for each case in each format on each GPU; tokens per second are null where the model does not fit."""
    return [
        {"gpu": choice, "model": case["model"], "weights": one}
        | {axis: value for axis, value in case.items() if axis != "model"}
        | _bound(declared, choice, case, one)
        for choice in declared.gpus
        for case in declared.cases
        for one in declared.params.models[case["model"]].weights
        if one in declared.formats
    ]


def _bound(declared: Declared, choice: str, case: dict[str, Any], weights: str) -> dict[str, Any]:
    params = declared.params
    bound = bounds.of_case(params.models[case["model"]], params.weights[weights], declared.gpus[choice], case, params.kv_bits)
    return {
        "memory_gb": bound.memory_gb,
        "fits": bound.fits,
        "bound_by": bound.by,
        "projected_ms": bound.ms if bound.fits else None,
        "projected_tokens_per_s": bound.tokens_per_s,
    }


def _sheet(declared: Declared, choice: str) -> dict[str, Any]:
    spec = declared.gpus[choice]
    return {
        "gpu": choice,
        "name": spec.name,
        "memory_gb": spec.memory_gb,
        "least_memory_gib": spec.match_memory_gb[0],
        "bandwidth_gbps": spec.bandwidth_gbps,
        **{f"{dtype}_peak_tflops": peak for dtype, peak in spec.peak_tflops.items()},
        "sources": "; ".join(f"{what}: {source}" for what, source in spec.sources.items()) or "not stated",
    }


def _rounded(data: Any) -> Any:
    """Return plain data with its fractions to six digits: no datasheet has more."""
    if isinstance(data, dict):
        return {key: _rounded(value) for key, value in data.items()}
    if isinstance(data, list):
        return [_rounded(value) for value in data]
    return float(f"{data:.6g}") if isinstance(data, float) else data
