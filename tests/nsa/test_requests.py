"""The three workloads compose, plan and have cases that mean something; what can't be is one line before anything runs."""

import functools
import importlib
import itertools
import sys
import types
from collections.abc import Iterator

import pytest
import yaml

from runner import plan
from runner.cli import main
from runner.compose import compose
from runner.job import Job
from runner.paths import conf_dir
from workloads.nsa.problem import shape_of

WORKLOADS = ["nsa_prefill", "nsa_decode", "fa2_thresholds"]
TARGETS = {"h200": ["gpu=h200", "launch.dry_run=true"], "cpu": ["gpu=local", "launch.dry_run=true"]}
EVERYWHERE = pytest.mark.parametrize(("workload", "target"), list(itertools.product(WORKLOADS, TARGETS)))


@functools.cache
def planned(workload: str, target: str, *overrides: str) -> plan.Plan:
    made = compose([f"workload={workload}", *TARGETS[target], *overrides])
    return plan.make(made.config, made.folders, made.overrides, ())


def job_of(workload: str, target: str, *overrides: str) -> Job:
    return planned(workload, target, *overrides).job


def declared(job: Job):
    return importlib.import_module(job.module).WORKLOAD


@EVERYWHERE
def test_it_plans(workload, target):
    made = planned(workload, target)
    assert made.job.device == {"h200": "cuda", "cpu": "cpu"}[target]
    assert f"workload   {workload}" in "\n".join(plan.describe(made))


@EVERYWHERE
def test_every_case_is_a_shape(workload, target):
    job = job_of(workload, target)
    shapes = [shape_of(case.axes, job.params) for case in job.cases]
    assert all(min(shape.lengths) >= shape.geometry.block_len for shape in shapes)
    assert {shape.dtype for shape in shapes} == ({"fp32"} if target == "cpu" else {shape.dtype for shape in shapes} - {"fp32"})


@EVERYWHERE
def test_every_variant_is_declared_and_computes_what_is_declared(workload, target):
    job = job_of(workload, target)
    named = {*job.variants, *(name for case in job.cases for name in case.variants or ())}
    for name in named:
        assert declared(job).computed_by(name).counters or name.startswith(("scoring", "combine"))


@EVERYWHERE
def test_every_threshold_compares_variants_that_compute_the_same_or_the_whole_with_dense_attention(workload, target):
    job = job_of(workload, target)
    for one in job.derive["thresholds"]:
        pair = {declared(job).variants[one[side]].operation for side in ("baseline", "candidate")}
        assert len(pair) == 1 or pair == {"dense", "whole"}


@EVERYWHERE
def test_the_work_of_the_smallest_case_is_more_than_nothing(workload, target):
    job = job_of(workload, target)
    case = min(job.cases, key=lambda case: shape_of(case.axes, job.params).seq_len)
    for name in job.variants:
        work = declared(job).computed_by(name).work(case.axes, job.params, str(case.axes["dtype"]))
        assert work.ops > 0
        assert work.bytes > 0


@pytest.mark.parametrize("workload", ["nsa_prefill", "nsa_decode"])
def test_the_default_shape_is_the_papers_but_for_head_dims(workload):
    shape = shape_of(job_of(workload, "h200").cases[0].axes, {})
    g = shape.geometry
    assert (shape.heads, shape.kv_heads, g.block_len, g.stride, g.select_len, g.num_select, g.window) == (
        64, 4, 32, 16, 64, 16, 512,
    )  # fmt: skip


@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_variant_of_the_file_is_in_the_module(workload):
    given = yaml.safe_load((conf_dir() / "workload" / f"{workload}.yaml").read_text())
    assert set(given["variants"]) <= set(importlib.import_module(given["module"]).WORKLOAD.variants)


def test_the_training_grid_has_a_backward_pass():
    job = job_of("nsa_prefill", "h200", "workload.grid=train")
    assert all(shape_of(case.axes, job.params).backward for case in job.cases)


def test_an_override_replaces_an_axis():
    shapes = [shape_of(case.axes, {}) for case in job_of("nsa_prefill", "cpu", "workload.window=[64,256]").cases]
    assert sorted({shape.geometry.window for shape in shapes}) == [64, 256]


def test_the_threshold_of_the_compressed_branch_counts_what_the_last_query_sees():
    for case in job_of("fa2_thresholds", "cpu").cases:
        if "cmp_len" in case.axes:
            shape = shape_of(case.axes, {})
            assert shape.geometry.visible_compressed(shape.seq_len - 1) == case.axes["cmp_len"]


# ---- what can't be


@pytest.fixture(autouse=True)
def ran(monkeypatch: pytest.MonkeyPatch, tmp_path) -> Iterator[list[str]]:
    """A stand-in where jobs are run: it plans, as the program does, and notes what would run."""
    started: list[str] = []

    def run(config, overrides, folders) -> int:
        started.append(plan.make(config, folders, overrides, ()).job.workload)
        return 0

    app = types.ModuleType("runner.app")
    app.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runner.app", app)
    monkeypatch.chdir(tmp_path)
    yield started
    assert list(tmp_path.iterdir()) == []


def test_a_right_request_would_run(ran):
    assert main(["workload=nsa_decode"]) == 0
    assert ran == ["nsa_decode"]


@pytest.mark.parametrize(("workload", "override", "message"), [
    ("nsa_prefill", "stride=12", "workload.block_len=32: expected a multiple of stride=12"),
    ("nsa_prefill", "select_len=72", "workload.select_len=72: expected a multiple of stride=16"),
    ("nsa_prefill", "heads=7", "workload.heads=7: expected a multiple of kv_heads=2; try workload.heads=8"),
    ("nsa_prefill", "num_select=2", "workload.num_select=2: expected 3 to 1024 blocks"),
    ("nsa_prefill", "window=0", "workload.window=0: expected 1 to 1048576 tokens"),
    ("nsa_prefill", "seq_len=16", "workload.seq_len=16: expected at least block_len=32; try workload.seq_len=32"),
    ("nsa_prefill", "dtype=fp8", "workload.dtype=fp8: no such choice; choose from bf16, fp16, fp32"),
    ("nsa_prefill", "pass=backward", "workload.pass=backward: no such choice; did you mean forward_backward?"),
    ("nsa_prefill", "lengths=uneven", "workload.lengths=uneven: no such choice; choose from equal, ragged"),
    ("nsa_decode", "stride=0", "workload.stride=0: expected 1 to 4096 tokens"),
    ("nsa_decode", "kv_heads=3", "expected a multiple of kv_heads=3"),
    ("nsa_decode", "context=31", "workload.context=31: expected at least block_len=32; try workload.context=32"),
    ("nsa_decode", "seq_len=64", "seq_len"),
    ("fa2_thresholds", "window=0", "workload.window=0: expected 1 to 1048576 tokens"),
    ("fa2_thresholds", "cmp_len=0", "workload.cmp_len=0: expected 1 to 65536 compressed tokens"),
    ("fa2_thresholds", "seq_len=16", "workload.seq_len=16: expected at least block_len=32"),
    ("fa2_thresholds", "branch=dense", "workload.branch=dense: no such choice; choose from compressed, selected, sliding"),
])  # fmt: skip
def test_what_can_not_be_is_one_line_and_code_2(workload, override, message, ran, capsys: pytest.CaptureFixture[str]):
    assert main([f"workload={workload}", f"workload.{override}"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith("error: ")
    assert printed.count("\n") == 1
    assert message in printed
    assert ran == []
