"""The kernels of a language model's layers: what each computes, the least work of each, and from config to report."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from runner import journal
from runner.compose import compose
from runner.spec import Gate
from runner.worker import gate
from runner.worker.workload import Context, Unsupported, tensors
from tests.jobs import ROOT
from tests.llm_kernels_interpreted import CASES, SIZES
from workloads.llm_kernels import WORKLOAD
from workloads.llm_kernels.ops import OPS, angles, distinct_ids, rotate

BOUNDS = Gate(rel_l2={"fp32": 1e-5, "fp16": 1e-2, "bf16": 1e-2})
ROUNDING = {"fp32": 2e-6, "fp16": 1e-3, "bf16": 8e-3}
"""What one rounding of the result allows, and the sums in float32 before it; the interpreter cuts to bfloat16 instead."""

EVERY_OP = pytest.mark.parametrize("op", OPS)
few = settings(max_examples=8, deadline=None)

sizes = st.fixed_dictionaries(
    {"hidden": st.integers(1, 40), "intermediate": st.integers(1, 40), "vocab": st.integers(1, 40), "heads": st.integers(1, 4)}
    | {"head_dim": st.integers(1, 8).map(lambda half: 2 * half)}
)


def case(op: str, count: int, dtype: str = "fp32") -> dict[str, Any]:
    return {"op": op, "dtype": dtype, OPS[op].axis: count}


def inputs(axes: dict[str, Any], params: dict[str, int], seed: int = 0) -> Any:
    return WORKLOAD.inputs(axes, Context(torch.device("cpu"), params, torch.Generator().manual_seed(seed)))


def failure(variant: str, axes: dict[str, Any], params: dict[str, int], seed: int = 0) -> str | None:
    """Why the gate doesn't let a variant pass, None when it does."""
    given = inputs(axes, params, seed)
    before = [one.clone() for one in tensors(given)]
    chosen = WORKLOAD.variants[variant]
    found = chosen.run(*chosen.prepare(given))
    assert all(torch.equal(one, kept) for one, kept in zip(tensors(given), before, strict=True))
    return gate.check(found, WORKLOAD.reference(*given), BOUNDS.rel_l2[axes["dtype"]], BOUNDS).failure


# ---- what is computed


@EVERY_OP
@few
@given(sizes, st.integers(1, 50), st.sampled_from(["fp32", "fp16", "bf16"]), st.integers(0, 99))
def test_pytorchs_own_way_passes_the_gate_on_any_shape(op, params, count, dtype, seed):
    params = params | {"vocab": params["vocab"] + 8, "hidden": params["hidden"] + 8, "intermediate": params["intermediate"] + 8}
    assert failure("eager", case(op, count + 8, dtype), params, seed) is None


@EVERY_OP
@few
@given(sizes, st.integers(2, 50), st.sampled_from(["fp32", "bf16"]), st.integers(0, 99))
def test_the_gate_sees_one_wrong_element(op, params, count, dtype, seed):
    given = inputs(case(op, count, dtype), params, seed)
    truth = WORKLOAD.reference(*given)
    wrong = WORKLOAD.variants["eager"].run(*WORKLOAD.variants["eager"].prepare(given)).double()
    wrong.view(-1)[-1] += truth.abs().max()
    assert gate.check(wrong, truth, BOUNDS.rel_l2[dtype], BOUNDS).failure is not None


@few
@given(st.integers(1, 30), st.integers(1, 16), st.integers(1, 3), st.integers(0, 99))
def test_a_rotation_keeps_the_length_of_every_head(tokens, half, heads, seed):
    x = torch.randn(tokens, heads, 2 * half, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turned = rotate(x, *angles(tokens, 2 * half, x.device))
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[0], x[0])


@few
@given(st.integers(0, 20), st.integers(0, 20), st.integers(0, 40), st.integers(0, 99))
def test_products_of_rotated_vectors_depend_on_their_distance_alone(one, other, shift, seed):
    q, k = torch.randn(2, 1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    turned = [rotate(x.expand(64, 1, 16), *angles(64, 16, x.device))[:, 0] for x in (q, k)]
    here, there = ((turned[0][at] * turned[1][other + at - one]).sum() for at in (one, one + shift))
    torch.testing.assert_close(here, there)


def test_ids_are_all_different_until_the_vocabulary_is_used_up():
    generator = torch.Generator().manual_seed(0)
    ids = distinct_ids(250, 100, generator)
    assert [len(set(ids[start : start + 100].tolist())) for start in (0, 100)] == [100, 100]
    assert ids[:100].tolist() != sorted(ids[:100].tolist())
    assert not torch.equal(ids, distinct_ids(250, 100, generator))


def test_a_size_of_another_kind_is_refused_with_what_to_type():
    with pytest.raises(Unsupported, match=r"rmsnorm is measured over rows: give workload.rows=\[16,1024\] beside"):
        inputs({"op": "rmsnorm", "dtype": "fp32", "elements": 16}, SIZES["odd"])


# ---- the Triton kernels, interpreted


@pytest.fixture(scope="module")
def interpreted() -> dict[str, float]:
    """The errors on all cases; the kernels run in a process of their own, see there."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.llm_kernels_interpreted"]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton isn't installed")
@pytest.mark.parametrize("name", CASES)
def test_a_triton_kernel_is_the_reference_up_to_rounding(interpreted, name):
    assert interpreted[name] <= ROUNDING[CASES[name][3]]


def test_every_kernel_is_interpreted_in_every_dtype_that_can_be():
    found = {(op, dtype) for op, _, _, dtype in CASES.values()}
    assert found == {(op, dtype) for op in OPS for dtype in ROUNDING} - {("matmul", "bf16")}


@EVERY_OP
def test_triton_says_why_it_can_not_run_on_a_cpu(op):
    with pytest.raises(Unsupported, match=r"Triton kernels need a GPU|Triton isn't installed"):
        failure("triton", case(op, 4), SIZES["odd"])


def test_compile_says_that_it_needs_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unsupported, match=r"there is no C\+\+ compiler; install g\+\+"):
        failure("compile", case("add", 4), SIZES["odd"])


# ---- the least work


@EVERY_OP
@few
@given(sizes, st.integers(1, 60), st.sampled_from(["fp32", "bf16"]))
def test_bytes_are_those_of_what_is_read_and_written_each_once(op, params, count, dtype):
    _, *given = inputs(case(op, count, dtype), params)
    moved = sum(one.nbytes for one in tensors(given)) + OPS[op].eager(*given).nbytes
    if op == "embedding":  # of the table only the rows that are asked for
        ids, table = given
        moved -= (len(table) - len(set(ids.tolist()))) * table[0].nbytes
    if op == "rope":  # both halves of the tables are the same
        moved -= given[1].nbytes // 2 + given[2].nbytes // 2
    assert WORKLOAD.work(case(op, count, dtype), params, dtype).bytes == moved


@few
@given(sizes, st.integers(1, 60), st.sampled_from(["gemv", "matmul"]))
def test_operations_of_products_are_those_that_pytorch_counts(params, count, op):
    """The bias, which PyTorch leaves out, is one addition an element."""
    _, *given = inputs(case(op, count), params)
    with FlopCounterMode(display=False) as counter:
        if op == "gemv":
            _ = given[0] @ given[1][:, None]
        else:
            output = OPS[op].eager(*given)
    bias = 0 if op == "gemv" else output.numel()
    assert WORKLOAD.work(case(op, count), params, "fp32").ops == counter.get_total_flops() + bias


# ---- config to report


def test_the_config_has_every_operation_with_the_axis_that_it_is_measured_over():
    config = compose(["workload=kernels"]).config.workload
    assert set(config.axes["op"].choices or []) == set(OPS)
    for blocks in config.grids.values():
        assert all(block["x"] == OPS[block["op"]].axis for block in blocks.values())
    for grid in ("full", "lineup"):
        assert {block["op"] for block in config.grids[grid].values()} == set(OPS)
    found = {(one.where["op"], one.axis, one.candidate) for one in config.thresholds}
    assert found == {(op, OPS[op].axis, candidate) for op in OPS for candidate in ("compile", "triton")}


@pytest.mark.long
@pytest.mark.slow
def test_the_small_grid_from_config_to_report(tmp_path):
    """Compiling takes most of the time."""
    times = ["measure=quick", "measure.cpu_threads=1", "measure.max_time_s=0.05", "measure.warmup.max_s=0.05"]
    command = [sys.executable, "-m", "runner", "workload=kernels", *times, "tracking.enabled=false", f"run_dir={tmp_path}"]
    done = subprocess.run([*command, "display=plain"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = list(journal.measurements(journal.read(tmp_path)))
    statuses = {event["status"] for event in found if event["variant"] == "eager" or shutil.which("g++")}
    assert statuses <= {"ok", "noisy"}
    assert [event["variant"] for event in found].count("compile") == 2
    assert "rmsnorm_compile_min_rows" in (tmp_path / "thresholds.yaml").read_text()
