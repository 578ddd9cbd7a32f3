"""The jobs of a sweep on this machine: one worker process for all of them, one after the other."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from runner import plan
from runner.errors import JobError, RequestError
from runner.launch.local import Outcome, Worker
from runner.sinks import Sink
from runner.sweep.finishing import Finisher
from runner.sweep.jobs import Lane, Planned
from runner.sweep.result import Result
from runner.sweep.show import Show
from runner.sweep.shown import Shown
from runner.tracking import Recorder

NewRecorder = Callable[[Planned, str], Recorder | None]


class Here:
    """Runs the jobs of lanes on this machine; `folder` is the sweep's, for what the worker says before its first job.

    With `fail_fast` none is begun after one that failed.
    """

    def __init__(self, folder: Path, show: Show, recorder: NewRecorder, finisher: Finisher, fail_fast: bool) -> None:
        self._folder, self._show, self._recorder, self._finisher = folder, show, recorder, finisher
        self._worker: Worker | None = None
        self._gpu: str | None = None
        self._fail_fast, self._interrupted = fail_fast, False

    def run(self, lane: Lane) -> Iterator[Result]:
        """Run the jobs in order and yield how each ended; once interrupted, no more is begun."""
        for job in lane.jobs:
            if self._interrupted:
                return
            result = self._one(job, lane.name)
            self._interrupted = self._interrupted or (self._fail_fast and not result.ok)
            yield result

    def interrupt(self, force: bool) -> None:
        """Have the job at hand write its last words, and begin no other; `force` leaves no time for words. From any thread."""
        self._interrupted = True
        if worker := self._worker:
            worker.interrupt(force)

    def _start(self, job: Planned) -> Worker:
        """Return the worker, a new one where there is none any more: it takes seconds to import torch."""
        here = job.made.target.here
        gpu = here.uuid if here else None
        if self._worker is None or not self._worker.is_alive or self._gpu != gpu:
            self.close()
            self._worker, self._gpu = Worker(self._folder, gpu), gpu
        return self._worker

    def close(self) -> None:
        """End the worker; the next job would get a new one."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None

    def _one(self, job: Planned, lane: str) -> Result:
        folder, began = job.made.folder, time.monotonic()
        self._show.started(lane, job.entry)
        recorder = None
        try:
            plan.save(job.made.job, folder / "job.json")
            worker = self._start(job)
            recorder = self._recorder(job, "local")
            sinks: list[Sink] = [Shown(partial(self._show.warn, lane), partial(self._show.progress, lane))]
            outcome = worker.run(folder, [*sinks, recorder] if recorder else sinks)
        except (JobError, RequestError) as error:
            outcome = Outcome("failed", str(error))
        if job.made.config.measure.isolation == "job":
            self.close()
        self._finisher.end(folder, job.made.job, recorder, outcome)
        reason = "" if outcome.status == "interrupted" else outcome.reason
        return Result(job.entry, outcome.status, reason, time.monotonic() - began)
