"""Recording in MLflow, against real stores: what is there afterwards, that it is there once, and life without a server."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runner import report
from runner.errors import RequestError
from runner.journal import Event
from runner.masking import mask
from runner.rental import Attempt, Rental
from runner.tracking import Place, Recorder, check, place, ui_hint
from runner.tracking.__main__ import main
from runner.tracking.content import METRICS, Steps, name, params, points, work
from runner.tracking.store import connect, scrub
from runner.tracking.upload import Upload, locked
from tests.journals import Fabricated, grid, matmul, staged, write

ARTIFACTS = {
    "job.json", "journal.jsonl", "thresholds.yaml", "decisions.yaml", "measurements.csv", "environment.json", "report.md",
    "plots/latency.png", "plots/throughput.png", "plots/roofline.png",
}  # fmt: skip


@pytest.fixture
def out(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    return tmp_path


@pytest.fixture
def where(out: Path) -> Place:
    return place(None, "matmul", None, out)


def record(
    folder: Path,
    where: Place,
    run: Fabricated,
    status: str = "complete",
    reason: str = "",
    count: int | None = None,
    plots: bool = False,
) -> Recorder:
    """Record a run as a launcher does; with `plots`, which take a second, where a test looks at them."""
    events = write(run, folder, run.events()[:count])
    recorder = Recorder(folder, where, {"target": "local", "team": "kernels"})
    for event in events:
        recorder.event(event)
    report.write(folder, plots)
    recorder.finish(status, reason)
    return recorder


def store(where: Place) -> Any:
    return connect(where)[0]


def artifacts(client: Any, run_id: str, path: str | None = None) -> set[str]:
    found = client.list_artifacts(run_id, path)
    return {one.path for one in found if not one.is_dir}.union(
        *(artifacts(client, run_id, one.path) for one in found if one.is_dir)
    )


def history(client: Any, run_id: str) -> dict[str, list[tuple[int, int, float]]]:
    names = client.get_run(run_id).data.metrics
    return {one: sorted((m.step, m.timestamp, m.value) for m in client.get_metric_history(run_id, one)) for one in names}


def test_a_recorded_run_has_its_curves_tags_params_and_artifacts(out: Path, where: Place) -> None:
    run = matmul()
    recorder = record(out / "run", where, run, plots=True)
    assert recorder.problem is None
    client = store(where)
    found = client.get_run(recorder.run_id)
    assert found.info.status == "FINISHED"
    assert client.get_experiment(found.info.experiment_id).name == "matmul"
    curve = client.get_metric_history(recorder.run_id, "latency_ms/bf16")
    assert [point.step for point in curve] == [128, 256, 512, 1024, 2048, 4096, 8192]
    events = [event for event in run.events() if event["event"] == "measurement" and event["variant"] == "bf16"]
    assert [point.value for point in curve] == [event["statistics"]["median_ms"] for event in events]
    sections = {metric.split("/")[0] for metric in found.data.metrics}
    assert sections == {*METRICS.values(), "measure_s", "measurements"}
    assert not any(metric.endswith("/fp8") for metric in found.data.metrics)
    expected = {
        "gpu.name": "NVIDIA H200", "gpu.sm": "9.0", "target": "local", "team": "kernels", "status": "complete",
        "git.dirty": "false", "job.hash": run.job().hash, "session": run.session, "steps": "step = n", "measurements.ok": "21",
    }  # fmt: skip
    assert expected.items() <= found.data.tags.items()
    assert found.data.params["measure.warmup.window"] == "8"
    assert found.data.params["cases.n"] == "[128, 256, 512, 1024, 2048, 4096, 8192]"
    assert artifacts(client, recorder.run_id or "") == ARTIFACTS
    assert (out / "mlartifacts").is_dir()
    assert recorder.lines()[0].endswith(f"mlflow ui --backend-store-uri sqlite:///{out}/mlflow.db")
    assert "compareRunsMode=CHART" in recorder.lines()[1]


def test_what_a_whole_is_made_of_is_a_curve_per_stage(out: Path) -> None:
    recorder = record(out / "run", place(None, "step", None, out), staged(), plots=True)
    client = store(recorder.where)
    curve = client.get_metric_history(recorder.run_id, "share/scoring")
    assert [point.step for point in curve] == [1024, 4096]
    assert all(0.29 < point.value < 0.31 for point in curve)
    assert "plots/shares_whole.png" in artifacts(client, recorder.run_id or "")


@pytest.mark.parametrize(("status", "ended"), [("failed", "FAILED"), ("partial", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_ends_in_mlflow_as_it_ended(out: Path, where: Place, status: str, ended: str) -> None:
    recorder = record(out / "run", where, matmul(), status, "it was so", count=9)
    found = store(where).get_run(recorder.run_id)
    assert (found.info.status, found.data.tags["status"], found.data.tags["reason"]) == (ended, status, "it was so")


def test_a_run_is_there_and_running_while_it_goes_on(out: Path, where: Place) -> None:
    run = matmul()
    events = write(run, out / "run", run.events()[:9])
    recorder = Recorder(out / "run", where)
    for event in events:
        recorder.event(event)
    client = store(where)
    until = time.monotonic() + 20
    while not (recorder.run_id and client.get_run(recorder.run_id).data.metrics) and time.monotonic() < until:
        time.sleep(0.1)
    found = client.get_run(recorder.run_id)
    assert (found.info.status, found.data.tags["status"]) == ("RUNNING", "running")
    assert "latency_ms/bf16" in found.data.metrics
    recorder.finish("partial", "")


def test_recording_again_changes_nothing(out: Path, where: Place, capsys: pytest.CaptureFixture[str]) -> None:
    recorder = record(out / "run", where, matmul())
    client = store(where)
    before = history(client, recorder.run_id or "")
    assert main([str(out / "run")]) == 0
    assert capsys.readouterr().out.startswith("already recorded")
    (out / "run/mlflow.json").unlink()  # not even the memory of it is needed
    assert main([str(out / "run"), "--uri", where.uri]) == 0
    assert history(client, recorder.run_id or "") == before
    assert len(client.search_runs([client.get_experiment_by_name("matmul").experiment_id])) == 1


def test_a_half_recorded_run_is_finished(out: Path, where: Place) -> None:
    run = matmul()
    events = write(run, out / "run")
    upload = Upload(out / "run", where)
    upload.push(events[:12])
    assert main([str(out / "run")]) == 0
    client = store(where)
    found = client.get_run(upload.state.run_id)
    assert found.info.status == "FINISHED"
    assert len(client.get_metric_history(upload.state.run_id, "latency_ms/fp32")) == 7


def test_a_continued_run_is_the_same_run_in_mlflow(out: Path, where: Place) -> None:
    run = matmul()
    first = record(out / "run", where, run, "partial", "killed", count=12)
    second = record(out / "run", where, run)
    assert second.run_id == first.run_id
    client = store(where)
    assert client.get_run(first.run_id).info.status == "FINISHED"
    assert len(client.get_metric_history(first.run_id, "latency_ms/fp32")) == 7


def test_how_a_run_was_interrupted_is_remembered_for_later(out: Path, where: Place) -> None:
    run = matmul()
    write(run, out / "run", run.events()[:9])
    Recorder(out / "run", where).finish("interrupted", "Ctrl-C")  # nothing could be sent
    assert main([str(out / "run")]) == 0
    state = json.loads((out / "run/mlflow.json").read_text())
    assert store(where).get_run(state["run_id"]).info.status == "KILLED"


def test_two_uploads_at_once_record_it_once(out: Path, where: Place) -> None:
    write(matmul(), out / "run")
    command = [sys.executable, "-m", "runner.tracking", str(out / "run"), "--uri", where.uri]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    answers = sorted((one.communicate()[0] or "").splitlines()[0] for one in both)
    assert answers == ["already recorded", "recorded"]
    client, experiment = connect(where)
    assert len(client.search_runs([experiment])) == 1


def _connect(out: Path) -> str:
    return connect(place(None, "matmul", None, out))[1]


@pytest.mark.long
@pytest.mark.slow
def test_several_processes_may_meet_an_empty_store(tmp_path: Path) -> None:
    with multiprocessing.get_context("spawn").Pool(3) as pool:
        assert len(set(pool.map(_connect, [tmp_path] * 3))) == 1


KILLED_WHILE_IT_CREATES = """
import os, sys
from pathlib import Path
from sqlalchemy import Engine, event
from runner.tracking.store import connect, place

@event.listens_for(Engine, "after_cursor_execute")
def die(connection, cursor, statement, *others):
    if "ADD COLUMN" in statement:
        os._exit(9)

connect(place(None, "matmul", None, Path(sys.argv[1])))
"""


def test_a_store_whose_creation_was_killed_is_created_anew(tmp_path: Path) -> None:
    """MLflow's migrations can't be taken up in the middle: on a half-made file each later opening fails."""
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_IT_CREATES, str(tmp_path)], timeout=120, check=False)
    assert killed.returncode == 9
    _connect(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", "mlflow.db.lock"}


def test_a_folder_that_is_being_recorded_is_left_alone(out: Path) -> None:
    with locked(out, 0), pytest.raises(RequestError, match="being recorded by another process"), locked(out, 0.1):
        pass


@pytest.mark.parametrize(("arguments", "says"), [([], "--uri"), (["--uri", "gopher://x"], "wrong kind|can't record there")])
def test_an_upload_that_can_not_be_is_one_line_and_exit_2(
    out: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write(matmul(), out / "run")
    assert main([str(out / "run"), *arguments]) == 2
    assert main([str(out / "nothing"), *arguments]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert any(word in first for word in says.split("|"))
    assert "has no journal.jsonl" in second


# --- rented machines ------------------------------------------------------------------------------------------------------

BEGAN = 1772366400.0  # 2026-03-01 12:00 UTC
LOGS = {"launch.json", "task.yaml", "provision.log", "node.log", "teardown.log"}


def cluster(number: int = 1, **changes: Any) -> Attempt:
    """Return a cluster that measured for six minutes, and cost 6 cents."""
    at = BEGAN + 1000 * (number - 1)
    came: dict[str, Any] = {
        "requested_at": at, "up_at": at + 90, "running_at": at + 150, "ended_at": at + 350, "down_at": at + 360,
        "confirmed_down": True, "billed_s": 360.0, "cost_usd": 0.06, "outcome": "complete", "sky_cost_usd": 0.058,
        "instance_type": "1x_H200_SECURE", "region": "CA", "usd_per_hour": 0.6,
    }  # fmt: skip
    return Attempt(f"crossover-ada-{number}", "runpod", **({"gpu": "h200", "asked_gpu": "h200"} | came | changes))


def refused(number: int = 1, **changes: Any) -> Attempt:
    """Return a cluster that could not be had."""
    nothing = dict.fromkeys(("up_at", "running_at", "billed_s", "cost_usd", "sky_cost_usd"))
    return cluster(number, outcome="no capacity", **nothing | changes)


def rent(folder: Path, *attempts: Attempt) -> Rental:
    """Leave in the folder what a launcher does."""
    for log in LOGS - {"launch.json"}:
        (folder / log).write_text("it went so\n")
    found = Rental("5e5510", "ada", list(attempts))
    found.save(folder)
    return found


def never(folder: Path, *attempts: Attempt, **changes: Any) -> Fabricated:
    """Leave in the folder what a run does for which no worker started; return the run that was asked for."""
    run = matmul(**changes)
    run.job().save(folder / "job.json")
    rent(folder, *attempts)
    return run


def runs(where: Place) -> list[Any]:
    client, experiment = connect(where)
    return list(client.search_runs([experiment]))


def test_a_rented_run_has_its_bill(out: Path, where: Place) -> None:
    (out / "run").mkdir()
    lost = cluster(1, spot=True, outcome="lost", cost_usd=0.02, sky_cost_usd=None)
    rent(out / "run", lost, refused(2), cluster(3))
    recorder = record(out / "run", where, matmul(), plots=True)
    client = store(where)
    found = client.get_run(recorder.run_id)
    expected = {"cost_usd": 0.08, "cost_usd_per_case": 0.08 / 7, "billed_s": 720.0, "rental_setup_s": 150.0}
    expected |= {"measure_s": 12.5, "measurements": 28.0}
    assert {key: found.data.metrics[key] for key in expected} == pytest.approx(expected)
    tags = {
        "cost.usd": "0.08", "cloud": "runpod", "instance_type": "1x_H200_SECURE", "region": "CA", "price.usd_per_hour": "0.6",
        "spot": "false", "cluster": "crossover-ada-3", "sky.cost_usd": "0.058", "target": "local", "team": "kernels",
    }  # fmt: skip
    assert tags.items() <= found.data.tags.items()
    assert "fallback_from" not in found.data.tags
    assert artifacts(client, recorder.run_id or "") == ARTIFACTS | LOGS
    assert "## Rented" not in found.data.tags["mlflow.note.content"]
    assert "$0.08 in all" in found.data.tags["mlflow.note.content"]


def test_a_run_on_another_gpu_than_asked_for_says_so_in_a_tag(out: Path, where: Place) -> None:
    (out / "run").mkdir()
    rent(out / "run", refused(asked_gpu="4090", gpu="4090"), cluster(2, asked_gpu="4090"))
    recorder = record(out / "run", where, matmul())
    assert store(where).get_run(recorder.run_id).data.tags["fallback_from"] == "4090"


def test_what_is_rented_may_be_told_at_any_time(out: Path, where: Place) -> None:
    run = matmul()
    recorder = Recorder(out, where, {"target": "sky", "team": "kernels"})
    recorder.retag({"cloud": "vast", "region": None})
    for event in write(run, out, run.events()[:9]):
        recorder.event(event)
    until = time.monotonic() + 20
    while not (recorder.run_id and store(where).get_run(recorder.run_id).data.metrics) and time.monotonic() < until:
        time.sleep(0.1)
    while recorder._wake.is_set() and time.monotonic() < until:
        time.sleep(0.1)  # nothing but being told would make it send anything now
    threads = [threading.Thread(target=recorder.retag, args=({"cloud": "runpod", f"n{number}": number},)) for number in range(20)]
    for one in threads:
        one.start()
    while store(where).get_run(recorder.run_id).data.tags["cloud"] != "runpod":  # while the run goes on
        assert time.monotonic() < until
        time.sleep(0.1)
    for one in threads:
        one.join()
    recorder.finish("partial", "gone")
    expected = {"target": "sky", "team": "kernels", "cloud": "runpod"} | {f"n{number}": str(number) for number in range(20)}
    assert expected.items() <= store(where).get_run(recorder.run_id).data.tags.items()
    assert json.loads((out / "mlflow.json").read_text())["tags"]["n19"] == 19


def test_tags_that_could_not_be_sent_are_sent_later(out: Path, where: Place) -> None:
    write(matmul(), out / "run")
    recorder = Recorder(out / "run", where, {"target": "sky"})
    recorder.retag({"cloud": "runpod"})  # and then it is killed
    assert main([str(out / "run")]) == 0
    (found,) = runs(where)
    assert (found.data.tags["target"], found.data.tags["cloud"]) == ("sky", "runpod")


@pytest.mark.parametrize(("status", "ended"), [("failed", "FAILED"), ("interrupted", "KILLED")])
def test_a_run_that_was_paid_for_is_there_even_if_no_worker_started(out: Path, where: Place, status: str, ended: str) -> None:
    folder = out / "run"
    folder.mkdir()
    recorder = Recorder(folder, where, {"target": "sky", "team": "kernels"})
    run = never(folder, cluster(running_at=None, outcome="failed"))
    recorder.retag({"cloud": "runpod"})
    recorder.finish(status, "set-up on the node failed")
    client = store(where)
    found = client.get_run(recorder.run_id)
    assert (found.info.status, found.info.run_name) == (ended, "03-01 12:00:00 NVIDIA H200, never started")
    assert (found.info.start_time, found.info.end_time) == (1000 * BEGAN, 1000 * (BEGAN + 360))
    expected = {
        "status": status, "reason": "set-up on the node failed", "target": "sky", "team": "kernels", "workload": "matmul",
        "session": "5e5510", "job.hash": run.job().hash, "cost.usd": "0.06", "cloud": "runpod", "git.dirty": "false",
    }  # fmt: skip
    assert expected.items() <= found.data.tags.items()
    assert "gpu.name" not in found.data.tags
    assert found.data.tags["mlflow.note.content"].startswith("## Rented\n")
    assert found.data.metrics == {"cost_usd": 0.06, "billed_s": 360.0}
    assert found.data.params["cases.count"] == "7"
    assert artifacts(client, recorder.run_id or "") == LOGS | {"job.json"}
    assert "never started" not in " ".join(recorder.lines())
    assert recorder.lines()[-1] == f"run {recorder.run_id}"


def test_recording_a_run_that_never_started_again_changes_nothing(
    out: Path, where: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = out / "run"
    folder.mkdir()
    never(folder, cluster(running_at=None))
    assert main([str(folder), "--uri", where.uri]) == 0
    assert main([str(folder)]) == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "recorded" in line] == ["recorded", "already recorded"]
    (folder / "mlflow.json").unlink()
    assert main([str(folder), "--uri", where.uri]) == 0
    (found,) = runs(where)
    assert (found.info.status, found.data.tags["target"], found.data.tags["status"]) == ("FAILED", "sky", "failed")
    assert len(store(where).get_metric_history(found.info.run_id, "cost_usd")) == 1


@pytest.mark.parametrize("remembered", [True, False], ids=["with mlflow.json", "without"])
def test_a_worker_that_starts_at_last_goes_on_with_the_run_that_never_started(out: Path, where: Place, remembered: bool) -> None:
    folder = out / "run"
    folder.mkdir()
    run = never(folder, cluster(running_at=None))
    first = Recorder(folder, where, {"target": "sky"})
    first.finish("failed", "set-up failed")
    if not remembered:
        (folder / "mlflow.json").unlink()
    rent(folder, cluster(running_at=None), cluster(2))
    events = run.events()
    events[0]["job"]["provenance"]["created_at"] = "2026-03-01T12:30:00+00:00"  # it was asked for again
    write(run, folder, events)
    second = Recorder(folder, where, {"target": "sky"})
    for event in events:
        second.event(event)
    until = time.monotonic() + 20
    while not (second.run_id and "latency_ms/bf16" in store(where).get_run(second.run_id).data.metrics):
        assert time.monotonic() < until, second.problem
        time.sleep(0.1)
    assert store(where).get_run(second.run_id).info.status == "RUNNING"
    report.write(folder, plots=False)
    second.finish("complete", "")
    assert (second.problem, second.run_id) == (None, first.run_id)
    (found,) = runs(where)
    assert (found.info.status, found.info.run_name) == ("FINISHED", "03-01 12:00:00 NVIDIA H200")
    expected = {"gpu.name": "NVIDIA H200", "session": run.session, "status": "complete", "reason": "", "cost.usd": "0.12"}
    assert expected.items() <= found.data.tags.items()
    assert (found.data.metrics["cost_usd"], found.data.metrics["rental_setup_s"]) == (0.12, 150.0)
    (folder / "mlflow.json").unlink()
    (folder / "launch.json").unlink()  # the worker's session finds it now
    assert main([str(folder), "--uri", where.uri]) == 0
    assert len(runs(where)) == 1


def test_a_second_attempt_that_gets_nothing_either_is_added_to_the_run(out: Path, where: Place) -> None:
    folder = out / "run"
    folder.mkdir()
    never(folder, cluster(running_at=None))
    Recorder(folder, where).finish("failed", "set-up failed")
    rent(folder, cluster(running_at=None), refused(2))
    Recorder(folder, where).finish("failed", "none of the offers could be had")
    (found,) = runs(where)
    assert (found.data.tags["cluster"], found.data.tags["reason"]) == ("crossover-ada-2", "none of the offers could be had")
    assert found.data.metrics["cost_usd"] == 0.06


def test_a_bill_that_is_known_better_later_is_brought_up(out: Path, where: Place) -> None:
    (out / "run").mkdir()
    rent(out / "run", cluster(confirmed_down=False, cost_usd=None, billed_s=None, down_at=None))
    recorder = record(out / "run", where, matmul())
    assert "cost_usd" not in store(where).get_run(recorder.run_id).data.metrics
    time.sleep(0.01)
    rent(out / "run", cluster())
    assert main([str(out / "run")]) == 0
    (found,) = runs(where)
    assert found.data.metrics["cost_usd"] == 0.06
    assert "not confirmed" not in (out / "run/report.md").read_text()


def test_a_run_here_whose_worker_never_started_is_not_recorded(out: Path, where: Place) -> None:
    matmul().job().save(out / "run/job.json")
    recorder = Recorder(out / "run", where)
    recorder.finish("failed", "no torch")
    assert recorder.lines() == ["not recorded in MLflow: the worker never started"]
    assert runs(where) == []


@pytest.mark.parametrize(("damaged", "says"), [("launch.json", "launch.json is damaged"), ("job.json", "no valid job file")])
def test_a_damaged_file_is_one_line(out: Path, where: Place, damaged: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = out / "run"
    folder.mkdir()
    never(folder, refused())
    (folder / damaged).write_text("{")
    recorder = Recorder(folder, where)
    recorder.finish("failed", "")
    assert says in recorder.lines()[0]
    assert recorder.lines()[1] == f"later: python -m runner.tracking {folder}"
    assert main([str(folder)]) == 2
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1


def worked(events: list[Event]) -> tuple[float, float]:
    seconds, count = (point.value for point in work(events))
    return seconds, count


def test_the_work_of_all_workers_of_a_run_counts(out: Path) -> None:
    run = matmul()
    events = run.events()
    assert worked(events) == (12.5, 28)
    assert worked([*events, *events]) == (25.0, 56)  # asked for again, measured again
    killed = events[:9]  # without a last word, so by its events, 137 ms apart
    assert worked(killed) == (pytest.approx(8 * 0.137), 6)
    assert worked([*killed, *events]) == (pytest.approx(12.5 + 8 * 0.137), 34)
    assert list(work([])) == []


# --- names, steps and params ---------------------------------------------------------------------------------------------


def test_further_axes_go_into_the_name_sorted() -> None:
    assert name("latency_ms", "flash", {}) == "latency_ms/flash"
    assert name("latency_ms", "flash", {"window": 512, "dtype": "bf16"}) == "latency_ms/flash/dtype:bf16 window:512"


def test_settings_are_params_and_in_no_metrics_name() -> None:
    cases = grid("n", [128], heads=[64], layer=["up"])
    run = matmul(cases=cases, derive={"settings": {"heads": 64}})
    job = run.job().as_dict()
    assert next(points(run.events()[2], Steps.of(job))).name == "latency_ms/fp32/layer:up"
    assert params(job)["setting.heads"] == "64"
    assert not any(key.startswith("setting") for key in params(matmul().job().as_dict()))


@pytest.mark.parametrize("value", ["a/b", "..", "x=1", "ü", "", "[q]", "a" * 300])
def test_mlflow_takes_every_name(value: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(name("latency_ms", value, {value: value, "n": 1}))


@pytest.mark.parametrize(
    ("xs", "steps", "note"),
    [
        ([1, 2, 4], [1, 2, 4], "step = n"),
        ([1.6, 3.2], [2, 3], "step = n rounded to a whole number"),
        ([0.1, 0.2, 0.4], [0, 1, 2], "step = place of n: 0 is 0.1, 1 is 0.2, 2 is 0.4"),
        (["small", "large"], [1, 0], "step = place of n: 0 is large, 1 is small"),
    ],
)
def test_steps_are_whole_numbers_and_say_what_they_are(xs: list[Any], steps: list[int], note: str) -> None:
    run = Fabricated({"fp32": lambda case: 1.0}, grid("n", xs), work=lambda case: (1.0, 1.0))
    found = Steps.of(run.job().as_dict())
    measured = [event for event in run.events() if event["event"] == "measurement"]
    assert [next(points(event, found)).step for event in measured] == steps
    assert found.note == note


def test_long_jobs_fit_mlflow(out: Path) -> None:
    run = matmul(cases=grid("n", range(1, 3000)))
    found = params(run.job().as_dict())
    assert max(map(len, found.values())) <= 6000
    assert found["cases.count"] == "2999"


# --- reaching the store ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("uri", "masked"),
    [
        ("http://localhost:5000", "http://localhost:5000"),
        ("https://me:s3cret@host/x", "https://***@host/x"),
        (
            "postgresql+psycopg2://me:s%40cret@db:5432/mlflow?sslmode=require",
            "postgresql+psycopg2://***@db:5432/mlflow?sslmode=require",
        ),
        ("postgresql://db/mlflow?user=me&password=s3cret", "postgresql://db/mlflow?user=me&password=***"),
        ("sqlite:////home/a@b/mlflow.db", "sqlite:////home/a@b/mlflow.db"),
    ],
)
def test_secrets_in_a_uri_are_masked(uri: str, masked: str) -> None:
    assert mask(uri) == masked
    assert scrub(f"could not\nreach {uri}", uri) == f"could not reach {masked}"


@pytest.mark.parametrize("uri", ["http://me:s%40cret@host", "postgresql://host/db?password=s%40cret"])
def test_secrets_in_other_libraries_messages_are_masked(uri: str) -> None:
    assert scrub("refused s@cret and s%40cret", uri) == "refused *** and ***"


def test_secrets_are_in_no_file_of_the_run(tmp_path: Path) -> None:
    write(matmul(), tmp_path)
    recorder = Recorder(tmp_path, Place("http://me:s3cret@127.0.0.1:9", "matmul"))
    recorder.finish("complete", "")
    assert all(b"s3cret" not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert "s3cret" not in " ".join([*recorder.lines(), *ui_hint(recorder.where, "1")])


def test_a_server_that_is_not_there_is_one_line_at_once() -> None:
    start = time.monotonic()
    with pytest.raises(RequestError, match=r"can't be used .*refused.*tracking.required=false"):
        check(Place("http://127.0.0.1:9", "matmul"))
    assert "recording later" in (check(Place("http://127.0.0.1:9", "matmul"), required=False) or "")
    assert time.monotonic() - start < 2


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_server_is_asked_whether_it_is_mlflow() -> None:
    with answering(200, b"3.17.2") as uri:
        assert check(Place(uri, "matmul")) is None
    with answering(200, b"<html>hello") as uri, pytest.raises(RequestError, match="something else than an MLflow server"):
        check(Place(uri, "matmul"))
    with answering(401, b"") as uri, pytest.raises(RequestError, match="MLFLOW_TRACKING_USERNAME"):
        check(Place(uri, "matmul"))


def test_a_server_that_hangs_is_given_up_on() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(RequestError, match="timed out"):
            check(Place(f"http://127.0.0.1:{silent.getsockname()[1]}", "matmul"))
        assert time.monotonic() - start < 5


@pytest.mark.parametrize("uri", ["ftp://host/x", "databricks", "file:///tmp/mlruns", "mlruns"])
def test_a_uri_of_a_wrong_kind_is_refused_even_when_tracking_is_optional(uri: str) -> None:
    with pytest.raises(RequestError, match="MLflow can't record there; expected http"):
        check(Place(uri, "matmul"), required=False)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("hello " * 1000)
    with pytest.raises(RequestError, match="not a database"):
        check(place(None, "matmul", None, tmp_path))
    with pytest.raises(RequestError, match="can't be used"):
        check(place("sqlite:////proc/nowhere/mlflow.db", "matmul", None, tmp_path))


def test_the_recorder_never_raises_and_says_how_to_go_on(tmp_path: Path) -> None:
    run = matmul()
    events = write(run, tmp_path)
    told: list[str] = []
    recorder = Recorder(tmp_path, Place("http://127.0.0.1:9", "matmul"), tell=told.append)
    start = time.monotonic()
    for event in events:
        recorder.event(event)
    assert time.monotonic() - start < 0.5  # events never wait
    while not told and time.monotonic() - start < 30:
        time.sleep(0.1)
    recorder.finish("complete", "")
    assert len(told) == 1
    assert told[0].endswith("the run goes on, trying again")
    assert recorder.lines()[1] == f"later: python -m runner.tracking {tmp_path}"


# --- a real server that goes away -----------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(folder: Path, port: int, database: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run an MLflow server on `port` with its files in `folder`."""
    environment = os.environ | {"HOME": str(folder), "MLFLOW_DISABLE_TELEMETRY": "true"}
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", f"sqlite:///{database}", "--artifacts-destination", str(folder / "artifacts"),
    ]  # fmt: skip
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=folder, start_new_session=True)
    try:
        until = time.monotonic() + 120
        while time.monotonic() < until:
            assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
            with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
                if answer.status == 200:
                    break
            time.sleep(0.3)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_server_that_is_killed_halfway_loses_nothing(out: Path) -> None:
    run, folder = matmul(), out / "run"
    events = run.events()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = place(f"http://127.0.0.1:{port}", "matmul", None, out)
    told: list[str] = []
    with server(out, port, out / "mlflow.db"):
        assert check(where) is None
        recorder = Recorder(folder, where, tell=told.append) if write(run, folder, events[:12]) else None
        assert recorder is not None
        for event in events[:12]:
            recorder.event(event)
        until = time.monotonic() + 60
        while recorder._upload.state.logged < 12 and time.monotonic() < until:
            time.sleep(0.1)
        assert recorder.run_id
    write(run, folder, events)  # the server is gone, the run goes on
    start = time.monotonic()
    for event in events[12:]:
        recorder.event(event)
    assert time.monotonic() - start < 0.5
    report.write(folder)
    recorder.finish("complete", "")
    assert time.monotonic() - start < 45
    assert recorder.problem
    assert "python -m runner.tracking" in recorder.lines()[1]
    assert main([str(folder)]) == 2  # still not there

    with server(out, port, out / "mlflow.db"):
        assert main([str(folder)]) == 0
        assert main([str(folder)]) == 0
        client, experiment = connect(where)
        (found,) = client.search_runs([experiment])
        assert (found.info.run_id, found.info.status) == (recorder.run_id, "FINISHED")
        assert len(client.get_metric_history(recorder.run_id, "latency_ms/fp32")) == 7
        assert artifacts(client, recorder.run_id) == ARTIFACTS
        assert recorder.where.uri in ui_hint(where, experiment)[0]
