"""Whatever is killed, whenever: what was measured stays, the exit code and MLflow tell the truth, the same folder completes."""

import contextlib
import json
import os
import random
import signal
import time
from collections import Counter

import pytest

from runner import journal
from tests.system.processes import Place, end, is_alive, wait_for, worker_of

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

LONG = pytest.mark.long
VARIANTS = ("honest", "twin")


@contextlib.contextmanager
def started(place, *more):
    """Start the launcher; yields it and its worker's process id, and leaves neither behind."""
    launcher = place.start(*more)
    try:
        wait_for(lambda: worker_of(launcher) or launcher.poll() is not None, "a worker")
        worker = worker_of(launcher)
        assert worker, f"it ended without a worker: {place.said()}"
        yield launcher, worker
    finally:
        end(launcher)


def identity(line):
    event = json.loads(line)
    return event["case"]["n"], event["variant"]


def in_flight(events):
    """Return the case that the last worker was at, None when it had begun none."""
    for event in reversed(events):
        if event["event"] == "case_started":
            return event["case"]["n"]
        if event["event"] == "job_started":
            return None
    return None


def sessions(events):
    return sum(event["event"] == "job_started" for event in events)


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=LONG)])
def test_a_worker_killed_again_and_again_loses_nothing_but_the_case_in_flight(tmp_path, kills):
    chance = random.Random(20)
    place = Place.make(tmp_path, list(range(64, 64 + 40 + 4 * kills)))
    kept, interrupted = [], Counter()
    for kill in range(kills):
        begun = sessions(place.events()) if kill else 0
        with started(place) as (launcher, worker):
            if kill and kill % 4 == 0:
                time.sleep(chance.uniform(0, 3))  # while it imports torch, or soon after
            else:
                wait_for(lambda begun=begun: sessions(place.events()) > begun, "the worker's first word")
                more = len(kept) + chance.randint(0 if kill else 1, 5)
                wait_for(lambda more=more: len(place.lines()) >= more, "some more measurements")
                time.sleep(chance.uniform(0, 0.3))
            os.kill(worker, signal.SIGKILL)
            code = launcher.wait(60)
        assert code == 1, place.said()
        assert any(line.startswith("partial ") for line in place.said().splitlines()), place.said()
        lines = place.lines()
        assert lines[: len(kept)] == kept, "a measurement was lost or changed"
        kept = lines
        if (case := in_flight(place.events())) is not None:
            interrupted[case] += 1
        assert_nothing_was_repeated(kept, interrupted)
        (run,) = place.mlflow_runs()
        assert (run.info.status, run.data.tags["status"]) == ("FAILED", "partial")
    assert len(kept) < 2 * len(place.sizes), "it was done before its last kill: the grid is too small for this test"

    with started(place) as (launcher, _):
        assert launcher.wait(300) == 0, place.said()
    lines = place.lines()
    assert lines[: len(kept)] == kept
    assert_nothing_was_repeated(lines, interrupted)
    assert {identity(line) for line in lines} == {(n, variant) for n in place.sizes for variant in VARIANTS}
    assert journal.final_status(place.events())[0] == "complete"
    (run,) = place.mlflow_runs()
    assert (run.info.status, run.data.tags["status"]) == ("FINISHED", "complete")
    assert set(place.points(run.info.run_id, "latency_ms/honest")) == set(place.sizes)


def assert_nothing_was_repeated(lines, interrupted):
    """A measurement may be there again only for a case that was in flight at a kill, once for each of those kills."""
    for (n, variant), times in Counter(map(identity, lines)).items():
        assert times <= 1 + interrupted[n], f"n={n} {variant} was measured {times} times"


def test_a_worker_ends_itself_when_its_launcher_is_killed_and_mlflow_is_told_later_once(tmp_path):
    place = Place.make(tmp_path, list(range(64, 264)))
    with started(place) as (launcher, worker):
        wait_for(lambda: len(place.lines()) >= 4, "some measurements")
        launcher.kill()
        launcher.wait()
        wait_for(lambda: not is_alive(worker), "the worker's end", limit_s=10)
    status, _ = journal.final_status(place.events())
    assert status == "partial"
    measured = {identity(line)[0] for line in place.lines()}
    for call in range(3):
        done = place.record_later()
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("recorded" if call == 0 else "already recorded")
        (run,) = place.mlflow_runs()
        assert (run.info.status, run.data.tags["status"]) == ("FAILED", "partial")
        points = place.points(run.info.run_id, "latency_ms/honest")
        assert len(points) == len(set(points))
        assert set(points) == measured


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_an_interrupted_run_is_killed_in_mlflow_and_leaves_no_process(tmp_path, number):
    place = Place.make(tmp_path, list(range(64, 264)))
    with started(place) as (launcher, worker):
        wait_for(lambda: len(place.lines()) >= 4, "some measurements")
        launcher.send_signal(number)
        assert launcher.wait(60) == 130, place.said()
        assert not is_alive(worker)
    assert "interrupted" in place.said()
    assert "Traceback" not in place.said()
    last = place.events()[-1]
    assert (last["event"], last["status"], last["reason"]) == ("job_finished", "partial", "interrupted")
    (run,) = place.mlflow_runs()
    assert (run.info.status, run.data.tags["status"]) == ("KILLED", "interrupted")


@pytest.mark.parametrize("after_s", [0.0, pytest.param(0.5, marks=LONG), 1.0, pytest.param(2.0, marks=LONG), 4.0])
def test_ctrl_c_while_it_starts_leaves_no_process_and_no_traceback(tmp_path, after_s):
    place = Place.make(tmp_path, list(range(64, 264)))
    with started(place) as (launcher, worker):
        time.sleep(after_s)
        launcher.send_signal(signal.SIGINT)
        assert launcher.wait(60) == 130, place.said()
        assert not is_alive(worker)
    assert "Traceback" not in place.said()


def test_a_full_disk_ends_the_run_with_one_message(tmp_path, small_disk):
    place = Place.make(tmp_path, list(range(64, 264)), run=small_disk / "run")
    # Room for the job file and some cases, not for all of them.
    (small_disk / "filler").write_bytes(b"\0" * 128 * 1024)
    with started(place) as (launcher, worker):
        assert launcher.wait(120) == 1, place.said()
        assert not is_alive(worker)
    assert place.lines(), "something was measured before the disk was full"
    assert journal.final_status(place.events())[0] == "partial"
    assert "Traceback" not in place.said(), place.said()
    (ended,) = [line for line in place.said().splitlines() if line.startswith("partial ")]
    assert "No space left on device" in ended
