"""One run on rented machines: launch, follow, bring home, end. However it goes, the cluster is ended and the journal is here.

The same contract as the worker of this machine (runner.launch.local): `run(sinks)` returns how it went. Clusters that are lost
are replaced as often as asked for; the next one measures what is missing.
"""

import contextlib
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runner import cost, journal, rental
from runner.config import Billing, LaunchConfig
from runner.errors import EXIT_INTERRUPTED, EXIT_REQUEST, JobError
from runner.job import Job
from runner.launch import bring, ledger, names, task, teardown
from runner.launch.local import Outcome
from runner.launch.offers import Offer
from runner.launch.skypilot import Launched, NoCapacity, Sky, Unreachable
from runner.rental import Attempt, Rental
from runner.sinks import Sink
from runner.units import duration

T = TypeVar("T")

POLL_S = 1.0
"""How often SkyPilot is asked while it provisions or sets up."""
ASK_S = 30.0
"""How often SkyPilot is asked what became of the job; the node itself says so at once."""
LAST_WORDS_S = 15.0
OVER = ("SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED")
GRACE_S = 15.0
"""How long an interrupted worker may take to write its last words."""
MARGIN_S = 180.0
"""How long after its time limit a node that says nothing is given up."""
RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)
TIME_LIMIT = 124
"""The exit code of timeout(1)."""
LOST = "lost"
SETUP_FAILED = 100
"""What sky/worker.yaml writes as exit code when set-up failed."""
LOG = "node.log"
"""What set-up and worker printed on the node, in the run's folder."""


@dataclass(frozen=True)
class Choice:
    """A GPU that the run may be on: the job for it, and offers in the order in which they are tried."""

    gpu: str
    job: Job
    offers: Sequence[Offer]


@dataclass(frozen=True)
class Settings:
    """What a rented run is given: `images` and `billing` by cloud, the limit of the worker on the node in seconds."""

    launch: LaunchConfig
    asked_gpu: str
    images: Mapping[str, str | None]
    billing: Mapping[str, Billing | None]
    limit_s: float
    endpoint: str | None = None


@dataclass
class Cluster:
    """A cluster of this run while it lives: its ledger entry, its record, its price."""

    held: ledger.Held
    attempt: Attempt
    job_id: int | None = None
    node: bring.Node | None = None
    watch: "JobWatch | None" = None
    log_size: int = 0


class Renting:
    """A run on rented machines."""

    def __init__(
        self,
        sky: Sky,
        folder: Path,
        choices: Sequence[Choice],
        settings: Settings,
        *,
        chosen: Callable[[Choice, Attempt], None] = lambda choice, attempt: None,
        warn: Callable[[str], None] = lambda line: None,
        alarm: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Get ready; nothing is rented. `chosen` is told when it is known on which GPU and offer the run is."""
        self._sky, self.folder, self._choices, self._settings = sky, folder, list(choices), settings
        self._chosen, self._warn, self._alarm = chosen, _harmless(warn), _harmless(alarm)
        self.record = rental.load(folder) or Rental(uuid.uuid4().hex, names.user())  # a continued run has been here before
        self._before = len(self.record.attempts)
        self._home = bring.Journal(folder)
        self._follower = journal.Follower(folder)
        self._sinks: Sequence[Sink] = []
        self._cluster: Cluster | None = None
        self._stage = ledger.folder() / "staged" / folder.name
        self._reached = False

    def run(self, sinks: Sequence[Sink]) -> Outcome:
        """Rent, measure, bring home, end; return how the run went. Raises RequestError when SkyPilot or the worker refuses."""
        self._sinks = sinks
        try:
            self._deliver()  # what a continued run has already
            return self._with_retries()
        except KeyboardInterrupt:
            return Outcome("interrupted", f"interrupted; the same command with run_dir={self.folder} continues it")
        finally:
            self._home.close()
            task.remove(self._stage)

    def _with_retries(self) -> Outcome:
        outcome = Outcome("failed", "nothing was tried")
        for attempt in range(1 + self._settings.launch.retries):
            if attempt:
                self._warn(f"{outcome.reason}; trying again with another instance ({attempt} of {self._settings.launch.retries})")
            outcome = self._anywhere()
            if outcome.status != LOST:
                return outcome
        more = "" if self._settings.launch.retries else "; launch.retries=N would go on with another instance"
        return Outcome("partial", f"{outcome.reason}; what it measured is kept{more}, as does run_dir={self.folder}")

    def _anywhere(self) -> Outcome:
        """Try the GPU that was asked for, then the fallbacks; raises JobError when there is no capacity for any."""
        refusals = []
        for choice in self._choices:
            if self._started_on_another(choice.job):
                continue  # a journal holds one job, and a job is for one GPU
            try:
                return self._on(choice)
            except NoCapacity as error:
                refusals.append(f"{choice.gpu}: {error}")
                self._warn(f"gpu={choice.gpu} can't be had now: {error}")
        if len(self._choices) == 1 and not self._settings.launch.fallback:
            ways = "try later, another cloud with cloud=NAME, or a second choice with launch.fallback=[GPU]"
        else:
            ways = "try later, or other GPUs in launch.fallback"
        raise JobError(f"none of the offers could be had ({'; '.join(refusals)}); {ways}")

    def _started_on_another(self, job: Job) -> bool:
        started = [event for event in journal.read(self.folder) if event["event"] == "job_started"]
        return bool(started) and started[0]["hash"] != job.hash

    def _on(self, choice: Choice) -> Outcome:
        """Rent for one GPU, run the job, end the cluster."""
        name = names.cluster(choice.job.hash)
        first = choice.offers[0]
        now = time.time()
        held = ledger.enter(
            ledger.Entry(name, str(self.folder), now, self._settings.endpoint, _described(first), first.usd_per_hour)
        )
        attempt = Attempt(
            name, first.cloud, choice.gpu, self._settings.asked_gpu, first.accelerator, first.instance_type, first.region,
            first.spot, first.usd_per_hour, requested_at=now,
        )  # fmt: skip
        self._cluster = cluster = Cluster(held, attempt)
        self.record.attempts.append(attempt)
        self._save()
        outcome = Outcome("failed", "")
        try:
            self._launch(choice, cluster)
            outcome = self._follow(cluster)
        except NoCapacity as error:
            outcome = Outcome("no capacity", str(error))
            raise
        except KeyboardInterrupt:
            outcome = Outcome("interrupted", "")
            with contextlib.suppress(KeyboardInterrupt):  # a second one is in a hurry
                self._stop_worker(cluster)
            raise
        except JobError as error:
            outcome = Outcome("failed", str(error))
        finally:
            attempt.outcome, attempt.reason = outcome.status, outcome.reason
            self._end(cluster)
        return outcome

    def _launch(self, choice: Choice, cluster: Cluster) -> None:
        """Ask for the cluster and wait until its job is submitted. Raises NoCapacity, JobError or RequestError."""
        launch, entry = self._settings.launch, cluster.held.entry
        self._phase("provisioning", _described(choice.offers[0]))
        task.stage(choice.job, launch.include, self.folder, self._stage)
        rendered = task.render(
            choice.offers, self._settings.images, self._stage, disk_gb=launch.disk_gb, idle_minutes=launch.idle_minutes,
            limit_s=self._settings.limit_s, python=launch.python, setup=launch.setup,
        )  # fmt: skip
        task.save(rendered, self.folder)
        request = self._sky.launch(rendered, entry.cluster)
        try:
            while self._is_running(request):
                self._phase("provisioning", _described(choice.offers[0]))
                time.sleep(POLL_S)
            launched = self._sky.launched(request)
        finally:
            self._write("provision.log", lambda: self._sky.said(request))
        self._up(choice, cluster, launched)

    def _is_running(self, request: str) -> bool:
        try:
            return self._sky.is_running(request)
        except Unreachable as error:
            self._phase("reconnecting", str(error))
            return True

    def _up(self, choice: Choice, cluster: Cluster, launched: Launched) -> None:
        """Note what was rented; say it when it is not what was asked for first."""
        attempt, entry = cluster.attempt, cluster.held.entry
        attempt.up_at = time.time()
        attempt.cloud, attempt.region, attempt.instance_type = launched.cloud, launched.region, launched.instance_type
        attempt.accelerator, attempt.spot = launched.accelerator or attempt.accelerator, launched.spot
        billing = self._settings.billing.get(launched.cloud)
        if billing:
            attempt.increment_s, attempt.minimum_s = billing.increment_s, billing.minimum_s
        attempt.usd_per_hour = _price(choice.offers, launched)
        entry.job_id = cluster.job_id = launched.job_id
        entry.usd_per_hour = attempt.usd_per_hour
        cluster.held.save()
        self._save()
        if choice.gpu != self._settings.asked_gpu:
            self._warn(
                f"FALLBACK: gpu={self._settings.asked_gpu} could not be had; this run is on {choice.gpu}, "
                "and everything it finds is labelled so"
            )
        self._chosen(choice, attempt)

    def _follow(self, cluster: Cluster) -> Outcome:
        """Take the journal home until the worker has ended; return how it went, `lost` when the node is gone."""
        self._phase("set-up", cluster.attempt.accelerator)
        name = cluster.held.entry.cluster
        cluster.watch = JobWatch(self._sky, name, cluster.job_id)
        failures, deadline = 0, time.monotonic() + self._settings.limit_s + MARGIN_S
        while True:
            try:
                if cluster.node is None:
                    cluster.node = bring.Node(self._sky.ssh_options(name), name)
                return self._outcome(self._stream(cluster))
            except _Ended as ended:
                return ended.outcome
            except (ConnectionError, JobError) as error:
                failures = 1 if self._reached else failures + 1
                self._reached = False
                if time.monotonic() > deadline:
                    return Outcome(LOST, f"the node could not be reached until its time limit had passed ({error})")
                self._phase("reconnecting", str(error))
                if failures > 1 and (lost := self._without_connection(cluster)):
                    return lost
                time.sleep(RECONNECT_S[min(failures, len(RECONNECT_S)) - 1])

    def _stream(self, cluster: Cluster) -> int:
        """Take lines from one connection until the worker's exit code comes. Raises ConnectionError when it breaks."""
        assert cluster.node is not None
        stream = bring.Stream(cluster.node, self._home.size, cluster.log_size)
        try:
            while True:
                line = stream.next(0.25)
                self._watch_the_bill(cluster)
                if line is not None:
                    self._reached = True
                    code = self._take(cluster, line)
                    if code is not None:
                        return code
                elif cluster.watch is not None and cluster.watch.over():
                    said = cluster.watch.state
                    raise _Ended(Outcome(LOST, f"the job on the instance was ended from outside (SkyPilot says {said})"))
        except ConnectionError:
            raise
        except OSError as error:
            raise _Ended(Outcome("partial", f"can't write the journal here: {error.strerror}")) from error
        finally:
            stream.close()

    def _take(self, cluster: Cluster, line: bytes) -> int | None:
        """Take one line of the stream; return the worker's exit code when that is what it says."""
        found = bring.message(line)
        if "event" in found:
            self._home.append(line)
            if found["event"] == "job_started" and cluster.attempt.running_at is None:
                cluster.attempt.running_at = time.time()
                self._save()
            self._deliver()
        elif "progress" in found:
            self._tell(found["progress"] | {"spent_usd": self._spent(cluster)})
        elif "ready" in found:
            self._phase("starting", cluster.attempt.accelerator)
        elif "log" in found:
            cluster.log_size = int(found["to"])
            with contextlib.suppress(OSError), open(self.folder / LOG, "a") as log:
                log.write(found["log"] + "\n")
        elif "truncated" in found:
            raise _Ended(Outcome(LOST, "the journal on the node is shorter than the one here"))
        elif "exit" in found:
            return 1 if found["exit"] is None else int(found["exit"])
        return None

    def _without_connection(self, cluster: Cluster) -> Outcome | None:
        """Ask SkyPilot about a node that can't be reached; return how the run ended, None when it may go on."""
        try:
            state = self._sky.cluster_state(cluster.held.entry.cluster, refresh=True)
        except JobError:
            return None  # whatever keeps us from the node may keep us from SkyPilot too
        if state != "UP":
            return Outcome(LOST, "the instance was lost" + (f" (SkyPilot says {state})" if state else ""))
        if cluster.watch is not None and cluster.watch.over():
            return Outcome(LOST, f"the instance can't be reached and its job is over (SkyPilot says {cluster.watch.state})")
        cluster.node = None  # the way to it may have changed
        return None

    def _watch_the_bill(self, cluster: Cluster) -> None:
        """Raise _Ended as soon as the bill would pass `launch.max_usd`."""
        most, spent = self._settings.launch.max_usd, self._spent(cluster)
        if most is not None and spent is not None and spent > most:
            self._stop_worker(cluster)
            raise _Ended(
                Outcome("partial", f"the bill reached launch.max_usd={most:g}; raise it and continue with run_dir={self.folder}")
            )

    def _spent(self, cluster: Cluster) -> float | None:
        """What this run has cost by now, all clusters together."""
        running = _bill(cluster.attempt, time.time())
        before = [one.cost_usd for one in self.record.attempts[self._before :] if one.cost_usd is not None]
        return None if running is None else running + sum(before)

    def _outcome(self, code: int) -> Outcome:
        """Say how the run went by the worker's exit code and its journal."""
        more = f"continue with run_dir={self.folder}"
        if code == SETUP_FAILED:
            return Outcome("failed", f"set-up on the node failed: {self._last_words()}; see {self.folder / LOG}")
        if code == TIME_LIMIT:
            limit = f"the time limit of {duration(self._settings.limit_s)} was reached"
            return Outcome("partial", f"{limit}; raise launch.max_minutes and {more}")
        if code == EXIT_REQUEST:
            return Outcome("failed", f"the worker refuses the job: {self._last_words().removeprefix('error: ')}")
        events = journal.read(self.folder)
        if not events:
            return Outcome("failed", f"the worker ended before its first word (exit code {code}): {self._last_words()}")
        status, reason = journal.final_status(events)
        if code > 128 and code != EXIT_INTERRUPTED and status != "complete":
            return Outcome("partial", f"the worker was killed by {_signal(code - 128)}; what it measured is kept, {more}")
        return Outcome(status, reason)

    def _stop_worker(self, cluster: Cluster) -> None:
        """Let the worker write its last words, and bring them home."""
        if cluster.node is None or cluster.attempt.running_at is None:
            return
        self._phase("stopping the worker", cluster.attempt.accelerator)
        with contextlib.suppress(ConnectionError, JobError, OSError):
            stream = bring.Stream(cluster.node, self._home.size, cluster.log_size)
            try:
                stream.stop()
                until = time.monotonic() + GRACE_S
                while time.monotonic() < until:
                    line = stream.next(0.25)
                    if line and self._take(cluster, line) is not None:
                        break
            finally:
                stream.close()

    def _end(self, cluster: Cluster) -> None:
        """End the cluster, whatever happens meanwhile; note what it cost."""
        attempt = cluster.attempt
        attempt.ended_at = time.time()
        with _unstoppable(lambda: self._warn(f"still ending {attempt.cluster}: this can't be skipped, it costs money")):
            self._phase("tearing down", attempt.cluster)
            if cluster.watch is not None:
                cluster.watch.stop()
            ended = teardown.end(self._sky, cluster.held.entry, self.folder, self._warn)
            attempt.down_at, attempt.confirmed_down = time.time(), ended.confirmed
            with contextlib.suppress(JobError):
                attempt.sky_cost_usd = self._sky.cost_usd(attempt.cluster)
            charge(attempt)
            self._save()
            if ended.confirmed:
                cluster.held.close()
            else:
                cluster.held.release()
                self._alarm(ended.line)
            self._cluster = None

    def _write(self, name: str, text: Callable[[], str]) -> None:
        """Keep a log; that it can't be had or kept ends nothing."""
        with contextlib.suppress(JobError, OSError):
            if found := text():
                (self.folder / name).write_text(found)

    def _last_words(self) -> str:
        """Return the last line of what the node printed."""
        path = self.folder / LOG
        lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
        return lines[-1] if lines else "it left no message"

    def _phase(self, phase: str, detail: str) -> None:
        spent = self._spent(self._cluster) if self._cluster else None
        self._tell({"phase": phase, "detail": detail, "spent_usd": spent})

    def _tell(self, progress: dict[str, Any]) -> None:
        for sink in self._sinks:
            _harmless(sink.progress)(progress)

    def _deliver(self) -> None:
        for event in self._follower.new():
            for sink in self._sinks:
                _harmless(sink.event)(event)

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # a full disk; the ledger is elsewhere
            self.record.save(self.folder)


class JobWatch:
    """Asks SkyPilot now and then what became of its job, beside the run: a journal would have to wait for the answer."""

    def __init__(self, sky: Sky, cluster: str, job_id: int | None) -> None:
        """Begin to ask."""
        self._sky, self._cluster, self._job_id = sky, cluster, job_id
        self.state: str | None = None
        self._since: float | None = None
        self._stop = threading.Event()
        if job_id is not None:
            threading.Thread(target=self._ask, daemon=True, name="job watch").start()

    def over(self) -> bool:
        """Whether the job has been over for so long that its last words would be here."""
        return self._since is not None and time.monotonic() - self._since > LAST_WORDS_S

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _ask(self) -> None:
        assert self._job_id is not None
        while not self._stop.wait(ASK_S):
            with contextlib.suppress(JobError):
                self.state = self._sky.job_state(self._cluster, self._job_id)
                if self.state in OVER and self._since is None:
                    self._since = time.monotonic()


def charge(attempt: Attempt) -> None:
    """Note what an attempt that has ended was billed."""
    if attempt.requested_at is None or attempt.down_at is None:
        return
    if (
        attempt.up_at is None
    ):  # it may have come up and failed before SkyPilot called it up; then SkyPilot's figure is all there is
        attempt.cost_usd = attempt.sky_cost_usd or None
        return
    attempt.billed_s = cost.billed_s(attempt.down_at - attempt.requested_at, _rule(attempt))
    attempt.cost_usd = _bill(attempt, attempt.down_at)


def _bill(attempt: Attempt, until: float) -> float | None:
    if attempt.usd_per_hour is None or attempt.requested_at is None or attempt.up_at is None:
        return None
    return cost.bill_usd(attempt.usd_per_hour, until - attempt.requested_at, _rule(attempt))


def _rule(attempt: Attempt) -> Billing:
    return Billing(attempt.increment_s, attempt.minimum_s, "", "")


class _Ended(JobError):
    """The run is over before the worker said so."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.reason)
        self.outcome = outcome


def _harmless(tell: Callable[[T], None]) -> Callable[[T], None]:
    """Return `tell` without the errors of a terminal that was closed or a pipe that nobody reads: the run goes on without it."""

    def told(what: T) -> None:
        with contextlib.suppress(OSError, ValueError):
            tell(what)

    return told


@contextlib.contextmanager
def _unstoppable(say: Callable[[], None]) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM with a word while the cluster is being ended."""
    before = {number: signal.signal(number, lambda *_: say()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _described(offer: Offer) -> str:
    where = f" in {offer.region}" if offer.region else ""
    return f"{offer.cloud} {offer.accelerator}{where}, ${offer.usd_per_hour:.2f}/h{' spot' if offer.spot else ''}"


def _price(offers: Sequence[Offer], launched: Launched) -> float | None:
    """Return the hourly price of what was launched: the offer's, else what SkyPilot's client makes of it.

    The client of a shared server doesn't know the prices that the server was given for its own hardware, and says 0.
    """
    there = [one for one in offers if (one.cloud, one.spot) == (launched.cloud, launched.spot)]
    exact = [one for one in there if one.region == launched.region and one.instance_type in (None, launched.instance_type)]
    if exact or not launched.usd_per_hour:
        return next((one.usd_per_hour for one in exact or there), launched.usd_per_hour)
    return launched.usd_per_hour


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
