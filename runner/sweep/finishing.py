"""Ends finished jobs in the background: their reports and their last words in MLflow, while the next job is being measured.

What is measured has the machine: this thread runs at the lowest priority, and on a CPU the worker leaves a core to it.
"""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from runner import journal
from runner.errors import RequestError
from runner.job import Job
from runner.launch.local import Outcome
from runner.tracking import Recorder
from runner.tracking.recorder import step_back


class Finisher:
    """One thread that ends jobs, in their order."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._warn = warn
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="finish", initializer=step_back)
        self._pending: list[Future[None]] = []

    def end(self, folder: Path, job: Job, recorder: Recorder | None, outcome: Outcome) -> None:
        """Have the report of a run written, and its recording ended."""
        self._pending.append(self._pool.submit(self._end, folder, job, recorder, outcome))

    def wait(self) -> None:
        """Wait for all of them. Raises what a bug of this program raised in the thread."""
        pending, self._pending = self._pending, []
        for one in pending:
            one.result()

    def _end(self, folder: Path, job: Job, recorder: Recorder | None, outcome: Outcome) -> None:
        from runner import report
        from runner.projection import measured

        try:
            if journal.read(folder):  # what was rented may have ended before there was anything to report
                measured.look_up(folder, recorder.where if recorder else None)
                # One point is no curve; the sweep's own pictures have it.
                report.write(folder, plots=len(job.cases) > 1 or job.mode == "search")
        except RequestError as error:
            self._warn(f"no report: {error}; later: python -m runner.report {folder}")
        if recorder:
            recorder.finish(outcome.status, outcome.reason)
            if recorder.problem:
                self._warn("; ".join(recorder.lines()))
