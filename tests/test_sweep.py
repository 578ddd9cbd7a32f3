"""Sweeps as their users run them on this machine: jobs made and checked together, one process for them, faults, resuming."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from runner import journal
from runner.cli import main
from runner.errors import RequestError
from runner.sweep import folder as folders
from runner.sweep import recall, rented, state
from runner.sweep.expand import expand

ROOT = Path(__file__).resolve().parent.parent
TINY = [
    "workload=matmul", "workload.variants=[fp32]", "measure=quick", "measure.max_time_s=0.05", "measure.min_time_s=0.0",
    "measure.min_samples=3", "measure.target=0.9", "measure.warmup.max_s=0.02", "tracking.enabled=false",
]  # fmt: skip


def parsed(*overrides):
    return OverridesParser.create().parse_overrides(list(overrides))


# --- what the command line expands to


def test_axes_make_a_product_whose_last_axis_changes_fastest():
    assert expand(parsed("a=1,2", "b=x", "c=3,4")) == [
        ["a=1", "b=x", "c=3"], ["a=1", "b=x", "c=4"], ["a=2", "b=x", "c=3"], ["a=2", "b=x", "c=4"],
    ]  # fmt: skip


def test_zipped_axes_step_together_beside_the_product():
    jobs = expand(parsed("a=1,2", "b=3,4", "c=5,6"), ["a", "c"])
    assert jobs == [["a=1", "c=5", "b=3"], ["a=1", "c=5", "b=4"], ["a=2", "c=6", "b=3"], ["a=2", "c=6", "b=4"]]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_there_are_as_many_jobs_as_the_product_of_the_axes(lengths):
    overrides = [f"axis{index}={','.join(map(str, range(length)))}" for index, length in enumerate(lengths)]
    jobs = expand(parsed(*overrides))
    count = 1
    for length in lengths:
        count *= length
    assert len(jobs) == len({tuple(job) for job in jobs}) == count


@pytest.mark.parametrize(
    ("overrides", "zipped", "limit", "line"),
    [
        (["a=1,2,3", "b=1,2"], ["a", "b"], None, "sweep.zip: a has 3, b has 2; axes that step together have equally many values"),
        (["a=1,2"], ["a", "n"], None, "sweep.zip: n is not swept over"),
        (["a=1,2"], ["a"], None, "sweep.zip: a alone has nothing to step with"),
        (["a=1,2", "b=1,2"], ["a", "a"], None, "sweep.zip: a is named twice"),
        (["a=1,2,3", "b=1,2"], [], 5, "the sweep has 6 jobs (3 x 2), more than sweep.max_jobs=5"),
        (["a=range(0,30000)"], [], 1000, "the sweep has 30000 jobs"),
        (["a=interval(0,1)"], [], None, "a: a range without steps"),
    ],
)
def test_a_sweep_that_can_not_be_is_refused_in_a_line(overrides, zipped, limit, line):
    with pytest.raises(RequestError, match=r"^[^\n]*$") as refused:
        expand(parsed(*overrides), zipped, limit)
    assert line in str(refused.value)


@given(st.dictionaries(st.sampled_from("abcdef"), st.floats(0, 100), min_size=1), st.floats(0.01, 1000))
def test_the_parts_of_a_budget_come_to_the_budget(bills, budget):
    parts = rented.shares(bills, budget)
    assert sum(parts.values()) == pytest.approx(budget)
    assert all(parts[name] >= 0 for name in bills)


def test_no_budget_is_none_for_any():
    assert rented.shares({"a": 1.0}, None) == {}


# --- how far a job is, from the end of its journal


def write(folder, *events):
    folder.mkdir(exist_ok=True)
    (folder / journal.NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_the_state_of_a_job_is_what_reading_all_of_its_journal_says(tmp_path):
    long = {"event": "measurement", "samples_ms": [0.5] * 100_000}
    done = {"event": "job_finished", "status": "complete", "reason": ""}
    start = {"event": "job_started"}
    for index, events in enumerate(
        [[start], [start, long], [start, long, done], [start, done, start], [start, done, start, long]]
    ):
        folder = write(tmp_path / str(index), *events)
        assert state.status(folder)[0] == journal.final_status(journal.read(folder))[0]
    assert state.status(tmp_path / "none")[0] == "missing"
    torn = write(tmp_path / "torn", start, done)
    with open(torn / journal.NAME, "a") as file:
        file.write('{"event": "job_sta')
    assert state.status(torn) == ("complete", "")


# --- whole sweeps


def sweep(out, *overrides):
    return main(["-m", *TINY, f"out={out}", "display=plain", *overrides])


def only(out):
    (name,) = folders.known(out)
    return folders.load(out / "sweeps" / name)


def starts(sweep_):
    return {
        job.index: [event for event in journal.read(sweep_.path(job)) if event["event"] == "job_started"]
        for job in sweep_.distinct
    }


@pytest.mark.slow
def test_jobs_share_a_process_and_equal_ones_run_once(tmp_path, capsys):
    out = tmp_path / "out"
    code = sweep(out, "workload.n=8,16,24,8", "sweep.name=four")
    assert code == 0
    found = only(out)
    assert [job.same_as for job in found.jobs] == [None, None, None, 0]
    assert [job.varied for job in found.distinct] == [["workload.n=8"], ["workload.n=16"], ["workload.n=24"]]
    begun = starts(found)
    assert [begun[index][0]["jobs_before"] for index in range(3)] == [0, 1, 2]
    assert all(state.status(found.path(job)) == ("complete", "") for job in found.jobs)
    printed = capsys.readouterr().out
    assert "[3/3] 2: workload.n=24: complete" in printed
    assert "3    same" in printed
    assert (found.folder / "report.md").exists()
    assert (found.folder / "comparison.csv").exists()


FRAGILE = """\
import os
from workloads.matmul import WORKLOAD
if "CROSSOVER_TEST_BREAK" in os.environ:
    raise ImportError("broken for a test")
"""


@pytest.fixture
def fragile(tmp_path):
    """A config folder with a workload that can't be imported while CROSSOVER_TEST_BREAK is set."""
    folder = tmp_path / "mine"
    (folder / "workload").mkdir(parents=True)
    (folder / "workload" / "fragile.yaml").write_text(
        "defaults: [matmul, _self_]\nname: fragile\nmodule: fragile.py\nthresholds: []\n"
    )
    (folder / "fragile.py").write_text(FRAGILE)
    return ["--config-dir", str(folder)]


@pytest.mark.slow
def test_a_failed_job_is_told_the_next_one_runs_and_a_resume_does_what_is_left(tmp_path, capsys, fragile, monkeypatch):
    monkeypatch.setenv("CROSSOVER_TEST_BREAK", "1")
    assert sweep(tmp_path, *fragile, "workload=fragile,matmul", "workload.n=8", "sweep.name=two") == 1
    printed = capsys.readouterr().out
    assert "[1/2] 0: workload=fragile: failed" in printed
    assert "broken for a test" in printed
    assert "[2/2] 1: workload=matmul: complete" in printed
    monkeypatch.delenv("CROSSOVER_TEST_BREAK")
    assert main(["sweep.resume=two", f"out={tmp_path}", *fragile]) == 0
    assert "1: workload=matmul: kept (complete before)" in capsys.readouterr().out
    assert [len(events) for events in starts(only(tmp_path)).values()] == [1, 1]


@pytest.mark.slow
def test_fail_fast_stops_after_the_first_failure(tmp_path, capsys, fragile, monkeypatch):
    monkeypatch.setenv("CROSSOVER_TEST_BREAK", "1")
    assert sweep(tmp_path, *fragile, "workload=fragile,matmul", "workload.n=8,16", "sweep.fail_fast=true") == 1
    assert "failed: 1 failed, 3 not run" in capsys.readouterr().out
    assert complete(tmp_path) == 0


@pytest.mark.slow
def test_with_isolation_each_job_has_a_process_of_its_own(tmp_path):
    assert sweep(tmp_path, "workload.n=8,16", "measure.isolation=job") == 0
    assert [events[0]["jobs_before"] for events in starts(only(tmp_path)).values()] == [0, 0]


def running(out, *overrides):
    command = [sys.executable, "-m", "runner", "-m", *TINY, f"out={out}", "display=plain", *overrides]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )  # fmt: skip


def complete(out):
    return sum(state.status(path.parent)[0] == "complete" for path in out.glob(f"sweeps/*/*/{journal.NAME}"))


def wait_for(what, limit_s=120):
    until = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


SIZES = ",".join(str(size) for size in range(8, 8 + 12 * 8, 8))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.long)])
def test_a_sweep_that_is_ended_in_the_middle_resumes_with_nothing_repeated_and_nothing_lost(tmp_path, number, capsys):
    process = running(tmp_path, f"workload.n={SIZES}", "sweep.name=cut", "measure.max_time_s=0.3", "measure.min_time_s=0.25")
    wait_for(lambda: complete(tmp_path) >= 3)
    process.send_signal(number)
    said = process.communicate(timeout=60)[0]
    if number != signal.SIGKILL:
        assert process.returncode == 130, said
        assert "resume     python -m runner -m sweep.resume=cut" in said
    assert 3 <= complete(tmp_path) < 12
    wait_for(lambda: not workers(tmp_path))
    cut = folders.load(tmp_path / "sweeps" / "cut")
    before = {job.index: len(starts(cut)[job.index]) for job in cut.jobs}
    kept = {job.index for job in cut.jobs if state.status(cut.path(job))[0] == "complete"}
    assert main(["-m", "sweep.resume=cut", f"out={tmp_path}", "display=plain"]) == 0
    after = starts(cut)
    assert all(len(after[index]) == before[index] for index in kept)  # nothing repeated
    for job in cut.jobs:
        events = journal.read(cut.path(job))
        measured = [(journal.case_key(event["case"]), event["variant"]) for event in events if event["event"] == "measurement"]
        assert len(measured) == len(set(measured)) == 1  # nothing lost, nothing twice


def workers(out):
    """The processes that still have something of this sweep open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link).startswith(str(out)) for link in (entry / "fd").iterdir()):
                found.append(int(entry.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


# --- wrong requests: one line, code 2, nothing begun


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["workload.n=8,16", "sweep.max_jobs=1"], "the sweep has 2 jobs (2), more than sweep.max_jobs=1"),
        (["workload.n=8,16", "workload.m=1,2,3", "sweep.zip=[workload.n,workload.m]"], "workload.n has 2, workload.m has 3"),
        (["workload.nn=8,16"], "workload.nn is no key of the config; did you mean workload.n"),
        (["workload.n=8,-1"], "job 1 (workload.n=-1): workload.n=-1: expected"),
        (["workload.n=8,16", "sweep.resume=nothing"], "sweep.resume=nothing: no such sweep"),
        (["workload.n=8,16", "sweep.name=a/b"], "sweep.name=a/b: expected a folder's name"),
        (["workload.n=8,16", "run_dir=x"], "run_dir is the folder of one run"),
        (["out=a,b"], "out is the sweep's, not a job's"),
        (["gpu=4090,nope"], "gpu=nope: no such gpu"),
    ],
)
def test_a_wrong_sweep_is_named_in_one_line_before_anything_runs(tmp_path, monkeypatch, capsys, overrides, line):
    monkeypatch.chdir(tmp_path)
    arguments = ["-m", *TINY, *([] if any(one.startswith("out=") for one in overrides) else ["out=out"]), *overrides]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert line in error
    assert not list(tmp_path.glob("**/journal.jsonl"))
    assert not list(tmp_path.glob("**/sweep.json"))


def saved(out, name, overrides, jobs):
    folder = out / "sweeps" / name
    folder.mkdir(parents=True)
    entries = [
        folders.SweepJob(index, varied, digest, f"{index:03d}", "matmul", "local", "local", varied)
        for index, (varied, digest) in enumerate(jobs)
    ]
    found = folders.Sweep(folder, name, "2026-01-01T00:00:00+00:00", "python -m runner -m x", overrides, entries)
    found.save()
    return found


def test_a_resume_of_a_different_sweep_says_what_differs(tmp_path, capsys):
    saved(tmp_path, "old", ["workload.n=8,16"], [(["workload.n=8"], "a"), (["workload.n=16"], "b")])
    assert sweep(tmp_path, "workload.n=8,24", "sweep.resume=old") == 2
    assert "another sweep: 2 of its 2 jobs are not in this one, 2 are new" in capsys.readouterr().err


def test_a_resume_after_the_code_has_changed_says_so(tmp_path, capsys):
    saved(tmp_path, "old", [], [(["workload.n=8"], "hash0"), (["workload.n=16"], "hash1")])
    assert sweep(tmp_path, "workload.n=8,16", "sweep.resume=old") == 2
    assert "have changed since" in capsys.readouterr().err


def test_a_name_that_is_taken_is_refused(tmp_path, capsys):
    saved(tmp_path, "taken", [], [])
    assert sweep(tmp_path, "workload.n=8", "sweep.name=taken") == 2
    assert "go on with sweep.resume=taken" in capsys.readouterr().err


def test_a_resume_alone_repeats_what_was_typed(tmp_path):
    saved(tmp_path, "old", ["gpu=4090,3090", "workload=matmul", "sweep.name=old", f"out={tmp_path}"], [])
    typed = ["sweep.resume=old", f"out={tmp_path}"]
    assert recall.overrides(typed) == (["gpu=4090,3090", "workload=matmul", *typed], True)
    assert recall.overrides(["gpu=4090", *typed]) == (["gpu=4090", *typed], False)
    with pytest.raises(RequestError, match="did you mean old"):
        recall.overrides(["sweep.resume=odl", f"out={tmp_path}"])


def test_a_damaged_sweep_file_is_named(tmp_path):
    folder = tmp_path / "sweeps" / "x"
    folder.mkdir(parents=True)
    (folder / "sweep.json").write_text("{")
    with pytest.raises(RequestError, match="is damaged"):
        folders.load(folder)
    with pytest.raises(RequestError, match="holds no sweep"):
        folders.load(tmp_path)


def test_every_job_is_composed_as_hydra_does(tmp_path):
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra._internal.utils import create_config_search_path
    from hydra.types import RunMode

    from runner.compose import compose
    from runner.paths import conf_dir
    from runner.sweep.composing import Composer

    loader = ConfigLoaderImpl(create_config_search_path(str(conf_dir())))
    composer = Composer(loader, loader.load_configuration("config", [], RunMode.MULTIRUN))
    for overrides in (
        ["workload=matmul", "workload.n=64"],
        ["workload=matmul", "workload.n=[64,65]", "+tags.x=3"],
        ["workload=matmul", "workload.n=66", "++tags={n: ${workload.n}}", "++measure.target=0.5"],
        ["gpu=4090", "workload=matmul", "measure=quick"],
        ["experiment=nsa_4090_report", "workload.heads=8"],
        ["~reported", "workload=inspect"],
        ["workload=matmul", "workload.axes={n: {min: 16}}", "workload.variants=[fp32]"],
    ):
        ours, hydras = composer.compose(overrides), compose(overrides)
        assert (ours.config, ours.folders) == (hydras.config, hydras.folders), overrides


@pytest.mark.long
@pytest.mark.slow
def test_two_sweeps_of_one_second_and_an_empty_store_do_not_meet(tmp_path):
    both = [running(tmp_path, "workload.n=8,16", "tracking.enabled=true", f"seed={seed}") for seed in (1, 2)]
    said = [process.communicate(timeout=200)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert len(folders.known(tmp_path)) == 2
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    parents = [run for run in runs if run.data.tags.get("kind") == "sweep"]
    children = [run.data.tags["mlflow.parentRunId"] for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted(children) == sorted([run.info.run_id for run in parents] * 2)
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert {run.info.experiment_id for run in runs} == {runs[0].info.experiment_id}
