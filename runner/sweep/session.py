"""A sweep from its first batch of jobs to its closing table: planned, refused or run, merged, recorded."""

import secrets
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import units
from runner.compose import Composed
from runner.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JobError, RequestError
from runner.launch import names
from runner.launch.safety import on_signal
from runner.masking import mask
from runner.sweep import folder as folders
from runner.sweep import jobs, objective, planning, state
from runner.sweep.folder import Sweep
from runner.sweep.here import Here
from runner.sweep.jobs import Planned
from runner.sweep.record import Record
from runner.sweep.result import Result, counts, table
from runner.sweep.show import Show, for_mode

Value = tuple[Any, Exception | None]
"""What a job returns to a sweeper that searches, or why it has nothing to return."""


class Session:
    """A sweep that is being run."""

    def __init__(self, settings: Composed, arguments: Sequence[str], searching: bool) -> None:
        self._config, self._folders, self._searching = settings.config, settings.folders, searching
        self._typed = list(arguments)
        self._dry = self._config.launch.dry_run
        self._show: Show = for_mode(self._config.display, sys.stdout)
        self._began = time.monotonic()
        self._results: list[Result] = []
        self._interrupted = self._stopped = self._unconfirmed = False
        self._bill: list[str] = []
        self._record: Record | None = None
        self._here: Here | None = None
        self._opened = False
        self._resumed = self._config.sweep.resume is not None
        if self._resumed and searching:
            raise RequestError(
                "sweep.resume: a sweeper that searches chooses other jobs each time; name its own storage to go on"
            )
        root = Path(self._config.out).absolute() / "sweeps"
        resumed = self._config.sweep.resume
        self._sweep = folders.find(Path(self._config.out), resumed) if resumed else self._new(root, arguments)

    def run(self, composed: Sequence[Composed]) -> list[Value]:
        """Plan and run a batch; return each job's value. Raises RequestError before anything of it has started."""
        sweep, first = self._sweep, 0 if self._resumed else len(self._sweep.jobs)
        limit = self._config.sweep.max_jobs
        if first + len(composed) > limit:
            raise RequestError(f"the sweep has more than sweep.max_jobs={limit} jobs; make fewer or raise it")
        planned = jobs.make(composed, sweep.folder, self._typed, first, [] if self._resumed else sweep.jobs)
        if self._resumed:
            self._check_same(planned)
        todo, kept = self._todo(planned)
        with planning.offered(todo, self._folders) as offers:
            lines = planning.lines(sweep, planned, todo, offers)
            if self._dry:
                print("\n".join(lines))
                return [(None, None) for _ in planned]
            planning.check(offers)
            if not self._resumed:
                self._begin(planned)
            if self._record is None:
                self._record = Record(self._config, sweep, self._warn)
            if not self._opened:
                self._show.opening(lines)
            self._show.begin(len(sweep.distinct))
            self._results += kept
            for one in kept:
                self._show.ended(one)
            self._measure(todo, offers)
        if self._interrupted:
            raise KeyboardInterrupt
        return [self._value(one) for one in planned]

    def finish(self) -> int:
        """Merge what there is, end the recording, show the table; return the exit code."""
        if self._dry or self._record is None:
            return EXIT_DONE
        from runner import lineup, merged

        self._show.close()
        if self._here:
            self._here.close()
        known = {one.entry.index for one in self._results}
        missing = [Result(entry, "not run") for entry in self._sweep.distinct if entry.index not in known]
        same = [Result(one, "same", f"as job {one.same_as}") for one in self._sweep.jobs if one.same_as is not None]
        results = sorted([*self._results, *missing, *same], key=lambda one: one.entry.index)
        lines = [*table(results), *self._bill]
        try:
            self._record.wait()
            merged.write(self._sweep.folder)
            lines += ["", f"report     {self._sweep.folder / 'report.md'}"]
            if page := lineup.of_sweep(self._sweep.folder):
                lines.append(f"lineup     {page}")
        except RequestError as error:
            self._warn("", f"nothing merged: {error}; later: python -m runner.report {self._sweep.folder}")
        good = all(one.ok for one in results)
        status = "interrupted" if self._interrupted else "complete" if good else "failed"
        lines += self._record.end(status, results)
        if not good:
            lines.append(f"resume     python -m runner -m sweep.resume={self._sweep.name}" + self._where())
        took = units.duration(time.monotonic() - self._began)
        self._show.closing(f"{status}: {counts(results)} in {took}", lines)
        return EXIT_INTERRUPTED if self._interrupted else EXIT_DONE if good and not self._unconfirmed else EXIT_FAILED

    def _where(self) -> str:
        return "" if self._config.out == "outputs" else f" out={self._config.out}"

    def _warn(self, lane: str, line: str) -> None:
        self._show.warn(lane, line)

    def _new(self, root: Path, arguments: Sequence[str]) -> Sweep:
        """Return a new sweep with a name of its own; nothing is written."""
        now = datetime.now(UTC)
        name = self._config.sweep.name or f"{now.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        if (root / name).exists():
            raise RequestError(f"sweep.name={name}: there is one already; go on with sweep.resume={name}, or choose another name")
        typed = [mask(one) for one in arguments]
        command = " ".join(["python -m runner -m", *typed])
        return Sweep(root / name, name, now.isoformat(timespec="seconds"), command, typed, user=names.user())

    def _check_same(self, planned: Sequence[Planned]) -> None:
        """Refuse to go on with a sweep of other jobs."""
        before, now = [one.hash for one in self._sweep.jobs], [one.entry.hash for one in planned]
        if before == now:
            return
        name = self._sweep.name
        if [one.varied for one in self._sweep.jobs] == [one.entry.varied for one in planned]:
            raise RequestError(
                f"sweep.resume={name}: configs or measuring code have changed since, and so have its jobs; begin a new one"
            )
        lacking, more = len(set(before) - set(now)), len(set(now) - set(before))
        raise RequestError(
            f"sweep.resume={name}: another sweep: {lacking} of its {len(set(before))} jobs are not in this one, {more} are new; "
            f"its command was: {self._sweep.command}"
        )

    def _begin(self, planned: Sequence[Planned]) -> None:
        """Write `sweep.json`, with the jobs of this batch."""
        sweep = self._sweep
        if not sweep.jobs:
            try:
                sweep.folder.mkdir(parents=True)
            except FileExistsError:
                raise RequestError(f"sweep.name={sweep.name}: another sweep has just taken this name; choose another") from None
            except OSError as error:
                raise RequestError(
                    f"can't write to {sweep.folder}: {error.strerror}; name another folder with out=DIR"
                ) from error
        sweep.jobs += [one.entry for one in planned]
        sweep.save()

    def _todo(self, planned: Sequence[Planned]) -> tuple[list[Planned], list[Result]]:
        """Return the jobs that are to be run, and those that are complete already."""
        todo, kept = [], []
        for one in planned:
            if one.entry.same_as is not None:
                continue
            there = state.status(one.made.folder)[0] if self._resumed else "missing"
            if there == "complete":
                kept.append(Result(one.entry, "kept", "complete before"))
            else:
                todo.append(one)
        return todo, kept

    def _measure(self, todo: Sequence[Planned], offers: planning.Offers) -> None:
        """Run the jobs on their machines."""
        from runner.sweep.running import Running

        assert self._record is not None
        self._opened = True
        if not todo or self._stopped:
            return
        if self._here is None:
            self._here = Here(
                self._sweep.folder, self._show, self._record.recorder, self._record.finisher, self._config.sweep.fail_fast
            )
        running = Running(self._sweep, self._config, self._show, self._record, offers, self._here)
        with on_signal(running.interrupt):
            for result in running.run():
                self._results.append(result)
                self._show.ended(result)
        self._bill += running.bill
        self._unconfirmed = self._unconfirmed or running.unconfirmed
        self._interrupted = running.interrupted
        self._stopped = self._interrupted or running.stopped

    def _value(self, planned: Planned) -> Value:
        entry = planned.entry
        index = entry.index if entry.same_as is None else entry.same_as
        result = next((one for one in self._results if one.entry.index == index), None)
        if result is None or not result.ok:
            return None, JobError(f"job {index}: {result.reason or result.status}" if result else f"job {index}: not run")
        if not self._searching:
            return None, None
        try:
            return objective.value(planned.made.folder, planned.made.config.workload.objective), None
        except (JobError, RequestError) as error:
            return None, error
