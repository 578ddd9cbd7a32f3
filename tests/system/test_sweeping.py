"""A sweep over rented GPUs in the lab: a cluster for each, beside each other; nothing left, costs that add up, runs nested."""

import os
import signal
import sys
import time

import pytest

from runner import journal, rental
from runner.sweep import folder as folders
from runner.sweep import state
from tests.system.processes import QUICK, wait_for
from tests.system.renting import LAUNCH_S, left_over, rented

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]


@pytest.fixture
def run(lab, tmp_path):
    with rented(lab, tmp_path, sizes=4) as run:
        yield run


def start(run, *overrides):
    """Start a sweep over both GPUs of the lab, two jobs on each."""
    return run.spawn(
        [
            sys.executable, "-m", "runner", "-m", "--config-dir", str(run.scratch / "conf"), "workload=planted", *QUICK,
            "gpu=lab4090,laba100", "seed=1,2", "display=plain", f"out={run.scratch / 'out'}",
            f"launch.python={run.lab.node_python}", "sweep.name=both", *overrides,
        ]
    )  # fmt: skip


def sweep_of(run):
    return folders.load(run.scratch / "out" / "sweeps" / "both")


def attempts(run):
    """What launch.json says of each GPU's cluster."""
    found = {}
    for path in (run.scratch / "out" / "sweeps" / "both" / "clusters").glob("*/launch.json"):
        found[path.parent.name] = rental.load(path.parent).attempts
    return found


@pytest.mark.long
def test_two_gpus_are_two_clusters_at_the_same_time_and_their_jobs_share_them(run, lab):
    start(run)
    code = run.wait(2 * LAUNCH_S + 240)
    took = time.time() - run.started_at
    said = run.said()
    assert code == 0, said
    sweep = sweep_of(run)
    assert [state.status(sweep.path(job))[0] for job in sweep.jobs] == ["complete"] * 4
    clusters = attempts(run)
    assert sorted(clusters) == ["lab4090-0", "laba100-0"]
    (one,), (other,) = clusters.values()
    assert max(one.requested_at, other.requested_at) < min(one.down_at, other.down_at)  # beside each other
    longer = max(attempt.down_at - attempt.requested_at for attempt in (one, other))
    together = max(one.down_at, other.down_at) - min(one.requested_at, other.requested_at)
    print(f"the longer cluster {longer:.0f} s, both {together:.0f} s, the command {took:.0f} s")
    assert together <= 1.3 * longer
    # one set-up for two jobs: the second one's worker is the first one's
    begun = [next(e for e in journal.read(sweep.path(job)) if e["event"] == "job_started")["jobs_before"] for job in sweep.jobs]
    assert begun == [0, 1, 0, 1]
    shares = {job.index: rental.load(sweep.path(job)).attempts for job in sweep.jobs}
    for cluster, jobs in ((clusters["lab4090-0"][0], (0, 1)), (clusters["laba100-0"][0], (2, 3))):
        parts = [shares[index][0] for index in jobs]
        assert sum(part.share for part in parts) == pytest.approx(1)
        assert sum(part.cost_usd for part in parts) == pytest.approx(cluster.cost_usd)
        assert cluster.confirmed_down
    runs = run.mlflow_runs()
    parent = next(one for one in runs if one.data.tags.get("kind") == "sweep")
    children = [one for one in runs if one.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {one.data.tags["sweep.index"] for one in children} == {"0", "1", "2", "3"}
    assert {one.info.status for one in runs} == {"FINISHED"}
    assert parent.data.metrics["cost_usd"] == pytest.approx(sum(one.data.metrics["cost_usd"] for one in children), rel=1e-3)
    assert parent.data.metrics["cost_usd"] == pytest.approx(one.cost_usd + other.cost_usd, rel=1e-3)
    assert not any(left_over(lab).values())
    assert run.ledger() == []


@pytest.mark.long
def test_a_sweep_that_is_killed_leaves_no_cluster_and_resumes(run, lab):
    start(run, "workload.n=[64,65,66]")
    sweep = run.scratch / "out" / "sweeps" / "both"
    wait_for(
        lambda: any(path.stat().st_size for path in sweep.glob(f"*/{journal.NAME}")) or run.process.poll() is not None,
        "a first event", 2 * LAUNCH_S,
    )  # fmt: skip
    assert run.process.poll() is None, run.said()
    os.kill(run.process.pid, signal.SIGKILL)
    run.process.wait()
    wait_for(lambda: run.ledger() == [], "the clusters' own processes to end them", 120)
    assert not any(left_over(lab).values())
    kept = {job.index: state.status(sweep_of(run).path(job))[0] == "complete" for job in sweep_of(run).jobs}
    before = {job.index: len(measured(sweep_of(run).path(job))) for job in sweep_of(run).jobs}
    run.spawn(
        [
            sys.executable, "-m", "runner", "--config-dir", str(run.scratch / "conf"), "-m", "sweep.resume=both",
            f"out={run.scratch / 'out'}",
        ]
    )  # fmt: skip
    assert run.wait(2 * LAUNCH_S + 240) == 0, run.said()
    after = sweep_of(run)
    for job in after.jobs:
        found = measured(after.path(job))
        assert len(found) == len(set(found)) == 6  # three sizes, two variants: nothing lost, nothing twice
        if kept[job.index]:
            assert before[job.index] == 6
    assert not any(left_over(lab).values())


def measured(folder):
    return [(journal.case_key(e["case"]), e["variant"]) for e in journal.read(folder) if e["event"] == "measurement"]
