"""Runs on a rented machine: launch, follow, bring home, end. However it goes, the cluster is ended and the journals are here.

One run, or the runs of a sweep that share a machine, one after the other. The same contract as the worker of this machine
(runner.launch.local): each run's outcome says how it went. Clusters that are lost are replaced as often as asked for; the next
one measures what is missing.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from runner import cost, journal, rental
from runner.config import Billing, LaunchConfig
from runner.errors import JobError, RequestError
from runner.job import Job
from runner.launch import bring, ledger, names, server, task, teardown
from runner.launch.asking import NoCapacity, Unreachable
from runner.launch.charge import NO_CAPACITY, bill, charge, price
from runner.launch.following import LOST, Following, Run
from runner.launch.local import Outcome
from runner.launch.offers import Offer
from runner.launch.safety import harmless, on_signal
from runner.launch.skypilot import Launched, Sky
from runner.rental import Attempt, Rental
from runner.sinks import Sink

POLL_S = 1.0
"""How often SkyPilot is asked while it provisions."""
SETUP_MARGIN_S = 60.0
"""What a node gets to say that its set-up was stopped."""
ENDING_S = 60.0
"""How long it takes to stop a worker and end its cluster: what ends for its bill must end before."""


@dataclass(frozen=True)
class Choice:
    """A GPU that the runs may be on: their jobs for it, and offers in the order in which they are tried.

    `autodown` is whether their clouds take a request to end an idle instance; one launch can't have offers of both kinds.
    """

    gpu: str
    jobs: Sequence[Job]
    offers: Sequence[Offer]
    autodown: bool = True


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
    """A cluster of this run while it lives: its ledger entry, its record, and who follows its worker."""

    held: ledger.Held
    attempt: Attempt
    following: Following | None = None


class Runs(Protocol):
    """Who is told of the runs on a rented machine, by their place among `folders`."""

    @property
    def folders(self) -> Sequence[Path]:
        """The run folders, one for each job of a choice."""

    def begin(self, index: int) -> Sequence[Sink]:
        """A run is next; return where its events go."""

    def ended(self, index: int, outcome: Outcome) -> None:
        """A run has ended, or will not go on."""

    def again(self, index: int) -> str:
        """Return what to type to go on with a run."""


class One:
    """The one run of a command, in its folder."""

    def __init__(self, folder: Path, sinks: Sequence[Sink]) -> None:
        self.folders, self._sinks = [folder], sinks
        self.outcome: Outcome | None = None

    def begin(self, index: int) -> Sequence[Sink]:
        """Return its sinks."""
        return self._sinks

    def ended(self, index: int, outcome: Outcome) -> None:
        """Keep how it went."""
        self.outcome = outcome

    def again(self, index: int) -> str:
        """Name its folder."""
        return f"run_dir={self.folders[index]}"


class Renting:
    """The runs of one machine, and the clusters that they are on; `folder` is where what was rented is noted."""

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
        self._chosen, self._warn, self._alarm = chosen, harmless(warn), harmless(alarm)
        self.record = rental.load(folder) or Rental(uuid.uuid4().hex, names.user())  # a continued run has been here before
        self._before = len(self.record.attempts)
        self._cluster: Cluster | None = None
        self.seconds: dict[int, float] = {}
        """What each run took on the clusters, by its place."""

    def run(self, sinks: Sequence[Sink]) -> Outcome:
        """Rent, measure one run, bring home, end; return how it went. Raises RequestError when SkyPilot or the worker refuses."""
        return self.run_all(One(self.folder, sinks))

    def run_all(self, runs: Runs) -> Outcome:
        """Rent, measure the runs that are not complete, bring home, end; return how the last of them went.

        Raises RequestError when SkyPilot or the worker refuses.
        """
        self._runs = runs
        homes = [bring.Journal(folder) for folder in runs.folders]
        again = [runs.again(index) for index in range(len(homes))]
        self._sides = [Run(*parts) for parts in zip(runs.folders, homes, again, strict=True)]
        self._followers = [journal.Follower(folder) for folder in runs.folders]
        self._open: int | None = None
        self._sinks: Sequence[Sink] = []
        self._todo = list(range(len(homes)))
        try:
            for index in list(self._todo):
                if journal.final_status(journal.read(runs.folders[index]))[0] == "complete":
                    self._begin(index)
                    self._ended(index, Outcome("complete", ""))  # nothing is missing, so nothing is rented
            if not self._todo:
                return Outcome("complete", "")
            self._begin(self._todo[0])  # what is told of the machine is told of the first
            return self._with_retries()
        except KeyboardInterrupt:
            outcome = Outcome("interrupted", f"interrupted; the same command with {again[self._open or 0]} continues it")
            if self._open is not None:
                self._ended(self._open, outcome)
            return outcome
        finally:
            for home in homes:
                home.close()

    def _begin(self, index: int) -> None:
        """Go over to a run, and hand on what a continued one has already."""
        if self._open != index:
            self._open, self._sinks = index, self._runs.begin(index)
            self._deliver()

    def _ended(self, index: int, outcome: Outcome) -> None:
        """Be done with a run."""
        self._deliver()
        self._todo.remove(index)
        self._open = None
        self._runs.ended(index, outcome)

    def _with_retries(self) -> Outcome:
        retries = self._settings.launch.retries
        outcome = self._anywhere()
        for attempt in range(retries):
            if outcome.status != LOST:
                return outcome
            if not self.record.attempts[-1].confirmed_down:  # it may still run, and measure
                return self._left("partial", f"{outcome.reason}; its end could not be confirmed, so no other one was rented")
            if reason := self._too_dear_to_retry():
                return self._left("partial", f"{outcome.reason}; {reason} and continue with {self._again}")
            self._warn(f"{outcome.reason}; trying again with another instance ({attempt + 1} of {retries})")
            try:
                outcome = self._anywhere()
            except (JobError, RequestError) as error:  # what the first one measured is there
                return self._left("partial", f"{outcome.reason}; {error}; continue with {self._again}")
        if outcome.status != LOST:
            return outcome
        way = "" if retries else "launch.retries=N goes on with another instance; "
        return self._left("partial", f"{outcome.reason}; what it measured is kept; {way}{self._again} continues it")

    @property
    def _again(self) -> str:
        """What to type to go on with the run at hand."""
        return self._runs.again(self._open if self._open is not None else 0)

    def _left(self, status: str, reason: str) -> Outcome:
        """Give up the run at hand; return how it went. Those after it were never begun."""
        outcome = Outcome(status, reason)
        if self._open is not None:
            self._ended(self._open, outcome)
        return outcome

    def _too_dear_to_retry(self) -> str:
        """Say that not even the shortest life of another instance fits into `launch.max_usd`, when it does not."""
        most, spent = self._settings.launch.max_usd, self._paid()
        if most is None:
            return ""
        least = min(min(self._bills(choice, ENDING_S)) for choice in self._choices)
        return "" if spent + least <= most else f"another instance would pass launch.max_usd={most:g}; raise it"

    def _at_most(self, choice: Choice, cluster: Cluster) -> float:
        """What this run may cost by now, while it isn't known whether anything is up."""
        seconds = time.time() - (cluster.attempt.requested_at or time.time()) + ENDING_S
        return self._paid() + max(self._bills(choice, seconds))

    def _bills(self, choice: Choice, seconds: float) -> list[float]:
        """What each offer of a choice would cost for so long."""
        return [cost.bill_usd(one.usd_per_hour, seconds, self._settings.billing.get(one.cloud)) for one in choice.offers]

    def _paid(self) -> float:
        """What the clusters of this run that have ended cost."""
        return sum(one.cost_usd for one in self.record.attempts[self._before :] if one.cost_usd is not None)

    def _anywhere(self) -> Outcome:
        """Try the GPU that was asked for, then the fallbacks; raises JobError when there is no capacity for any."""
        refusals = []
        for choice in self._choices:
            if any(self._started_on_another(index, choice.jobs[index]) for index in self._todo):
                continue  # a journal holds one job, and a job is for one GPU
            try:
                return self._on(choice)
            except NoCapacity as error:
                if not self.record.attempts[-1].confirmed_down:
                    raise
                refusals.append(f"{choice.gpu}: {error}")
                self._warn(f"gpu={choice.gpu} can't be had now: {error}")
        if not self._settings.launch.fallback:
            ways = "try later, another cloud with cloud=NAME, or a second choice with launch.fallback=[GPU]"
        else:
            ways = "try later, or other GPUs in launch.fallback"
        raise JobError(f"none of the offers could be had ({'; '.join(refusals)}); {ways}")

    def _started_on_another(self, index: int, job: Job) -> bool:
        started = [event for event in journal.read(self._runs.folders[index]) if event["event"] == "job_started"]
        return bool(started) and started[0]["hash"] != job.hash

    def _on(self, choice: Choice) -> Outcome:
        """Rent for one GPU, run the jobs, end the cluster."""
        name = names.cluster(choice.jobs[self._todo[0]].hash)
        first = choice.offers[0]
        now = time.time()
        runs = {str(self._runs.folders[index]): task.out(place, len(self._todo)) for place, index in enumerate(self._todo)}
        held = ledger.enter(
            ledger.Entry(name, str(self.folder), now, self._settings.endpoint, _described(first), first.usd_per_hour, runs=runs)
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
            outcome = Outcome("too slow" if isinstance(error, _TooSlow) else NO_CAPACITY, str(error))
            raise
        except KeyboardInterrupt:
            outcome = Outcome("interrupted", "")
            with contextlib.suppress(KeyboardInterrupt):  # a second one is in a hurry
                if cluster.following:
                    cluster.following.stop_worker()
            raise
        except JobError as error:
            outcome = Outcome("failed", str(error))
        finally:
            while self._cluster is cluster:
                with contextlib.suppress(KeyboardInterrupt):  # one that comes before the end can't be interrupted any more
                    attempt.outcome, attempt.reason = outcome.status, outcome.reason
                    self._end(cluster)
        return outcome

    def _launch(self, choice: Choice, cluster: Cluster) -> None:
        """Ask for the cluster and wait until its job is submitted. Raises NoCapacity, JobError or RequestError."""
        launch, entry = self._settings.launch, cluster.held.entry
        self._phase("provisioning", _described(choice.offers[0]))
        server.check_guard(self._sky, launch.credentials)  # the server may be another one by now
        stage = _stage(entry.cluster)  # of this cluster alone: SkyPilot reads it minutes later
        jobs = [(choice.jobs[index], self._runs.folders[index]) for index in self._todo]
        task.stage(jobs, launch.include, stage)
        rendered = task.render(
            choice.offers, self._settings.images, stage, jobs=len(jobs), disk_gb=launch.disk_gb,
            idle_minutes=launch.idle_minutes if choice.autodown else None, setup_limit_s=60 * launch.setup_minutes,
            limit_s=self._settings.limit_s, python=launch.python, setup=launch.setup,
        )  # fmt: skip
        task.save(rendered, self.folder)
        request = self._sky.launch(rendered, entry.cluster)
        try:
            until = time.monotonic() + 60 * launch.setup_minutes
            while self._is_running(request):
                if time.monotonic() > until:
                    raise _TooSlow(f"nothing came up within {launch.setup_minutes:g} min (launch.setup_minutes)")
                if launch.max_usd is not None and self._at_most(choice, cluster) > launch.max_usd:
                    raise JobError(f"provisioning may have cost launch.max_usd={launch.max_usd:g} by now; raise it")
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
        attempt.usd_per_hour = price(choice.offers, launched)
        entry.job_id = launched.job_id
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
        """Take the journals home until the worker has ended; return how the last one went, `lost` when the node is gone."""
        entry = cluster.held.entry
        cluster.following = Following(
            self._sky, entry.cluster, entry.job_id, self.folder, self._settings.limit_s,
            60 * self._settings.launch.setup_minutes + SETUP_MARGIN_S,
            came=lambda event: self._came(cluster, event), enough=lambda: self._over_budget(cluster),
            phase=lambda phase: self._phase(phase, cluster.attempt.accelerator),
            progress=lambda progress: self._tell(progress | {"spent_usd": self._spent(cluster)}),
        )  # fmt: skip
        outcome = Outcome("complete", "")
        there = list(self._todo)  # what travelled, in this order
        for place, index in enumerate(there):
            self._begin(index)
            side = self._sides[index]
            side.out = task.out(place, len(there))
            since = time.monotonic()
            try:
                outcome = cluster.following.run(side)
            finally:
                self.seconds[index] = self.seconds.get(index, 0.0) + time.monotonic() - since
            if outcome.status == LOST:
                return outcome
            self._ended(index, outcome)
            if cluster.following.is_over:
                break
        return outcome

    def _came(self, cluster: Cluster, event: str) -> None:
        if event == "job_started" and cluster.attempt.running_at is None:
            cluster.attempt.running_at = time.time()
            self._save()
        self._deliver()

    def _over_budget(self, cluster: Cluster) -> str:
        """Say that the bill would pass `launch.max_usd` if it went on, when it would."""
        most, spent = self._settings.launch.max_usd, self._spent(cluster, ENDING_S)
        return "" if most is None or spent is None or spent <= most else f"the bill reaches launch.max_usd={most:g}; raise it"

    def _spent(self, cluster: Cluster, later_s: float = 0.0) -> float | None:
        """What this run costs when it ends now, or `later_s` from now, all clusters together."""
        running = bill(cluster.attempt, time.time() + later_s)
        return None if running is None else running + self._paid()

    def _end(self, cluster: Cluster) -> None:
        """End the cluster, whatever happens meanwhile; note what it cost."""
        attempt = cluster.attempt
        attempt.ended_at = time.time()
        with on_signal(lambda: self._warn(f"still ending {attempt.cluster}: this can't be skipped, it costs money")):
            self._phase("tearing down", attempt.cluster)
            if cluster.following:
                cluster.following.close()
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
            task.remove(_stage(attempt.cluster))
            self._cluster = None

    def _write(self, name: str, text: Callable[[], str]) -> None:
        """Keep a log; that it can't be had or kept ends nothing."""
        with contextlib.suppress(JobError, OSError):
            if found := text():
                (self.folder / name).write_text(found)

    def _phase(self, phase: str, detail: str) -> None:
        spent = self._spent(self._cluster) if self._cluster else None
        self._tell({"phase": phase, "detail": detail, "spent_usd": spent})

    def _tell(self, progress: dict[str, Any]) -> None:
        for sink in self._sinks:
            harmless(sink.progress)(progress)

    def _deliver(self) -> None:
        for event in self._followers[self._open].new() if self._open is not None else ():
            for sink in self._sinks:
                harmless(sink.event)(event)

    def _save(self) -> None:
        with contextlib.suppress(OSError):  # a full disk; the ledger is elsewhere
            self.record.save(self.folder)


class _TooSlow(NoCapacity):
    """Nothing came up in time; something may have been billed."""


def _stage(cluster: str) -> Path:
    return ledger.folder() / "staged" / cluster


def _described(offer: Offer) -> str:
    where = f" in {offer.region}" if offer.region else ""
    return f"{offer.cloud} {offer.accelerator}{where}, ${offer.usd_per_hour:.2f}/h{' spot' if offer.spot else ''}"
