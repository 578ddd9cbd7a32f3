"""Saved experiments and published figures: each composes, plans what it says it does, and can be looked at before it is paid for.

A file of `conf/experiment` or `conf/reported` that is not named here, or not in docs/experiments.md, fails.
"""

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from runner import plan
from runner.compose import compose, load
from runner.job import Job
from runner.paths import conf_dir
from runner.report.table import COLUMNS
from runner.reported import Figure
from runner.spec import Case
from tests.jobs import ROOT
from workloads.nsa.geometry import Geometry

WORKLOADS = sorted(path.stem for path in (conf_dir() / "workload").glob("*.yaml"))
CARD = ["inspect", "matmul"]
DIRECT = [*CARD, "ternary", "ternary_noise", "hash_rate", "bitnet"]


@dataclass(frozen=True)
class Expected:
    """What an experiment is about: each of `gpus` (choices of `gpu/`) with each of `workloads`, and whose figures it shows."""

    gpus: list[str]
    workloads: list[str]
    reported: str | None = None


EXPECTED = {
    "decode_4090_report": Expected(["local"], ["nsa_decode"], "decode_4090"),
    "gpu_lineup": Expected(["local"], WORKLOADS),
    "h200_ceilings": Expected(["h200"], ["matmul"]),
    "kernels_3090_report": Expected(["3090"], [*CARD, "kernels", "collectives", "roofline"], "kernels_3090"),
    "m4_decision": Expected(["local"], ["nsa_decode"]),
    "nsa_4090_report": Expected(["local"], ["nsa_prefill"], "nsa_4090"),
    "runpod_4090_report": Expected(["4090"], [*CARD, "ternary", "bitnet", "analogies"], "runpod_4090"),
    "runpod_direct_report": Expected(["4090", "3090"], DIRECT, "runpod_direct"),
}
FILES = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
REPORTED = sorted(path.stem for path in (conf_dir() / "reported").glob("*.yaml"))
PAGE = (ROOT / "docs" / "experiments.md").read_text()
SHOWN = re.findall(r"^\| `python -m (runner experiment=[^`]+)` \|(.*)\|$", PAGE, re.MULTILINE)
"""The commands of docs/experiments.md, each with what the page quotes from its dry run."""
every_experiment = pytest.mark.parametrize("name", FILES)


def overrides_of(name: str) -> list[list[str]]:
    """Return what Hydra is given for each job of an experiment: by itself, or by the sweep that its file asks for."""
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.types import RunMode

    from runner.sweep.expand import expand

    typed = [f"experiment={name}"]
    cfg = load(typed)
    if cfg.hydra.mode != RunMode.MULTIRUN:
        return [typed]
    parser = OverridesParser.create(config_loader=ConfigLoaderImpl(create_config_search_path(str(conf_dir()))))
    axes = [f"{key}={value}" for key, value in cfg.hydra.sweeper.params.items()]
    return expand(parser.parse_overrides([*axes, *typed]), cfg.sweep.zip)


@cache
def plans(name: str) -> list[plan.Plan]:
    """Return the plans of an experiment's jobs, for a machine without GPUs."""
    found = []
    for overrides in overrides_of(name):
        composed = compose([*overrides, "launch.dry_run=true"])
        found.append(plan.make(composed.config, composed.folders, composed.overrides, detected=()))
    return found


@cache
def jobs_on_a_gpu(name: str) -> list[Job]:
    """Return an experiment's jobs, on an RTX 4090 where it takes what is here."""
    if EXPECTED[name].gpus != ["local"]:
        return [made.job for made in plans(name)]
    composed = compose([f"experiment={name}", "gpu=4090", "launch.dry_run=true"])
    return [plan.make(composed.config, composed.folders, composed.overrides, detected=()).job]


@every_experiment
def test_an_experiment_asks_for_the_jobs_that_it_is_about(name: str) -> None:
    assert name in EXPECTED, f"say in EXPECTED what conf/experiment/{name}.yaml is about"
    expected, typed = EXPECTED[name], f"experiment={name}"
    gpus = [[]] if expected.gpus == ["local"] else [[f"gpu={gpu}"] for gpu in expected.gpus]
    every = [[*gpu, f"workload={workload}", typed] for gpu in gpus for workload in expected.workloads]
    assert overrides_of(name) == (every if len(every) > 1 else [[typed]])


@every_experiment
def test_each_of_its_jobs_composes_and_can_be_planned(name: str) -> None:
    expected, made = EXPECTED[name], plans(name)
    assert {one.config.gpu_choice for one in made} == set(expected.gpus)
    assert {one.job.workload for one in made} == set(expected.workloads)
    assert {one.config.choices.get("reported") for one in made} == {expected.reported}
    assert {one.config.tags.get("experiment") for one in made} == {name}


@every_experiment
def test_each_of_its_jobs_has_something_to_do(name: str) -> None:
    for made in plans(name):
        planned = {variant for case in made.job.cases for variant in variants_of(case, made.job)}
        assert made.job.cases == [] or planned == set(made.job.variants) <= set(made.config.workload.variants)
        assert made.job.cases or made.job.mode in ("search", "projection")


@every_experiment
def test_it_has_a_row_in_the_docs_and_says_how_to_run_it(name: str) -> None:
    assert re.search(rf"^\| \[`{name}`\]\(\.\./conf/experiment/{name}\.yaml\) \|", PAGE, re.MULTILINE)
    assert name in {re.search(r"experiment=(\w+)", command)[1] for command, _ in SHOWN}  # type: ignore[index]
    assert f"python -m runner experiment={name}" in (conf_dir() / "experiment" / f"{name}.yaml").read_text()


@pytest.mark.parametrize(("command", "says"), SHOWN, ids=[command for command, _ in SHOWN])
def test_a_dry_run_needs_nobody_and_says_what_the_docs_quote(command: str, says: str, tmp_path: Path) -> None:
    expected = EXPECTED[re.search(r"experiment=(\w+)", command)[1]]  # type: ignore[index]
    environment = {**os.environ, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    line = [sys.executable, "-m", *command.split(), "launch.dry_run=true"]
    done = subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    gpus = re.findall(r"gpu=([\w,]+)", command)
    asked = gpus[0].split(",") if gpus else [gpu for gpu in expected.gpus if gpu != "local"]
    for part in (*expected.workloads, *(gpu.upper() for gpu in asked), *re.findall(r"`([^`]+)`", says)):
        assert part in " ".join(done.stdout.split())
    assert list(tmp_path.iterdir()) == [], "a dry run leaves nothing behind"


def test_the_lineup_has_a_budget() -> None:
    assert all(one.config.launch.max_usd for one in plans("gpu_lineup"))


def test_the_m4_decision_is_by_the_shapes_that_the_architecture_is_for_and_by_both_gates() -> None:
    (job,) = jobs_on_a_gpu("m4_decision")
    settings = {"heads": 64, "kv_heads": 4, "head_dim": 128, "block_len": 32, "stride": 16, "select_len": 64, "num_select": 16}
    assert settings.items() <= job.derive["settings"].items()
    cases = {(case.axes["context"], case.axes["batch"]) for case in job.cases}
    assert cases == {(context, batch) for context in (8192, 16384, 32768, 65536) for batch in (1, 16)}
    gate, pays = job.derive["decisions"]
    assert (gate["key"], pays["key"]) == ("custom_selection_kernel", "custom_kernels_pay")
    assert pays["variant"] in job.variants
    assert (gate["metric"], gate["at_least"], gate["also"], gate["over"]) == ("share", 0.25, {"headroom": 1.2}, "every")
    assert {gate["variant"], *gate["parts"]} <= set(job.variants)
    assert job.derive["compositions"]["whole"] == {"stages": ["compressed", "scoring", "selected", "sliding", "combine"]}


def test_the_m4_decision_takes_a_small_grid_on_a_cpu() -> None:
    (made,) = plans("m4_decision")
    assert made.job.device == "cpu"
    assert max(case.axes["context"] for case in made.job.cases) < 65536


@pytest.mark.parametrize("key", ["sliding_masked_min_len", "compressed_masked_min_len"])
def test_the_nsa_reports_speedups_are_held_against_what_they_were_given_over(key: str) -> None:
    for job in (*jobs_on_a_gpu("nsa_4090_report"), *(made.job for made in plans("nsa_4090_report"))):
        (threshold,) = (one for one in job.derive["thresholds"] if one["key"] == key)
        both = [case for case in job.cases if {threshold["baseline"], threshold["candidate"]} <= set(variants_of(case, job))]
        assert [case.axes["seq_len"] for case in both] == [256, 1024]


NO_NUMBERS = {"status", "reason", "timing", "timer", "launch_bound", "verdict", "warnings", "measured_at"}
COUNTERS = {*(f"{branch}_keys" for branch in Geometry().sums(1)), "keys_total"}


def variants_of(case: Case, job: Job) -> list[str]:
    return case.variants or job.variants


def fitting(figure: Figure, job: Job) -> list[Case]:
    """Return the cases of a job that a report would set a figure beside."""
    return [case for case in job.cases if figure.case.items() <= case.axes.items() and figure.variant in variants_of(case, job)]


@pytest.mark.parametrize("name", REPORTED)
def test_each_figure_stands_beside_one_case_of_an_experiment_that_names_it(name: str) -> None:
    jobs = [job for experiment, one in EXPECTED.items() if one.reported == name for job in jobs_on_a_gpu(experiment)]
    assert jobs, f"no experiment has override /reported: {name}"
    figures = compose([f"reported={name}"]).config.reported
    assert figures is not None
    for figure in figures.rows:
        found = [fitting(figure, job) for job in jobs]
        assert max(map(len, found)) == 1, f"{figure} fits {max(map(len, found))} cases"


@pytest.mark.parametrize("name", REPORTED)
def test_each_figure_is_of_a_metric_that_a_report_has_for_it(name: str) -> None:
    figures = compose([f"reported={name}"]).config.reported
    assert figures is not None
    jobs = [job for experiment, one in EXPECTED.items() if one.reported == name for job in jobs_on_a_gpu(experiment)]
    for figure in figures.rows:
        (job, *_) = (job for job in jobs if fitting(figure, job))
        own = {*job.derive.get("figures", {}), *(COUNTERS if job.module.startswith("workloads.nsa") else ())}
        known = {*COLUMNS} - NO_NUMBERS | own
        assert figure.metric in known
        if figure.metric.startswith("speedup"):
            (case,) = fitting(figure, job)
            assert job.baseline in variants_of(case, job), f"{figure}: its baseline is not measured there"
