"""Projected against measured: each figure that a run measured beside what the datasheet says of it."""

from typing import Any

from runner.projection import bounds
from runner.projection.declared import Declared
from runner.projection.measured import Found, Measured


def rows(declared: Declared, measured: Measured) -> list[dict[str, Any]]:
    """Return the measured figures of GPUs that are projected, each with the datasheet's, or the bound that follows from it."""
    return [row for one in measured.found if one.gpu in declared.gpus for row in _rows(declared, one)]


def _rows(declared: Declared, found: Found) -> list[dict[str, Any]]:
    spec = declared.gpus[found.gpu]
    if found.kind == "bandwidth_gbps":
        return [_row(found, "memory bandwidth", "GB/s", spec.bandwidth_gbps)]
    if found.kind == "peak_tflops":
        peak = spec.peak_tflops.get(found.what)
        return [_row(found, f"{found.what} matmul", "TOPS" if found.what == "int8" else "TFLOPS", peak)] if peak else []
    model, params = declared.params.models.get(found.what), declared.params
    context = found.case.get("context", found.case.get("prompt_len", 0) + 1)  # the new token is seen too
    if model is None:
        return []
    batch = found.case.get("batch", 1)
    projected = {
        name: bounds.decode(model, params.weights[name], spec, batch, context, params.kv_bits).tokens_per_s
        for name in model.weights
        if name in declared.formats
    }
    return [_row(found, f"{found.what} decode, {name}", "tokens/s", bound) for name, bound in projected.items() if bound]


def _row(found: Found, what: str, unit: str, projected: float) -> dict[str, Any]:
    return {
        "gpu": found.gpu,
        "what": what,
        "unit": unit,
        "projected": projected,
        "measured": found.value,
        "measured_pct": 100 * found.value / projected,
        "case": found.case,
        "workload": found.workload,
        "run_id": found.run_id,
        "started_at": found.started_at,
    }
