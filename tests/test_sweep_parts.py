"""The parts of a sweep: what is planned and refused, what a person and a script see, what a searching sweeper is told, shares."""

import importlib.util
import io
import json
import threading

import pytest

from runner import journal, rental
from runner.cli import main
from runner.config import ObjectiveConfig
from runner.errors import JobError, RequestError
from runner.launch.local import Outcome
from runner.rental import Attempt
from runner.sweep import objective
from runner.sweep import show as shows
from runner.sweep.folder import SweepJob
from runner.sweep.lane import Spec, _Runs
from runner.sweep.result import MOST_ROWS, Result, counts, table
from tests.jobs import planted_job


def entry(index=0, **fields):
    given = {"overrides": [f"n={index}"], "hash": f"{index:064x}", "folder": f"{index:03d}", "workload": "w", "gpu": "g"}
    return SweepJob(**{"index": index, "target": "local", "varied": [f"n={index}"]} | given | fields)


# --- the closing table


def test_the_table_has_every_job_and_only_columns_with_something_in_them():
    lines = table([Result(entry(0), "complete", seconds=3.0), Result(entry(1), "failed", "it broke", 1.0)])
    assert lines[0].split() == ["job", "status", "time", "what", "why", "not"]
    assert lines[2].split() == ["1", "failed", "1", "s", "n=1", "it", "broke"]


def test_of_many_jobs_only_those_that_failed_are_listed_and_all_are_counted():
    results = [Result(entry(index), "complete") for index in range(MOST_ROWS + 5)] + [Result(entry(99), "failed", "x")]
    lines = table(results)
    assert len(lines) == 3
    assert lines[-1] == f"... and {MOST_ROWS + 5} more, all as they should be"
    assert counts(results) == f"{MOST_ROWS + 5} complete, 1 failed"


@pytest.mark.parametrize(
    ("status", "ok"), [("complete", True), ("kept", True), ("same", True), ("partial", False), ("not run", False)]
)
def test_what_is_left_to_do_is_not_ok(status, ok):
    assert Result(entry(), status).ok is ok


# --- displays


def shown(mode):
    stream = io.StringIO()
    show = shows.for_mode(mode, stream)
    show.opening(["the plan"])
    show.begin(2)
    show.started("here", entry(0))
    show.progress("here", {"index": 0, "total": 3, "case": {"n": 8}, "stage": "wall", "variants": [], "precision": {}})
    show.progress("4090-0", {"phase": "provisioning", "detail": "runpod", "spent_usd": 0.01})
    show.progress("4090-0", {"phase": "provisioning", "detail": "runpod", "spent_usd": 0.02})
    show.warn("here", "it is [hot]")
    show.alarm("it still runs")
    show.ended(Result(entry(0), "complete", seconds=2.0))
    show.ended(Result(entry(1), "failed", "it broke", 1.0))
    show.close()
    show.closing("failed: 1 complete, 1 failed", ["a table"])
    return stream.getvalue()


def test_plain_lines_say_each_thing_once():
    assert shown("plain").splitlines() == [
        "the plan", "4090-0: provisioning: runpod", "warning: here: it is [hot]", "ALARM: it still runs",
        "[1/2] 0: n=0: complete in 2 s", "[2/2] 1: n=1: failed in 1 s (it broke)", "a table", "failed: 1 complete, 1 failed",
    ]  # fmt: skip


def test_quiet_says_what_is_in_no_file_and_how_it_ended():
    assert shown("quiet").splitlines() == ["warning: here: it is [hot]", "ALARM: it still runs", "failed: 1 complete, 1 failed"]


def test_json_lines_are_json():
    events = [json.loads(line) for line in shown("jsonl").splitlines()]
    assert [event["event"] for event in events] == [
        "sweep_plan", "job_started", "phase", "phase", "warning", "alarm", "job_ended", "job_ended", "sweep_finished",
    ]  # fmt: skip
    assert (events[-2]["index"], events[-2]["status"], events[-2]["reason"]) == (1, "failed", "it broke")


def test_a_terminal_shows_what_ended_and_warnings_as_they_are():
    printed = shown("rich")
    for text in ("the plan", "! here: it is [hot]", "ALARM: it still runs", "1: n=1: failed in 1 s (it broke)", "a table"):
        assert text in printed


def test_displays_take_news_from_several_threads():
    stream = io.StringIO()
    show = shows.for_mode("plain", stream)
    show.begin(400)
    threads = [
        threading.Thread(target=lambda start=start: [show.ended(Result(entry(start + one), "complete")) for one in range(100)])
        for start in range(0, 400, 100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = stream.getvalue().splitlines()
    assert sorted(int(line[1:].partition("/")[0]) for line in lines) == list(range(1, 401))


# --- the plan


def test_the_plan_of_rented_jobs_groups_them_and_has_one_bill(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    code = main(["-m", "workload=matmul", "gpu=4090,h100", "seed=1,2", "launch.dry_run=true", f"out={tmp_path / 'out'}"])
    printed = capsys.readouterr().out
    assert code == 0
    assert printed.splitlines()[0].endswith(": 4 jobs")
    assert "rented     2 jobs on gpu=4090: " in printed
    assert "rented     2 jobs on gpu=h100: " in printed
    assert [line for line in printed.splitlines() if line.startswith("bill ") and line.endswith("for all of it")]
    assert not (tmp_path / "out").exists()


def test_jobs_with_other_launch_settings_get_machines_of_their_own(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["-m", "workload=matmul", "gpu=4090", "launch.disk_gb=64,100", "seed=1,2", "launch.dry_run=true"]) == 0
    # The disk is nothing that a number depends on: two of the four jobs are the same as another.
    printed = capsys.readouterr().out
    assert "4 jobs, 2 the same as another" in printed
    assert printed.count("rented     2 jobs on gpu=4090") == 1


def test_nothing_can_be_rented_where_nothing_is_enabled(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["-m", "workload=matmul", "gpu=4090,h100", "tracking.enabled=false", f"out={tmp_path / 'out'}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: gpu=4090: gpu=4090: SkyPilot could not be asked which clouds are enabled")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


# --- the value of a job for a sweeper that searches


def measured(folder, *latencies_ms, status="ok"):
    folder.mkdir(exist_ok=True)
    job = planted_job(["honest"]).as_dict()
    events = [
        {
            "event": "job_started",
            "time": "2026-01-01T00:00:00+00:00",
            "job": job,
            "hash": job["hash"],
            "session": "s",
            "device": {},
        }
    ]
    for index, latency_ms in enumerate(latencies_ms):
        events.append(
            {
                "event": "measurement", "time": "2026-01-01T00:00:01+00:00", "case": {"n": index + 1}, "x": "n",
                "variant": "honest", "status": status, "statistics": {"median_ms": latency_ms},
            }
        )  # fmt: skip
    (folder / journal.NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    return folder


def test_the_value_of_a_job_is_the_geometric_mean_over_its_cases(tmp_path):
    wanted = ObjectiveConfig("latency_ms", "honest")
    assert objective.value(measured(tmp_path / "a", 1.0, 4.0), wanted) == pytest.approx(2.0)
    with pytest.raises(JobError, match="nothing was measured of latency_ms of honest"):
        objective.value(measured(tmp_path / "b", 1.0, status="error"), wanted)
    with pytest.raises(JobError, match="names no objective"):
        objective.value(tmp_path / "a", None)


@pytest.mark.parametrize(
    ("wanted", "line"),
    [
        (None, "this workload names none"),
        (ObjectiveConfig("latency", "honest"), "workload.objective.metric=latency: no such figure; did you mean"),
        (ObjectiveConfig("latency_ms", "honst"), "workload.objective.variant=honst: not measured here; did you mean honest?"),
    ],
)
def test_a_wrong_objective_is_refused_before_anything_runs(wanted, line):
    with pytest.raises(RequestError, match="objective") as refused:
        objective.check(wanted, ["honest"])
    assert line in str(refused.value)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("hydra_plugins.hydra_optuna_sweeper") is None, reason="needs the extra optuna")
def test_optuna_finds_its_way_through_one_sweep(tmp_path, capsys):
    code = main(
        [
            "-m", "hydra/sweeper=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2",
            "hydra.sweeper.direction=maximize", "workload=matmul", "workload.n=range(64,257,64)", "workload.variants=[fp32]",
            "workload.baseline=null",
            "workload.objective.variant=fp32", "measure=quick", f"out={tmp_path}", "tracking.enabled=false", "display=plain",
        ]
    )  # fmt: skip
    printed = capsys.readouterr().out
    assert code == 0
    assert len(list(tmp_path.glob("sweeps/*"))) == 1
    assert "3    same" in printed or "[4/4]" in printed


# --- what a shared machine costs each of its jobs


def test_a_bill_is_divided_by_the_time_each_job_took_and_adds_up(tmp_path):
    class Made:
        def __init__(self, folder):
            self.folder, self.job = folder, planted_job(["honest"], [8], seed=int(folder.name))

    class Job:
        def __init__(self, index):
            self.index, self.entry, self.made = index, entry(index), Made(tmp_path / str(index))
            self.made.folder.mkdir()
            (self.made.folder / "job.json").write_text("{}")

            class composed:
                config = None

    jobs = [Job(index) for index in range(3)]
    spec = Spec("4090-0", tmp_path, jobs, [], None, "name", None, None)
    told = []
    runs = _Runs(spec, lambda kind, **fields: told.append((kind, fields)))
    for index in (0, 1):  # the third was never begun
        runs._began[index] = 0.0
        runs._recorders[index] = None
        runs.ended(index, Outcome("complete", ""))
    whole = Attempt("c", "runpod", "4090", "4090", billed_s=100.0, cost_usd=0.30, sky_cost_usd=0.27)
    costs = runs.conclude([whole], {0: 30.0, 1: 10.0})
    assert costs == {0: pytest.approx(0.225), 1: pytest.approx(0.075)}
    parts = [rental.load(jobs[index].made.folder).attempts[0] for index in (0, 1)]
    assert [part.share for part in parts] == [0.75, 0.25]
    assert sum(part.billed_s for part in parts) == pytest.approx(100)
    assert sum(part.sky_cost_usd for part in parts) == pytest.approx(0.27)
    assert rental.load(jobs[2].made.folder) is None
