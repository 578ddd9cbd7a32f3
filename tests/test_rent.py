"""Renting: however a run on a rented machine goes, what was measured is here, each measurement once, and nothing goes on costing.

SkyPilot has a stand-in, and nothing else: a cluster is a folder and a process group of this machine, so that set-up, worker,
connection and teardown are the real ones.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from runner import cost, journal, rental
from runner.config import Billing, LaunchConfig
from runner.errors import JobError, RequestError
from runner.launch import __main__ as launch_main
from runner.launch import bring, ledger, left, names, rent, server, skypilot, teardown, watch
from runner.launch.offers import Offer
from runner.launch.rent import Choice, Renting, Settings
from runner.launch.skypilot import Launched, NoCapacity, Unreachable
from tests.jobs import ROOT, planted_job
from tests.journals import GPU

MODULE = {"module_file": str(ROOT / "tests" / "planted.py")}
OFFER = Offer("hourly", "a", "CARD", 0.5, region="north", instance_type="1x_CARD")
OTHER = Offer("seconds", "b", "OTHER", 0.25)
BILLING = {"hourly": Billing(3600, 3600, "", ""), "seconds": Billing(1, 0, "", "")}
FEW, MANY = list(range(64, 67)), list(range(64, 364))
SLOW = ["honest", "sleeps"]
"""Variants that take long enough for something to happen meanwhile."""


# --- SkyPilot's stand-in ---


@dataclass
class Cluster:
    """A cluster of the stand-in; `process` is its node, from set-up on."""

    folder: Path
    task: dict[str, Any]
    state: str = "INIT"
    process: "subprocess.Popen[bytes] | None" = None


@dataclass
class FakeSky:
    """What runner.launch.skypilot.Sky answers, over folders of this machine. The fields are what goes wrong."""

    home: Path
    full: set[str] = field(default_factory=set)  # clouds without capacity
    usd_per_hour: float | None = None  # None: as offered
    polls: int = 2  # how often a launch is still under way when it is asked about
    never_down: bool = False
    down_fails: int = 0
    on_poll: list[Callable[[], None]] = field(default_factory=list)  # done at the first questions about a launch
    nodes: dict[str, Cluster] = field(default_factory=dict)
    launches: list[dict[str, Any]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    came_up: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)

    def is_guarded(self) -> bool:
        return True

    def launch(self, task: dict[str, Any], cluster: str) -> str:
        folder = self.home / cluster
        shutil.copytree(task["workdir"], folder / "sky_workdir")
        shutil.copytree(task["workdir"], self.home / "travelled" / cluster)
        self.nodes[cluster] = Cluster(folder, task)
        self.launches.append(task)
        return f"request-{cluster}"

    def is_running(self, request: str) -> bool:
        if self.on_poll:
            self.on_poll.pop(0)()
        self.polls -= 1
        return self.polls >= 0

    def launched(self, request: str) -> Launched:
        name = request.removeprefix("request-")
        node = self.nodes[name]
        resources = node.task["resources"]
        wanted = [one for one in resources.get("ordered", [resources]) if one["infra"].partition("/")[0] not in self.full]
        if not wanted:
            self._forget(name)
            raise NoCapacity("Failed to provision all possible launchable resources.")
        self.start(node)
        self.came_up.append(name)
        cloud, _, region = wanted[0]["infra"].partition("/")
        (accelerator,) = wanted[0]["accelerators"]
        return Launched(7, cloud, region or None, wanted[0].get("instance_type"), accelerator, False, self.usd_per_hour)

    def start(self, node: Cluster) -> None:
        """Run set-up and then the job, as SkyPilot does: each a script of its own in the folder that travelled."""
        node.state = "UP"
        node.process = subprocess.Popen(
            ["bash", "-c", 'bash -c "$SETUP" && exec bash -c "$RUN"'],
            cwd=node.folder / "sky_workdir",
            env={
                "PATH": os.environ["PATH"], "HOME": str(node.folder), **node.task["envs"],
                "SETUP": node.task["setup"], "RUN": node.task["run"],
            },
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def requests(self, cluster: str) -> list[str]:
        return [f"request-{cluster}"] if self.cluster_state(cluster) == "INIT" else []

    def cancel(self, request: str) -> None:
        self.cancelled.append(request)

    def said(self, request: str) -> str:
        return f"launching for {request}\n"

    def cluster_state(self, cluster: str, refresh: bool = False) -> str | None:
        return self.nodes[cluster].state if cluster in self.nodes else None

    def clusters(self) -> list[str]:
        return list(self.nodes)

    def job_state(self, cluster: str, job_id: int) -> str | None:
        node = self.nodes.get(cluster)
        if node is None or node.process is None:
            return None
        code = node.process.poll()
        return "RUNNING" if code is None else "FAILED" if code else "SUCCEEDED"

    def down(self, cluster: str) -> None:
        self.down_fails -= 1
        if self.never_down or self.down_fails >= 0:
            raise JobError("the cloud's API says 503")
        if cluster in self.nodes:
            self.ended.append(cluster)
            self._forget(cluster)

    def cost_usd(self, cluster: str) -> float | None:
        return 0.01 if cluster in self.came_up else None

    def ssh_options(self, cluster: str) -> list[str]:
        return [str(self.nodes[cluster].folder)]

    # What happens to machines.

    @property
    def node(self) -> Cluster:
        """The one cluster there is."""
        (node,) = self.nodes.values()
        return node

    def lose(self) -> None:
        """Take the instance away, as a cloud does with a spot instance."""
        for name in list(self.nodes):
            self._forget(name)

    def cut(self, seconds: float) -> None:
        """Break the connection to the node, which goes on, and let none through for a while."""
        node = self.node
        (node.folder / "cut").touch()
        kill(node.folder, "worker/follow.py")
        threading.Timer(seconds, lambda: (node.folder / "cut").unlink(missing_ok=True)).start()

    def _forget(self, name: str) -> None:
        node = self.nodes.pop(name)
        end(node)
        shutil.rmtree(node.folder)


def processes(folder: Path, what: str = "") -> Iterator[int]:
    """Yield the processes that run in a node's folder; `what` is part of their command."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if what in command and Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                yield int(entry.name)


def kill(folder: Path, what: str = "") -> int:
    """Kill the processes of a node; return how many there were."""
    found = list(processes(folder, what))
    for pid in found:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return len(found)


def end(node: Cluster) -> None:
    """End all that runs on a node."""
    while kill(node.folder):
        time.sleep(0.02)
    if node.process is not None:
        node.process.wait()


def command(node: bring.Node, line: str) -> list[str]:
    """Stand in for ssh: run a line in the node's folder, while there is one and the way to it is open."""
    folder = Path(node.options[0])
    if not folder.is_dir() or (folder / "cut").exists():
        return ["sh", "-c", "echo 'connection refused' >&2; exit 255"]
    return ["sh", "-c", f"cd {folder}/sky_workdir && {line}"]


# --- A run over it ---


class Watcher:
    """A sink that keeps what it is told; `on` holds what is done at the first event or phase of a name, or at its number."""

    def __init__(self) -> None:
        self.events: list[journal.Event] = []
        self.reports: list[dict[str, Any]] = []
        self.on: dict[tuple[str, int], Any] = {}

    def event(self, event: journal.Event) -> None:
        self.events.append(event)
        self._do(event["event"], sum(one["event"] == event["event"] for one in self.events))

    def progress(self, progress: dict[str, Any]) -> None:
        self.reports.append(progress)
        if "phase" in progress:
            self._do(progress["phase"], sum(one.get("phase") == progress["phase"] for one in self.reports))

    def finish(self, status: str, reason: str) -> None:
        raise AssertionError("the launcher's caller says how it ended")

    def _do(self, name: str, count: int) -> None:
        action = self.on.pop((name, count), None)
        if action:
            action()


class World:
    """A run's folder, the stand-in and what the run was told and said."""

    def __init__(self, folder: Path) -> None:
        self.run = folder / "run"
        self.run.mkdir()
        self.sky = FakeSky(folder / "clusters")
        self.watcher = Watcher()
        self.on = self.watcher.on
        self.warnings: list[str] = []
        self.alarms: list[str] = []
        self.chosen: list[tuple[str, str]] = []
        self.renting: Renting | None = None

    def rent(self, *choices: Choice, limit_s: float = 600.0, asked: str = "a", **launch: Any) -> rent.Outcome:
        """Rent for the choices and return how it went."""
        given = LaunchConfig(python=sys.executable, **launch)
        settings = Settings(given, asked, {}, BILLING, limit_s)
        self.renting = Renting(
            self.sky, self.run, choices, settings, chosen=lambda choice, attempt: self.chosen.append((choice.gpu, attempt.cloud)),
            warn=self.warnings.append, alarm=self.alarms.append,
        )  # fmt: skip
        return self.renting.run([self.watcher])

    @property
    def attempts(self) -> list[rental.Attempt]:
        found = rental.load(self.run)
        return found.attempts if found else []

    def events(self) -> list[journal.Event]:
        return journal.read(self.run)

    def measured(self) -> Counter[tuple[int, str]]:
        """How often each case of each variant is in the journal at home."""
        return Counter((event["case"]["n"], event["variant"]) for event in self.events() if event["event"] == "measurement")

    def assert_nothing_is_left(self) -> None:
        assert self.sky.nodes == {}
        assert list(ledger.entries()) == []
        assert list((ledger.folder() / "staged").glob("*")) == []
        assert all(one.confirmed_down for one in self.attempts)
        assert not list(processes(self.sky.home))
        assert self.alarms == []


@contextlib.contextmanager
def making(folder: Path) -> Iterator[World]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(folder / "state"))
        patch.setattr(bring.Node, "command", command)
        patch.setattr(rent, "POLL_S", 0.02)
        patch.setattr(teardown, "PAUSE_S", 0.01)
        made = World(folder)
        try:
            yield made
        finally:
            for node in made.sky.nodes.values():
                end(node)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with making(tmp_path) as made:
        yield made


def choice(
    variants: list[str] = SLOW, sizes: list[int] = FEW, name: str = "a", offers: Sequence[Offer] = (OFFER,), **fields: Any
) -> Choice:
    """Return a GPU to run on, by the name of its file, with a job of the planted workload."""
    return Choice(name, [planted_job(variants, sizes, provenance=MODULE, **fields)], offers)


NEVER = choice(["never"])
"""For runs that end before a worker starts."""


# --- A run that nothing happens to ---


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, rent.Outcome]]:
    with making(tmp_path_factory.mktemp("complete")) as made, pytest.MonkeyPatch.context() as patch:
        for name in ("RUNPOD_API_KEY", "AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(name, "canary-of-a-secret")
        yield made, made.rent(choice())


def test_a_run_comes_home_complete_and_its_cluster_is_ended(complete: tuple[World, rent.Outcome]) -> None:
    world, outcome = complete
    assert (outcome.status, outcome.reason) == ("complete", "")
    assert world.measured() == {(n, variant): 1 for n in FEW for variant in SLOW}
    assert world.watcher.events == world.events()
    assert world.chosen == [("a", "hourly")]
    assert world.warnings == []
    assert len(world.sky.ended) == 1
    world.assert_nothing_is_left()


def test_its_phases_are_told_in_order(complete: tuple[World, rent.Outcome]) -> None:
    phases = [one["phase"] for one in complete[0].watcher.reports if "phase" in one]
    assert list(dict.fromkeys(phases)) == ["provisioning", "set-up", "starting", "tearing down"]
    assert any(one.get("case") for one in complete[0].watcher.reports)


def test_its_record_has_the_times_and_the_bill_of_its_lifetime(complete: tuple[World, rent.Outcome]) -> None:
    (attempt,) = complete[0].attempts
    times = [attempt.requested_at, attempt.up_at, attempt.running_at, attempt.ended_at, attempt.down_at]
    assert None not in times
    assert times == sorted(times)
    assert (attempt.outcome, attempt.reason, attempt.cloud, attempt.region) == ("complete", "", "hourly", "north")
    assert (attempt.usd_per_hour, attempt.increment_s, attempt.minimum_s) == (0.5, 3600, 3600)
    lifetime = attempt.down_at - attempt.requested_at
    assert attempt.billed_s == cost.billed_s(lifetime, BILLING["hourly"]) == 3600
    assert attempt.cost_usd == cost.bill_usd(0.5, lifetime, BILLING["hourly"]) == 0.5
    assert attempt.sky_cost_usd == 0.01


def test_its_logs_stay_in_its_folder(complete: tuple[World, rent.Outcome]) -> None:
    folder = complete[0].run
    assert "launching for request-" in (folder / "provision.log").read_text()
    assert f"using {sys.executable}" in (folder / "node.log").read_text()
    assert "no such cluster" in (folder / "teardown.log").read_text()


def test_no_secret_of_this_machine_travels_or_is_written_down(complete: tuple[World, rent.Outcome]) -> None:
    world = complete[0]
    (travelled,) = (world.sky.home / "travelled").iterdir()
    files = [path for folder in (world.run, travelled) for path in folder.rglob("*") if path.is_file()]
    assert {"task.yaml", "launch.json", "journal.jsonl", "job.json"} <= {path.name for path in files}
    assert [path for path in files if b"canary" in path.read_bytes()] == []


def test_running_a_complete_run_again_rents_nothing(complete: tuple[World, rent.Outcome], tmp_path: Path) -> None:
    with making(tmp_path) as world:
        shutil.copytree(complete[0].run, world.run, dirs_exist_ok=True)
        assert world.rent(choice()).status == "complete"
        assert set(world.measured().values()) == {1}
        assert len(world.attempts) == 1
        world.assert_nothing_is_left()


# --- Capacity ---


def test_where_the_first_gpu_can_not_be_had_the_fallback_is_measured_and_labelled(world: World) -> None:
    world.sky.full = {"hourly"}
    other = choice(["honest"], [64], "b", [OTHER], seed=2)
    outcome = world.rent(choice(["honest"], [64]), other, fallback=["b"])
    assert outcome.status == "complete"
    assert {event["hash"] for event in world.events() if event["event"] == "job_started"} == {other.jobs[0].hash}
    assert world.chosen == [("b", "seconds")]
    assert any("gpu=a can't be had now" in one for one in world.warnings)
    assert any(one.startswith("FALLBACK: gpu=a could not be had; this run is on b") for one in world.warnings)
    first, second = world.attempts
    assert (first.outcome, first.gpu, first.cost_usd) == ("no capacity", "a", None)
    assert (second.outcome, second.gpu, second.asked_gpu) == ("complete", "b", "a")
    assert second.cost_usd == cost.bill_usd(0.25, second.down_at - second.requested_at, BILLING["seconds"])
    world.assert_nothing_is_left()


def test_without_any_capacity_the_ways_on_are_named_and_nothing_is_left(world: World) -> None:
    world.sky.full = {"hourly", "seconds"}
    with pytest.raises(JobError, match=r"none of the offers could be had \(a: Failed .*; b: Failed .*launch.fallback"):
        world.rent(NEVER, choice(["never"], name="b", offers=[OTHER]), fallback=["b"])
    world.assert_nothing_is_left()
    world.sky.full = {"hourly"}
    with pytest.raises(JobError, match=r"try later, another cloud with cloud=NAME, or .*launch.fallback=\[GPU\]"):
        world.rent(NEVER)
    world.assert_nothing_is_left()


# --- A machine that is lost ---


def test_a_lost_instance_is_replaced_and_only_what_is_missing_is_measured(world: World) -> None:
    sizes = list(range(64, 76))
    world.on["measurement", 9] = world.sky.lose
    outcome = world.rent(choice(sizes=sizes), retries=1)
    assert (outcome.status, outcome.reason) == ("complete", "")
    assert set(world.measured()) == {(n, variant) for n in sizes for variant in SLOW}
    repeated = {n for (n, _), times in world.measured().items() if times > 1}
    assert len(repeated) <= 1, "more than the case in flight was measured again"
    assert [one.outcome for one in world.attempts] == ["lost", "complete"]
    assert sum(event["event"] == "job_started" for event in world.events()) == 2
    assert any("the instance was lost; trying again with another instance (1 of 1)" in one for one in world.warnings)
    world.assert_nothing_is_left()


def test_a_lost_instance_without_retries_leaves_what_came_home(world: World) -> None:
    world.on["measurement", 6] = world.sky.lose
    outcome = world.rent(choice(sizes=MANY))
    assert outcome.status == "partial"
    for part in ("the instance was lost", "what it measured is kept", "launch.retries=N", f"run_dir={world.run}"):
        assert part in outcome.reason
    assert sum(world.measured().values()) >= 6
    world.assert_nothing_is_left()


def test_a_lost_instance_that_can_not_be_replaced_leaves_a_partial_run(world: World) -> None:
    def lose() -> None:
        world.sky.lose()
        world.sky.full = {"hourly"}

    world.on["measurement", 1] = lose
    assert world.rent(choice(sizes=MANY), retries=1).status == "partial"


def test_instances_are_replaced_no_more_often_than_asked_for(world: World) -> None:
    world.on["set-up", 1] = world.on["set-up", 2] = lambda: threading.Timer(0.3, world.sky.lose).start()
    outcome = world.rent(NEVER, setup="exec sleep 600", retries=1)
    assert outcome.status == "partial"
    assert [one.outcome for one in world.attempts] == ["lost", "lost"]
    world.assert_nothing_is_left()


def test_an_instance_is_not_replaced_by_one_for_which_the_money_does_not_last(world: World) -> None:
    world.on["set-up", 1] = world.on["set-up", 2] = lambda: threading.Timer(0.3, world.sky.lose).start()
    world.rent(NEVER, setup="exec sleep 600", retries=1, max_usd=0.75)
    assert sum(one.cost_usd for one in world.attempts) <= 0.75


def test_a_job_that_is_ended_from_outside_is_noticed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "ASK_S", 0.1)
    monkeypatch.setattr(watch, "LAST_WORDS_S", 0.2)
    world.on["set-up", 1] = lambda: threading.Timer(0.5, world.sky.node.process.kill).start()
    outcome = world.rent(NEVER, setup="exec sleep 600")
    assert outcome.status == "partial"
    assert "the job on the instance was ended from outside (SkyPilot says FAILED)" in outcome.reason
    world.assert_nothing_is_left()


def test_a_broken_connection_costs_nothing_but_time(world: World) -> None:
    world.on["measurement", 3] = lambda: world.sky.cut(2.5)
    sizes = list(range(64, 74))
    assert world.rent(choice(sizes=sizes)).status == "complete"
    assert world.measured() == {(n, variant): 1 for n in sizes for variant in SLOW}
    assert any(one.get("phase") == "reconnecting" for one in world.watcher.reports)
    assert len(world.attempts) == 1
    world.assert_nothing_is_left()


# --- A worker that does not come to its end ---


def test_a_set_up_that_fails_is_told_with_its_last_line(world: World) -> None:
    outcome = world.rent(NEVER, setup="echo no such driver; exit 3")
    assert outcome.status == "failed"
    assert outcome.reason.startswith("set-up on the node failed: error: launch.setup ended with exit code 3; see ")
    assert "no such driver" in (world.run / "node.log").read_text()
    assert world.attempts[0].running_at is None
    world.assert_nothing_is_left()


def test_a_worker_that_is_killed_leaves_what_it_measured(world: World) -> None:
    world.on["measurement", 4] = lambda: kill(world.sky.node.folder, f"{sys.executable} -m runner.worker")
    outcome = world.rent(choice(sizes=MANY))
    assert outcome.status == "partial"
    assert "the worker was killed by SIGKILL; what it measured is kept" in outcome.reason
    assert sum(world.measured().values()) >= 4
    world.assert_nothing_is_left()


def test_the_time_limit_ends_the_worker_in_order(world: World) -> None:
    def time_is_up() -> None:  # what timeout(1) tells itself then
        os.kill(int((world.sky.node.folder / "sky_workdir" / "out" / "pid").read_text()), signal.SIGALRM)

    world.on["measurement", 1] = time_is_up
    outcome = world.rent(choice(sizes=MANY))
    assert outcome.status == "partial"
    assert outcome.reason.startswith(
        "the time limit of 10 min 00 s was reached; raise launch.max_minutes and continue with run_dir="
    )
    assert world.events()[-1]["event"] == "job_finished"
    world.assert_nothing_is_left()


def test_another_card_than_the_one_that_was_rented_for_is_not_measured(world: World) -> None:
    outcome = world.rent(choice(gpu=GPU))
    assert outcome.status == "failed"
    assert "the job asks for NVIDIA H200: nothing was measured" in outcome.reason
    assert world.measured() == {}
    world.assert_nothing_is_left()


def test_what_the_worker_refuses_is_told_in_its_words(world: World) -> None:
    outcome = world.rent(NEVER)
    assert outcome.status == "failed"
    assert outcome.reason.startswith("the worker refuses the job: ")
    assert "never" in outcome.reason
    world.assert_nothing_is_left()


def test_a_run_ends_before_its_bill_passes_what_it_may_cost(world: World) -> None:
    def raise_the_price() -> None:
        world.renting.record.attempts[0].usd_per_hour = 1e6

    world.on["measurement", 2] = raise_the_price
    outcome = world.rent(choice(sizes=MANY), max_usd=3.0)
    assert outcome.status == "partial"
    assert "launch.max_usd=3" in outcome.reason
    assert f"raise it and continue with run_dir={world.run}" in outcome.reason
    last = world.events()[-1]
    assert (last["event"], last["status"], last["reason"]) == ("job_finished", "partial", "interrupted")
    world.assert_nothing_is_left()


def test_a_run_ends_before_the_next_hour_that_it_can_not_pay_begins(world: World) -> None:
    def let_an_hour_pass() -> None:
        world.renting.record.attempts[0].requested_at -= 3595 - (time.time() - world.renting.record.attempts[0].requested_at)

    world.on["set-up", 1] = let_an_hour_pass
    assert world.rent(NEVER, setup="exec sleep 600", max_usd=0.75).status == "partial"
    assert world.attempts[0].cost_usd == 0.5


def test_a_full_disk_here_ends_the_run_and_its_cluster(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    append = bring.Journal.append

    def full(home: bring.Journal, line: bytes) -> None:
        if len(world.watcher.events) > 4:
            raise OSError(28, "No space left on device")
        append(home, line)

    monkeypatch.setattr(bring.Journal, "append", full)
    outcome = world.rent(choice(sizes=MANY))
    assert (outcome.status, outcome.reason) == ("partial", "can't write the journal here: No space left on device")
    assert len(world.events()) == 5
    world.assert_nothing_is_left()


# --- Ctrl-C ---


def interrupt() -> None:
    raise KeyboardInterrupt


def assert_interrupted(world: World, outcome: rent.Outcome) -> None:
    assert outcome.status == "interrupted"
    assert f"run_dir={world.run}" in outcome.reason
    assert [one.outcome for one in world.attempts] == ["interrupted"]
    world.assert_nothing_is_left()


def test_ctrl_c_while_a_machine_is_provisioned_cancels_the_launch(world: World) -> None:
    world.sky.polls, world.sky.on_poll = 1000, [interrupt]
    outcome = world.rent(NEVER)
    assert_interrupted(world, outcome)
    assert world.sky.cancelled == [f"request-{world.attempts[0].cluster}"]
    assert world.attempts[0].cost_usd is None


def test_ctrl_c_during_set_up_ends_the_cluster(world: World) -> None:
    ready = world.run / "node.log"

    def when_it_is_heard_from() -> None:
        while not ready.exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    world.on["set-up", 1] = threading.Thread(target=when_it_is_heard_from, daemon=True).start
    assert_interrupted(world, world.rent(NEVER, setup="echo installing; sleep 600"))
    assert world.attempts[0].cost_usd == 0.5


def test_ctrl_c_while_measuring_brings_the_last_words_home(world: World) -> None:
    world.on["measurement", 3] = interrupt
    outcome = world.rent(choice(sizes=MANY))
    assert_interrupted(world, outcome)
    last = world.events()[-1]
    assert (last["event"], last["status"], last["reason"]) == ("job_finished", "partial", "interrupted")


def test_a_second_ctrl_c_does_not_wait_for_the_last_words(world: World) -> None:
    world.on["measurement", 1] = world.on["stopping the worker", 1] = interrupt
    outcome = world.rent(choice(sizes=MANY))
    assert_interrupted(world, outcome)
    assert world.events()[-1]["event"] != "job_finished"


def test_ctrl_c_while_the_cluster_is_ended_does_not_keep_it(world: World) -> None:
    world.on["tearing down", 1] = lambda: os.kill(os.getpid(), signal.SIGINT)
    assert world.rent(NEVER, setup="exit 1").status == "failed"
    assert any("this can't be skipped, it costs money" in one for one in world.warnings)
    world.assert_nothing_is_left()


# --- The end of a cluster ---

NAME = f"crossover-{names.user()}-00000000-0001"


def test_an_end_that_can_not_be_confirmed_is_told_with_what_to_type_and_kept_on_file(world: World) -> None:
    world.sky.never_down = True
    assert world.rent(NEVER, setup="exit 1").status == "failed"
    (entry,) = ledger.left_behind()
    (alarm,) = world.alarms
    for part in (entry.cluster, "the cloud's API says 503", f"python -m runner.launch down {entry.cluster}", "sky down -y"):
        assert part in alarm
    assert world.attempts[0].confirmed_down is False
    assert entry.folder == str(world.run)


def test_an_end_that_fails_at_first_is_tried_again_and_confirmed(world: World) -> None:
    world.sky.down_fails = 2
    assert world.rent(NEVER, setup="exit 1").status == "failed"
    assert sum("its end is not certain yet (the cloud's API says 503); asking again" in one for one in world.warnings) >= 2
    world.assert_nothing_is_left()


def test_skypilot_that_answers_no_question_is_no_confirmation(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> str:
        raise Unreachable("SkyPilot did not answer within 90 s")

    monkeypatch.setattr(FakeSky, "cluster_state", unreachable)
    ended = teardown.end(world.sky, ledger.Entry("crossover-ada-00000000-0001", "", 0.0), None)
    assert not ended.confirmed
    assert "SkyPilot did not answer within 90 s" in ended.line


def test_an_end_is_not_confirmed_while_it_is_not_known_whether_a_launch_goes_on(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def requests(sky: FakeSky, cluster: str) -> list[str]:
        asked.append(cluster)
        if len(asked) == 1:
            raise Unreachable("SkyPilot did not answer within 90 s")
        return ["request-1"] if not sky.cancelled else []

    monkeypatch.setattr(FakeSky, "requests", requests)
    ended = teardown.end(world.sky, ledger.Entry(NAME, "", 0.0), None)
    assert world.sky.cancelled == ["request-1"] or not ended.confirmed


def test_what_was_asked_and_answered_is_in_the_log(world: World) -> None:
    world.rent(NEVER, setup="exit 1")
    (attempt,) = world.attempts
    said = [line.partition(" ")[2] for line in (world.run / "teardown.log").read_text().splitlines()]
    assert said == [f"sky down {attempt.cluster}", f"sky status {attempt.cluster}: no such cluster"]


# --- What a kill left behind ---


LINES = [json.dumps({"event": "measurement", "n": n}) + "\n" for n in range(5)]


@pytest.fixture
def left_behind(world: World) -> ledger.Entry:
    """A cluster whose run was killed: its node's journal has five lines, the one at home two and the beginning of a third."""
    node = Cluster(world.sky.home / NAME, {})
    (node.folder / "sky_workdir" / "out").mkdir(parents=True)
    (node.folder / "sky_workdir" / "out" / journal.NAME).write_text("".join(LINES) + LINES[0][:9])
    node.state = "UP"
    world.sky.nodes[NAME] = node
    (world.run / journal.NAME).write_text("".join(LINES[:2]) + LINES[2][:7])
    attempt = rental.Attempt(NAME, "hourly", "a", "a", usd_per_hour=0.5, requested_at=time.time() - 60, up_at=time.time() - 50)
    rental.Rental("session", attempts=[attempt]).save(world.run)
    ledger.enter(ledger.Entry(NAME, str(world.run), attempt.requested_at, usd_per_hour=0.5)).release()
    (entry,) = ledger.left_behind()
    return entry


def test_the_rest_of_its_journal_is_brought_home_before_its_cluster_is_ended(world: World, left_behind: ledger.Entry) -> None:
    assert left.end(world.sky, left_behind).confirmed
    assert (world.run / journal.NAME).read_text() == "".join(LINES)
    (attempt,) = world.attempts
    assert (attempt.outcome, attempt.confirmed_down) == ("left behind", True)
    assert attempt.cost_usd == cost.bill_usd(0.5, attempt.down_at - attempt.requested_at, BILLING["seconds"])
    world.assert_nothing_is_left()


def test_it_is_ended_also_when_its_folder_is_gone(world: World, left_behind: ledger.Entry) -> None:
    shutil.rmtree(world.run)
    assert left.end(world.sky, left_behind).confirmed
    assert (world.sky.nodes, list(ledger.entries())) == ({}, [])


def test_it_is_ended_also_when_its_node_can_not_be_reached(world: World, left_behind: ledger.Entry) -> None:
    (world.sky.node.folder / "cut").touch()
    assert left.end(world.sky, left_behind).confirmed
    assert journal.read(world.run) == [json.loads(line) for line in LINES[:2]]
    world.assert_nothing_is_left()


def test_it_stays_on_file_until_its_end_is_confirmed(world: World, left_behind: ledger.Entry) -> None:
    world.sky.never_down = True
    assert not left.end(world.sky, left_behind).confirmed
    assert [entry.cluster for entry in ledger.left_behind()] == [NAME]
    assert world.attempts[0].confirmed_down is False
    world.sky.never_down = False
    assert left.end(world.sky, left_behind).confirmed
    assert world.attempts[0].confirmed_down is True
    world.assert_nothing_is_left()


# --- python -m runner.launch ---


@pytest.fixture
def launch(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a command of `python -m runner.launch`; return its exit code and what it printed."""
    monkeypatch.setattr(server, "connected", lambda: contextlib.nullcontext(world.sky))

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["runner.launch", *arguments])
        code = launch_main.main()
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_status_shows_what_was_left_behind_and_what_it_costs(world: World, launch: Any, left_behind: ledger.Entry) -> None:
    other = f"crossover-{names.user()}-00000000-0002"
    world.sky.nodes |= {other: Cluster(world.sky.home / other, {}), "somebody-elses": Cluster(world.sky.home / "x", {})}
    code, said, _ = launch("status")
    assert code == 0
    first, second = said.splitlines()
    assert first.startswith(f"{NAME}  UP  $0.50/h for ")
    assert "left behind; python -m runner.launch down ends it" in first
    assert first.endswith(str(world.run))
    assert second == f"{other}  INIT  started from another machine; python -m runner.launch down {other} ends it"


def test_status_tells_a_run_that_goes_on_from_one_that_was_killed(launch: Any) -> None:
    held = ledger.enter(ledger.Entry(NAME, "/run", time.time()))
    assert "its run goes on" in launch("status")[1]
    held.close()
    assert launch("status") == (0, "nothing of this program is running\n", "")


def test_down_ends_what_was_left_behind(world: World, launch: Any, left_behind: ledger.Entry) -> None:
    assert launch("down") == (0, f"ending {NAME}\n{NAME} has ended, confirmed by sky status\n", "")
    assert len(journal.read(world.run)) == 5
    world.assert_nothing_is_left()
    assert launch("down") == (0, "nothing to end\n", "")


def test_down_ends_a_cluster_of_this_user_by_its_name_alone(world: World, launch: Any) -> None:
    world.sky.nodes[NAME] = Cluster(world.sky.home / NAME, {})
    (world.sky.home / NAME).mkdir(parents=True)
    assert launch("down", NAME)[0] == 0
    assert world.sky.ended == [NAME]


@pytest.mark.parametrize("name", ["my-cluster", "crossover-somebody-00000000-0001", f"{NAME}-x", "-"])
def test_down_refuses_clusters_of_others_in_one_line(world: World, launch: Any, left_behind: ledger.Entry, name: str) -> None:
    code, said, refusal = launch("down", NAME, name)
    assert (code, said) == (2, "")
    assert refusal == f"error: {name} was not started by this program; end it with: sky down {name}\n"
    assert world.sky.ended == []


def test_down_fails_with_an_alarm_when_an_end_can_not_be_confirmed(world: World, launch: Any, left_behind: ledger.Entry) -> None:
    world.sky.never_down = True
    code, said, _ = launch("down")
    assert code == 1
    assert f"ALARM: {NAME} may still be running and costing money" in said


def test_without_skypilot_status_says_so_and_down_refuses(
    launch: Any, left_behind: ledger.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "connected", lambda: contextlib.nullcontext(None))
    assert "SkyPilot was never used here" in launch("status")[1]
    code, _, refusal = launch("down")
    assert (code, refusal) == (2, "error: SkyPilot was never used from this HOME; set HOME to the one that rented them\n")


# --- SkyPilot's server ---


def test_skypilot_is_set_up_where_it_was_used_or_another_server_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv(server.ENDPOINT, raising=False)
    assert not server.is_set_up()
    (tmp_path / ".sky").mkdir()
    assert not server.is_set_up()
    for name in ("state.db", "config.yaml"):
        (tmp_path / ".sky" / name).touch()
        assert server.is_set_up()
        (tmp_path / ".sky" / name).unlink()
    monkeypatch.setenv(server.ENDPOINT, "https://sky.example.org")
    assert server.is_set_up()


@dataclass
class Guarded:
    """A server with or without the guard."""

    guarded: bool

    def is_guarded(self) -> bool:
        return self.guarded


def test_a_server_with_the_guard_or_leave_to_copy_is_fine() -> None:
    server.check_guard(Guarded(True), "refuse")
    server.check_guard(Guarded(False), "allow")


@pytest.mark.parametrize(
    ("endpoint", "way"),
    [(None, "stop it with sky api stop"), ("https://sky.example.org", "its administrator can add runner.launch.guard")],
)
def test_a_server_without_the_guard_is_refused_with_the_ways_on(
    monkeypatch: pytest.MonkeyPatch, endpoint: str | None, way: str
) -> None:
    monkeypatch.setattr(skypilot, "remote_endpoint", lambda: endpoint)
    with pytest.raises(RequestError) as caught:
        server.check_guard(Guarded(False), "refuse")
    assert "would copy the cloud credentials in its HOME to the node" in str(caught.value)
    assert way in str(caught.value)
    assert "launch.credentials=allow" in str(caught.value)
    assert "\n" not in str(caught.value)


@dataclass
class Server:
    """A connection that notes what becomes of the server; `started` is whether this program started it."""

    started: bool
    stopped: int = 0

    def connect(self, folder: Path) -> bool:
        return self.started

    def stop_server(self) -> None:
        self.stopped += 1


@pytest.mark.parametrize("started", [True, False])
def test_a_server_is_left_as_it_was_found(world: World, monkeypatch: pytest.MonkeyPatch, started: bool) -> None:
    found = Server(started)
    monkeypatch.setattr(server, "is_set_up", lambda: True)
    monkeypatch.setattr(server, "Sky", lambda log: found)
    with server.connected():
        assert found.stopped == 0
    assert found.stopped == started


def test_a_server_is_kept_while_another_run_uses_it_or_a_cluster_needs_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Server(True)
    monkeypatch.setattr(server, "is_set_up", lambda: True)
    monkeypatch.setattr(server, "Sky", lambda log: found)
    with server.connected():
        with server.connected():
            pass
        assert found.stopped == 0
        held = ledger.enter(ledger.Entry(NAME, "", 0.0))
    assert found.stopped == 0
    held.close()
    with server.connected():
        pass
    assert found.stopped == 1
