"""One run on rented machines: launch, follow, bring home, end. However it goes, the cluster is ended and the journal is here.

The same contract as the worker of this machine (runner.launch.local): `run(sinks)` returns how it went. Clusters that are lost
are replaced as often as asked for; the next one measures what is missing.
"""

import contextlib
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import cost, journal, rental
from runner.config import Billing, LaunchConfig
from runner.errors import JobError, RequestError
from runner.job import Job
from runner.launch import bring, ledger, names, server, task, teardown
from runner.launch.charge import NO_CAPACITY, bill, charge, price
from runner.launch.following import LOST, Following
from runner.launch.local import Outcome
from runner.launch.offers import Offer
from runner.launch.safety import harmless, unstoppable
from runner.launch.skypilot import Launched, NoCapacity, Sky, Unreachable
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
    """A GPU that the run may be on: the job for it, and offers in the order in which they are tried.

    `autodown` is whether their clouds take a request to end an idle instance; one launch can't have offers of both kinds.
    """

    gpu: str
    job: Job
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
        self._chosen, self._warn, self._alarm = chosen, harmless(warn), harmless(alarm)
        self.record = rental.load(folder) or Rental(uuid.uuid4().hex, names.user())  # a continued run has been here before
        self._before = len(self.record.attempts)
        self._home = bring.Journal(folder)
        self._follower = journal.Follower(folder)
        self._sinks: Sequence[Sink] = []
        self._cluster: Cluster | None = None

    def run(self, sinks: Sequence[Sink]) -> Outcome:
        """Rent, measure, bring home, end; return how the run went. Raises RequestError when SkyPilot or the worker refuses."""
        self._sinks = sinks
        try:
            self._deliver()  # what a continued run has already
            if journal.final_status(journal.read(self.folder))[0] == "complete":
                return Outcome("complete", "")  # nothing is missing, so nothing is rented
            return self._with_retries()
        except KeyboardInterrupt:
            return Outcome("interrupted", f"interrupted; the same command with run_dir={self.folder} continues it")
        finally:
            self._home.close()

    def _with_retries(self) -> Outcome:
        retries = self._settings.launch.retries
        outcome = self._anywhere()
        for attempt in range(retries):
            if outcome.status != LOST:
                return outcome
            if not self.record.attempts[-1].confirmed_down:  # it may still run, and measure
                return Outcome("partial", f"{outcome.reason}; its end could not be confirmed, so no other one was rented")
            if reason := self._too_dear_to_retry():
                return Outcome("partial", f"{outcome.reason}; {reason} and continue with run_dir={self.folder}")
            self._warn(f"{outcome.reason}; trying again with another instance ({attempt + 1} of {retries})")
            try:
                outcome = self._anywhere()
            except (JobError, RequestError) as error:  # what the first one measured is there
                return Outcome("partial", f"{outcome.reason}; {error}; continue with run_dir={self.folder}")
        if outcome.status != LOST:
            return outcome
        way = "" if retries else "launch.retries=N goes on with another instance; "
        return Outcome("partial", f"{outcome.reason}; what it measured is kept; {way}run_dir={self.folder} continues it")

    def _too_dear_to_retry(self) -> str:
        """Say that not even the shortest life of another instance fits into `launch.max_usd`, when it does not."""
        most, spent = self._settings.launch.max_usd, self._paid()
        if most is None:
            return ""
        offers = [offer for choice in self._choices for offer in choice.offers]
        least = min(cost.bill_usd(one.usd_per_hour, ENDING_S, self._settings.billing.get(one.cloud)) for one in offers)
        return "" if spent + least <= most else f"another instance would pass launch.max_usd={most:g}; raise it"

    def _at_most(self, choice: Choice, cluster: Cluster) -> float:
        """What this run may cost by now, while it isn't known whether anything is up."""
        seconds = time.time() - (cluster.attempt.requested_at or time.time()) + ENDING_S
        bills = [cost.bill_usd(one.usd_per_hour, seconds, self._settings.billing.get(one.cloud)) for one in choice.offers]
        return self._paid() + max(bills)

    def _paid(self) -> float:
        """What the clusters of this run that have ended cost."""
        return sum(one.cost_usd for one in self.record.attempts[self._before :] if one.cost_usd is not None)

    def _anywhere(self) -> Outcome:
        """Try the GPU that was asked for, then the fallbacks; raises JobError when there is no capacity for any."""
        refusals = []
        for choice in self._choices:
            if self._started_on_another(choice.job):
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
        task.stage(choice.job, launch.include, self.folder, stage)
        rendered = task.render(
            choice.offers, self._settings.images, stage, disk_gb=launch.disk_gb,
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
        """Take the journal home until the worker has ended; return how it went, `lost` when the node is gone."""
        entry = cluster.held.entry
        cluster.following = Following(
            self._sky, entry.cluster, entry.job_id, self._home, self.folder, self._settings.limit_s,
            60 * self._settings.launch.setup_minutes + SETUP_MARGIN_S,
            came=lambda event: self._came(cluster, event), enough=lambda: self._over_budget(cluster),
            phase=lambda phase: self._phase(phase, cluster.attempt.accelerator),
            progress=lambda progress: self._tell(progress | {"spent_usd": self._spent(cluster)}),
        )  # fmt: skip
        return cluster.following.run()

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
        with unstoppable(lambda: self._warn(f"still ending {attempt.cluster}: this can't be skipped, it costs money")):
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
        for event in self._follower.new():
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
