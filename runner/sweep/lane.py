"""The jobs of a sweep that share a rented machine, in a process of their own: what goes wrong with one machine stays with it.

The process does what a single rented run does (runner.launch.rent), and says so through a pipe. When the pipe closes, its sweep
is gone: it ends the machine and itself.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from runner import plan, rental
from runner.errors import JobError, RequestError
from runner.launch import names
from runner.launch.local import Outcome
from runner.launch.rent import Choice, Renting, Settings
from runner.launch.safety import interrupt
from runner.rental import Attempt, Rental
from runner.sinks import Sink
from runner.sweep.finishing import Finisher
from runner.sweep.jobs import Planned
from runner.sweep.shown import Shown
from runner.tracking import Place, Recorder

STOP = "stop"


@dataclass(frozen=True)
class Spec:
    """What a lane's process is given: its jobs, what they may be rented on, where they are recorded, and its own folder."""

    name: str
    folder: Path
    jobs: Sequence[Planned]
    choices: Sequence[Choice]
    settings: Settings
    sweep: str
    where: Place | None
    parent_id: str | None


def main(spec: Spec, pipe: Connection) -> None:
    """Rent, run the jobs, end the machine; whatever happens, the last message is `over`."""
    os.setsid()  # Ctrl-C is the sweep's, which passes it on; a terminal that closes is, too
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
    lock = threading.Lock()

    def tell(kind: str, **fields: Any) -> None:
        with lock, contextlib.suppress(OSError, ValueError):  # nobody listens any more
            pipe.send({"kind": kind, **fields})

    threading.Thread(target=_listen, args=(pipe,), daemon=True, name="sweep").start()
    runs = _Runs(spec, tell)
    reason, confirmed = "", True
    lines: list[str] = []
    try:
        outcome, lines, confirmed = _run(spec, runs, tell)
        reason = outcome.reason
    except (JobError, RequestError) as error:
        reason = str(error)
    except KeyboardInterrupt:
        reason = "interrupted"
    except Exception as error:  # a bug of ours: the sweep tells it, and goes on
        reason = f"{type(error).__name__}: {error}"
    tell("over", reason=reason, lines=lines, confirmed=confirmed)


def _run(spec: Spec, runs: "_Runs", tell: Any) -> tuple[Outcome, list[str], bool]:
    from runner.launch import offering, server

    spec.folder.mkdir(parents=True, exist_ok=True)
    with server.connected() as sky:
        if sky is None:
            raise RequestError("SkyPilot was never used from this HOME")
        renting = Renting(
            sky, spec.folder, spec.choices, spec.settings, chosen=runs.chosen,
            warn=lambda line: tell("warn", line=line), alarm=lambda line: tell("alarm", line=line),
        )  # fmt: skip
        before = len(renting.record.attempts)
        try:
            outcome = renting.run_all(runs)
        finally:
            attempts = renting.record.attempts[before:]
            costs = runs.conclude(attempts, renting.seconds)
            tell("costs", costs=costs)
        lines = offering.bill(replace(renting.record, attempts=attempts))
        return outcome, lines, all(one.confirmed_down for one in attempts)


class _Runs:
    """The run folders of the lane, each with its recorder; ends them when it is known what they cost."""

    def __init__(self, spec: Spec, tell: Any) -> None:
        self._spec, self._tell = spec, tell
        self.folders = [job.made.folder for job in spec.jobs]
        self._recorders: dict[int, Recorder | None] = {}
        self._outcomes: dict[int, Outcome] = {}
        self._began: dict[int, float] = {}
        self._machine: dict[str, Any] = {}
        for job in spec.jobs:
            if not (job.made.folder / "job.json").exists():
                plan.save(job.made.job, job.made.folder / "job.json")

    def begin(self, index: int) -> Sequence[Sink]:
        """Say which job is next; return where its events go."""
        from runner.sweep.record import child_tags

        job = self._spec.jobs[index]
        self._began.setdefault(index, time.monotonic())
        self._tell("started", index=job.index)
        if index not in self._recorders:
            where, tags = self._spec.where, child_tags(self._spec.sweep, job, "sky") | self._machine
            folder, parent = job.made.folder, self._spec.parent_id
            self._recorders[index] = Recorder(folder, where, tags, parent, tell=self._warn) if where else None
        recorder = self._recorders[index]
        sinks: list[Sink] = [Shown(self._warn, lambda progress: self._tell("progress", progress=progress))]
        return [*sinks, recorder] if recorder else sinks

    def ended(self, index: int, outcome: Outcome) -> None:
        """Say how a job ended."""
        self._outcomes[index] = outcome
        seconds = time.monotonic() - self._began[index]
        self._tell("ended", index=self._spec.jobs[index].index, status=outcome.status, reason=outcome.reason, seconds=seconds)

    def again(self, index: int) -> str:
        """Name what goes on with the sweep."""
        return f"sweep.resume={self._spec.sweep}"

    def chosen(self, choice: Choice, attempt: Attempt) -> None:
        """Write the jobs of the GPU that it has become, and tell the runs of the machine."""
        from runner.launch import offering

        self._machine = offering.tags(attempt)
        for index, job in enumerate(choice.jobs):
            if index not in self._outcomes:
                plan.save(job, self.folders[index] / "job.json")
        for recorder in filter(None, self._recorders.values()):
            recorder.retag(self._machine)

    def conclude(self, attempts: Sequence[Attempt], seconds: dict[int, float]) -> dict[int, float | None]:
        """Write what each run's part of the bill is, and end their recording; return the costs in USD by the jobs' indices."""
        begun = sorted(self._began)
        total = sum(seconds.values())
        finisher = Finisher(self._warn)
        costs = {}
        for index in begun:
            share = seconds.get(index, 0.0) / total if total else 1 / len(begun)
            folder, job = self.folders[index], self._spec.jobs[index]
            found = rental.load(folder) or Rental(f"{self._spec.sweep}-{job.index}-{job.entry.hash[:12]}", names.user())
            parts = [_part(one, share) for one in attempts]
            found.attempts += parts
            with contextlib.suppress(OSError):
                found.save(folder)
            known = [one.cost_usd for one in parts if one.cost_usd is not None]
            costs[job.index] = sum(known) if known else None
            outcome = self._outcomes.get(index, Outcome("partial", "its machine was ended before it"))
            finisher.end(folder, job.made.job, self._recorders.get(index), outcome)
        finisher.wait()
        return costs

    def _warn(self, line: str) -> None:
        self._tell("warn", line=line)


def _part(attempt: Attempt, share: float) -> Attempt:
    """Return a run's part of what a machine cost."""

    def of(value: float | None) -> float | None:
        return None if value is None else value * share

    return replace(
        attempt, share=share, billed_s=of(attempt.billed_s), cost_usd=of(attempt.cost_usd), sky_cost_usd=of(attempt.sky_cost_usd)
    )


def _listen(pipe: Connection) -> None:
    """Interrupt this process when the sweep says so, or is gone."""
    with contextlib.suppress(OSError):
        while True:
            try:
                pipe.recv()
            except EOFError:
                os.kill(os.getpid(), signal.SIGINT)
                return
            os.kill(os.getpid(), signal.SIGINT)
