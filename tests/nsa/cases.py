"""Random geometries, cases and tensors for the tests here, and the gate as the engine applies it."""

from collections.abc import Mapping
from typing import Any

import torch
import yaml
from hypothesis import strategies as st
from torch import Tensor

from runner import spec
from runner.paths import conf_dir
from runner.worker import gate
from runner.worker.workload import Context, Inputs, Variant, Workload, tensors
from workloads.nsa.geometry import Geometry

CPU = torch.device("cpu")
PARAMS = {"check_rows": 4096}
BOUNDS = spec.Gate(**yaml.safe_load((conf_dir() / "measure" / "default.yaml").read_text())["gate"])
SEEDS = st.integers(0, 2**31)


@st.composite
def geometries(draw, max_stride: int = 6, max_ratio: int = 4) -> Geometry:
    """l and l' up to `max_ratio` strides, in any relation to each other."""
    stride = draw(st.integers(1, max_stride))
    ratios = st.integers(1, max_ratio)
    return Geometry(
        stride * draw(ratios), stride, stride * draw(ratios), num_select=draw(st.integers(3, 6)), window=draw(st.integers(1, 40))
    )


@st.composite
def axes(draw, length: str, max_len: int = 100, **fixed: Any) -> dict[str, Any]:
    """A case: groups of 1 to 8 heads, odd lengths, batches, values of another width; `length` is its length's name.

    Values are 8 wide or more: the few elements of a narrower row may all be near zero, and the gate bounds errors by row.
    """
    g = draw(geometries())
    kv_heads = draw(st.integers(1, 2))
    head_dim = draw(st.sampled_from([8, 12, 16]))
    found = {
        length: draw(st.integers(g.block_len, max_len)),
        "batch": draw(st.integers(1, 2)),
        "dtype": draw(st.sampled_from(["fp32", "bf16"])),
        "heads": kv_heads * draw(st.integers(1, 8)),
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "v_head_dim": draw(st.sampled_from([0, 8, head_dim])),
        "block_len": g.block_len,
        "stride": g.stride,
        "select_len": g.select_len,
        "num_select": g.num_select,
        "window": g.window,
        "lengths": draw(st.sampled_from(["equal", "ragged"])),
    }
    return found | fixed


def axes_of(g: Geometry, **others: Any) -> dict[str, Any]:
    """One case of this geometry: two sequences, 4 query heads on 2 KV heads, fp32."""
    lengths = {name: getattr(g, name) for name in ("block_len", "stride", "select_len", "num_select", "window")}
    shape = {"batch": 2, "dtype": "fp32", "heads": 4, "kv_heads": 2, "head_dim": 8, "v_head_dim": 0, "lengths": "equal"}
    return shape | lengths | others


def randn(seed: int, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Normal values, drawn in float32, so that they are the same in every dtype up to its rounding."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def problem(workload: Workload, case: Mapping[str, Any], seed: int = 0, **params: int) -> Inputs:
    """A case's inputs on the CPU."""
    return workload.inputs(case, Context(CPU, PARAMS | params, torch.Generator().manual_seed(seed)))


def check(workload: Workload, variant: Variant, case: Mapping[str, Any], inputs: Inputs) -> gate.GateResult:
    """Prepare, run once and compare, as `runner.worker.engine` does; raises Unsupported where the variant does.

    Raises AssertionError when the variant counts something else than the closed form, or changes its inputs.
    """
    operation = workload.operations[variant.operation]
    reference = operation.reference(*inputs).to(torch.float64)
    assert torch.isfinite(reference).all()
    prepared = variant.prepare(inputs)
    before = [tensor.clone() for tensor in tensors(inputs)]
    gate.poison(CPU, reference.numel() * 4)
    output = variant.run(*prepared)
    own = variant.rel_l2(case) if callable(variant.rel_l2) else variant.rel_l2
    bound = BOUNDS.rel_l2[variant.dtype_of(case)] if own is None else own
    result = gate.check(variant.finish(output, prepared), reference, bound, BOUNDS)
    if variant.counters is not None:
        counted, expected = variant.counters(output, prepared), operation.counters(case, PARAMS)
        assert counted == expected, f"counted {counted}, expected {expected}"
    for kept, used in zip(before, tensors(inputs), strict=True):
        assert torch.equal(kept, used), "it changed its inputs"
    return result


def failure(workload: Workload, name: str, case: Mapping[str, Any], seed: int = 0) -> str | None:
    """Why the gate doesn't let a variant pass on a case, None when it does."""
    return check(workload, workload.variants[name], case, problem(workload, case, seed)).failure
