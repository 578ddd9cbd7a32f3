"""Renting from a real SkyPilot over a real Slurm: whatever happens, no cluster is left, nothing is lost, MLflow is right.

`make test-system` runs the tests without the mark `long`; `make reliability` runs all and writes docs/reliability.md from them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runner import journal
from tests.system.processes import wait_for
from tests.system.reliability import Row
from tests.system.renting import forwarded, identity, kill, left_over, rented

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

CANARY = "canary-3f9a"
UNDERWAY_S = 1.0
"""What a node wrote within the last second before it vanished may not have arrived."""
FINISHED, FAILED, KILLED = "FINISHED", "FAILED", "KILLED"


@pytest.fixture
def run(lab, tmp_path):
    lab.reset()
    with rented(lab, tmp_path, sizes=60) as run:
        yield run
        if run.ledger():  # a test that failed halfway; the next ones need the nodes
            run.command("down")
    assert not any(left_over(lab).values()), left_over(lab)


@pytest.fixture
def checked(lab, reliability):
    """Return a function that checks what must hold after any fault, and keeps it as a row of the table."""

    def check(run, fault, *, code, status, mlflow, on_node=None, since=None, kept=None, note=""):
        took = None if since is None else time.time() - since
        lost = [line for line in on_node or [] if line not in set(run.lines())]
        left = left_over(lab)
        runs = run.mlflow_runs()
        row = Row(
            fault=fault, exit_code=code, status=status, at_home=len(run.lines()), lost=len(lost), repeated=run.repeated(),
            clusters=len(left["clusters"]), jobs=len(left["jobs"]), processes=len(left["processes"]),
            mlflow=", ".join(one.info.status for one in runs) or "no run", seconds=took, note=note,
        )  # fmt: skip
        reliability.add(row)
        assert not any(left.values()), left
        assert run.ledger() == []
        assert lost == []
        if kept is not None:
            assert run.lines()[: len(kept)] == kept, "a measurement changed or went"
        assert [one.info.status for one in runs] == ([mlflow] if mlflow else [])
        assert all(one["confirmed_down"] for one in run.attempts())
        assert "Traceback" not in run.said(), run.said()

    return check


def complete(run):
    """Check that every case is at home once, and say the device that measured."""
    assert {identity(line) for line in run.lines()} == {(n, variant) for n in run.sizes for variant in ("honest", "twin")}
    assert journal.final_status(run.events())[0] == "complete"
    return next(event["device"]["name"] for event in run.events() if event["event"] == "job_started")


@pytest.mark.long
def test_a_run_comes_home_while_it_goes_on_and_costs_little_more_than_sky_itself(run, checked, reliability, lab):
    began = time.monotonic()
    task = run.scratch / "echo.yaml"
    task.write_text("resources: {infra: slurm, accelerators: 'RTX4090:1'}\nrun: echo hello\n")
    sky = str(Path(sys.executable).parent / "sky")
    said = subprocess.run([sky, "launch", "-y", "-c", "plain", str(task)], env=run.environment(), capture_output=True, text=True)
    plain_s = time.monotonic() - began
    assert "hello" in said.stdout, said.stdout + said.stderr
    subprocess.run([sky, "down", "-y", "plain"], env=run.environment(), capture_output=True, check=True)

    began = time.monotonic()
    run.start()
    ours_s, worst_lag = None, 0.0
    behind: dict[int, float] = {}
    while run.process.poll() is None:
        now, home = time.monotonic(), len(run.lines())
        for count in range(home + 1, len(run.on_the_node()) + 1):
            behind.setdefault(count, now)
        for count in [one for one in behind if one <= home]:
            worst_lag = max(worst_lag, now - behind.pop(count))
        if ours_s is None and home and run.is_in_mlflow("latency_ms/honest"):
            ours_s = now - began
        time.sleep(0.2)
    assert run.wait() == 0, run.said()
    assert complete(run) == "Lab RTX4090"
    (tracked,) = run.mlflow_runs()
    (attempt,) = run.attempts()
    assert tracked.data.tags["price.usd_per_hour"] == "0.59"
    assert tracked.data.metrics["cost_usd"] == pytest.approx(attempt["billed_s"] * 0.59 / 3600)
    assert "sky cost-report says" in run.said()
    assert ours_s is not None, "nothing was in MLflow while the run went on"
    reliability.figures |= {"plain sky launch of an echo (s)": plain_s, "command to first measurement in MLflow (s)": ours_s}
    reliability.figures["worst lag of the journal (s)"] = worst_lag
    assert worst_lag < 5
    checked(run, "none", code=0, status="complete", mlflow=FINISHED)


@pytest.mark.long
def test_a_drained_node_without_a_fallback_is_said_and_costs_nothing(run, checked, lab):
    lab.drain("n4090", "full")
    since = time.time()
    run.start()
    assert run.wait() == 1
    assert "none of the offers could be had" in run.said()
    assert run.attempts()[0]["cost_usd"] is None
    checked(run, "node drained, no fallback", code=1, status="failed", mlflow=FAILED, since=since)


@pytest.mark.long
def test_a_drained_node_falls_back_and_the_results_say_so(run, checked, lab):
    lab.drain("n4090", "full")
    since = time.time()
    run.start("launch.fallback=[laba100]")
    assert run.wait() == 0, run.said()
    assert complete(run) == "Lab A100"
    assert "FALLBACK" in run.said()
    (tracked,) = run.mlflow_runs()
    assert (tracked.data.tags["gpu.name"], tracked.data.tags["fallback_from"]) == ("Lab A100", "lab4090")
    checked(
        run, "node drained, fallback", code=0, status="complete", mlflow=FINISHED, since=since, note="measured on the fallback"
    )


@pytest.mark.long
def test_a_preempted_job_leaves_what_is_home(run, checked, lab):
    run.start()
    run.until_measured(6)
    on_node = run.on_the_node()
    time.sleep(UNDERWAY_S)
    since = time.time()
    lab.cancel_jobs()
    assert run.wait() == 1
    assert "the instance was lost" in run.said()
    checked(run, "job preempted (scancel)", code=1, status="partial", mlflow=FAILED, on_node=on_node, since=since)


def test_a_preempted_job_goes_on_elsewhere_with_what_is_missing(run, checked, lab):
    run.start("launch.retries=1")
    run.until_measured(6)
    on_node = run.on_the_node()
    time.sleep(UNDERWAY_S)
    since = time.time()
    lab.cancel_jobs()
    assert run.wait() == 0, run.said()
    assert len(run.attempts()) == 2
    complete(run)
    checked(
        run, "job preempted (scancel), launch.retries=1", code=0, status="complete", mlflow=FINISHED, on_node=on_node,
        since=since, kept=on_node, note="the second instance measured the rest",
    )  # fmt: skip


@pytest.mark.long
def test_a_lost_node_is_replaced(run, checked, lab):
    run.start("launch.retries=1")
    run.until_measured(6)
    home = run.on_the_node()
    time.sleep(UNDERWAY_S)
    since = time.time()
    lab.kill_node("n4090")
    time.sleep(15)  # until Slurm has noticed
    lab.start_node("n4090")
    assert run.wait(500) in (0, 1), run.said()
    code = run.process.returncode
    status, mlflow = ("complete", FINISHED) if code == 0 else ("partial", FAILED)
    checked(run, "node lost, launch.retries=1", code=code, status=status, mlflow=mlflow, on_node=home, since=since, kept=home)


@pytest.mark.long
def test_a_failing_set_up_is_shown_with_its_last_line(run, checked):
    since = time.time()
    run.start("launch.setup='echo this will not do >&2; exit 3'")
    assert run.wait() == 1
    assert "set-up on the node failed: error: launch.setup ended with exit code" in run.said()
    assert "this will not do" in (run.folder / "node.log").read_text()
    checked(run, "set-up fails", code=1, status="failed", mlflow=FAILED, since=since)


@pytest.mark.long
def test_a_killed_worker_keeps_its_measurements_and_the_same_command_goes_on(run, checked, lab):
    run.start()
    run.until_measured(6)
    since = time.time()
    for entry in Path("/proc").iterdir():  # the pid in OUT/pid is that of the node's own namespace
        with contextlib.suppress(OSError):
            if b"runner.worker\0job.json" in (entry / "cmdline").read_bytes() and is_of(lab, entry):
                os.kill(int(entry.name), signal.SIGKILL)
    assert run.wait() == 1
    assert "killed by SIGKILL" in run.said()
    kept = run.lines()
    checked(run, "worker killed (kill -9)", code=1, status="partial", mlflow=FAILED, since=since)
    run.start()
    assert run.wait() == 0, run.said()
    complete(run)
    checked(run, "the same command after it", code=0, status="complete", mlflow=FINISHED, kept=kept)


def is_of(lab, entry):
    return str(lab.folder).encode() in (entry / "environ").read_bytes()


@pytest.mark.long
def test_a_connection_cut_for_30_s_loses_and_repeats_nothing(run, checked, lab):
    run.start()
    run.until_measured(6)
    since = time.time()
    with lab.cut_connection():
        time.sleep(30)
    assert run.wait() == 0, run.said()
    assert "reconnecting" in run.said()
    complete(run)
    assert run.repeated() == 0
    checked(run, "connection cut for 30 s", code=0, status="complete", mlflow=FINISHED, since=since)


@pytest.mark.long
def test_skypilots_server_may_die_meanwhile(run, checked, lab):
    run.start()
    run.until_measured(6)
    since = time.time()
    lab.skypilot.kill()
    lab.skypilot.start()
    lab.skypilot.wait()
    assert run.wait() == 0, run.said()
    complete(run)
    checked(run, "SkyPilot's server killed and started again", code=0, status="complete", mlflow=FINISHED, since=since)


def interrupted(run, checked, fault, number=signal.SIGINT, times=1, mlflow=KILLED):
    on_node, since = run.on_the_node(), time.time()
    for _ in range(times):
        run.process.send_signal(number)
        time.sleep(1.5)
    assert run.wait() == 130, run.said()
    assert "interrupted" in run.said()
    checked(run, fault, code=130, status="interrupted", mlflow=mlflow, on_node=on_node, since=since)


def test_ctrl_c_while_provisioning(run, checked):
    run.start()
    run.until_said("provisioning:")
    wait_for(lambda: run.lab.slurm_jobs(), "a Slurm job")
    interrupted(run, checked, "Ctrl-C while provisioning")


@pytest.mark.long
def test_ctrl_c_before_the_launch_is_accepted(run, checked):
    run.start()
    run.until_said("provisioning:")
    interrupted(run, checked, "Ctrl-C as provisioning begins")


@pytest.mark.long
def test_ctrl_c_in_set_up(run, checked):
    run.start("launch.setup='sleep 120'")
    run.until_said("set-up:")
    time.sleep(8)
    interrupted(run, checked, "Ctrl-C in set-up")


@pytest.mark.long
def test_ctrl_c_while_measuring_lets_the_worker_finish_its_sentence(run, checked):
    run.start()
    run.until_measured(6)
    interrupted(run, checked, "Ctrl-C while measuring")
    assert run.events()[-1]["event"] == "job_finished"


@pytest.mark.long
def test_ctrl_c_five_times_still_ends_the_cluster(run, checked):
    run.start()
    run.until_measured(6)
    interrupted(run, checked, "Ctrl-C five times", times=5)


@pytest.mark.long
def test_sigterm(run, checked):
    run.start()
    run.until_measured(6)
    interrupted(run, checked, "SIGTERM", signal.SIGTERM)


@pytest.mark.long
def test_a_launcher_killed_while_provisioning_is_cleaned_up_by_down(run, checked):
    run.start()
    run.until_said("provisioning:")
    wait_for(lambda: run.lab.slurm_jobs(), "a Slurm job")
    since = time.time()
    kill(run.process)
    (name,) = run.ledger()
    assert name in run.command("status").stdout
    done = run.command("down")
    assert (done.returncode, "confirmed by sky status" in done.stdout) == (0, True), done.stdout + done.stderr
    checked(run, "launcher killed (kill -9) while provisioning, then down", code=-9, status="failed", mlflow=FAILED, since=since)


def test_a_launcher_killed_while_measuring_loses_nothing_that_down_can_reach(run, checked):
    run.sizes = list(range(64, 264))
    run.start()
    run.until_measured(6)
    since = time.time()
    kill(run.process)
    time.sleep(3)  # the worker goes on without us
    on_node = run.on_the_node()
    assert len(on_node) > len(run.lines()), "the node had nothing more to bring home"
    done = run.command("down")
    assert done.returncode == 0, done.stdout + done.stderr
    checked(
        run, "launcher killed (kill -9) while measuring, then down", code=-9, status="partial", mlflow=FAILED, on_node=on_node,
        since=since, note="down brought the rest home",
    )  # fmt: skip


@pytest.mark.long
def test_the_next_command_ends_what_a_killed_launcher_left(run, checked):
    run.start()
    run.until_measured(6)
    kept, since = run.lines(), time.time()
    kill(run.process)
    left = run.ledger()
    run.start()  # the same command continues the run
    assert run.wait() == 0, run.said()
    assert f"ending {left[0]}" in run.said()
    complete(run)
    checked(
        run, "launcher killed (kill -9) while measuring, same command again", code=0, status="complete", mlflow=FINISHED,
        since=since, kept=kept,
    )  # fmt: skip


@pytest.mark.long
def test_another_device_gives_no_number(run, checked):
    since = time.time()
    run.start("gpu.sky_accelerator=A100")  # as where a cloud sells several cards under one name
    assert run.wait() == 1
    assert run.lines() == []
    assert "this machine has Lab A100" in run.said()
    checked(run, "another device than asked for", code=1, status="failed", mlflow=FAILED, since=since, note="no number")


def test_a_budget_is_refused_before_anything_is_spent(run, lab):
    for budget in ("launch.max_usd=0.0001", "launch.max_usd_per_hour=0.1"):
        run.start(budget)
        assert run.wait() == 2
        (line,) = [line for line in run.said().splitlines() if line.startswith("error:")]
        assert budget.split("=")[0] in line
        assert not run.folder.exists()
    assert not any(left_over(lab).values())


@pytest.mark.long
def test_a_time_limit_holds_on_the_node(run, checked):
    since = time.time()
    run.start("launch.max_minutes=0.1", "measure.max_time_s=2", "measure.target=0.0001", "measure.min_time_s=1")
    assert run.wait() == 1
    assert "raise launch.max_minutes" in run.said()
    checked(run, "time limit reached", code=1, status="partial", mlflow=FAILED, since=since)


@pytest.mark.long
def test_a_spent_budget_ends_the_run(run, checked):
    since = time.time()
    run.start(
        "launch.max_usd=0.03", "measure.max_time_s=4", "measure.target=0.0001", "measure.min_time_s=3", "launch.max_minutes=30"
    )
    code = run.wait(600)
    said = run.said()
    assert code == 1, said
    assert "launch.max_usd" in said or "launch.max_minutes" in said
    assert sum(one["cost_usd"] for one in run.attempts()) < 0.05
    checked(run, "budget used up", code=1, status="partial", mlflow=FAILED, since=since)


@pytest.mark.long
def test_two_runs_at_once_have_clusters_of_their_own(lab, tmp_path, checked):
    lab.reset()
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with rented(lab, tmp_path / "one") as one, rented(lab, tmp_path / "two", gpu="laba100") as two:
        one.start()
        two.start()
        assert (one.wait(500), two.wait(500)) == (0, 0), one.said() + two.said()
        assert (complete(one), complete(two)) == ("Lab RTX4090", "Lab A100")
        checked(one, "two runs at once: the first", code=0, status="complete", mlflow=FINISHED)
        checked(two, "two runs at once: the second", code=0, status="complete", mlflow=FINISHED)


def test_no_secret_of_this_side_reaches_the_node_or_any_record(run, checked, lab):
    for name in (".aws/credentials", ".runpod/config.toml", ".prime/config.json", ".lambda_cloud/lambda_keys", ".vast_api_key"):
        path = lab.home / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"[default]\naws_access_key_id = {CANARY}\napi_key = '{CANARY}'\n")
    run.extra |= {"RUNPOD_API_KEY": CANARY, "AWS_SECRET_ACCESS_KEY": CANARY, "MY_TOKEN": CANARY, "LC_MY_TOKEN": CANARY}
    # What the job sees of its environment and its home is printed into the log that comes home.
    run.start("launch.setup='env; ls -a ~'")
    run.until_measured(2)
    on_node = subprocess.run(["grep", "-rsl", CANARY, str(lab.slurm.root_home)], capture_output=True, text=True).stdout
    assert run.wait() == 0, run.said()
    assert on_node == ""
    assert "HOME=" in (run.folder / "node.log").read_text()
    for folder in (run.folder, run.scratch / "out", run.state):
        found = subprocess.run(["grep", "-rsl", CANARY, str(folder)], capture_output=True, text=True).stdout
        assert found == "", found
    assert CANARY not in run.said()
    checked(
        run, "credentials in the environment and in HOME", code=0, status="complete", mlflow=FINISHED, note="none on the node"
    )


@pytest.mark.long
def test_autostop_ends_the_cluster_of_a_launcher_that_nobody_missed(run, checked, lab):
    run.start("launch.idle_minutes=1")
    run.until_measured(6)
    on_node, since = run.on_the_node(), time.time()
    kill(run.process)
    wait_for(lambda: not lab.slurm_jobs(), "the end of the instance by itself", 420)
    took = time.time() - since
    assert run.command("down").returncode == 0
    checked(
        run, "launcher killed (kill -9), nobody comes", code=-9, status="partial", mlflow=FAILED, since=since,
        note=f"it ended itself after {took:.0f} s (launch.idle_minutes=1); what came home until the kill is kept",
    )  # fmt: skip
    assert len(on_node) >= 6


@pytest.mark.long
def test_skypilots_server_is_started_when_needed_and_left_as_it_was(run, checked, lab):
    lab.skypilot.kill()
    run.start()
    assert run.wait() == 0, run.said()
    complete(run)
    assert not lab.skypilot.answers(), "the server that this program started still runs"
    lab.skypilot.start()
    lab.skypilot.wait()
    checked(run, "no SkyPilot server runs", code=0, status="complete", mlflow=FINISHED, note="started, and stopped again")


@pytest.mark.long
def test_a_colleague_uses_the_same_server_from_another_home(run, checked, lab, tmp_path):
    home = tmp_path / "colleague"
    home.mkdir()
    with forwarded(lab.skypilot.port) as port:
        # An address that SkyPilot doesn't take for its own machine: the code is uploaded, ssh goes through the server.
        run.extra |= {
            "HOME": str(home),
            "SKYPILOT_API_SERVER_ENDPOINT": f"http://127.0.0.2:{port}",
            "LOGNAME": "bob",
            "USER": "bob",
        }
        run.start()
        assert run.wait() == 0, run.said()
        complete(run)
        (attempt,) = run.attempts()
        assert attempt["cluster"].startswith("crossover-bob-")
        assert run.command("status").returncode == 0
        checked(run, "a shared server, another HOME", code=0, status="complete", mlflow=FINISHED)
