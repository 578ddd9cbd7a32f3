"""What a person, or a script, sees of a sweep: the plan, a line per job that ended, what is going on, the table at the end."""

import json
import os
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TextIO

from runner import units
from runner.cost import usd
from runner.display import words
from runner.sweep.folder import SweepJob
from runner.sweep.result import Result


class Show(Protocol):
    """Where a sweep's progress goes; any thread may call any of these."""

    def opening(self, lines: Sequence[str]) -> None:
        """Show the plan."""

    def begin(self, total: int) -> None:
        """Get ready for `total` jobs."""

    def started(self, lane: str, entry: SweepJob) -> None:
        """A lane has begun a job."""

    def progress(self, lane: str, progress: Mapping[str, Any]) -> None:
        """What a lane is doing; as in runner.display."""

    def warn(self, lane: str, line: str) -> None:
        """Show a warning."""

    def alarm(self, line: str) -> None:
        """Show what must not be overlooked."""

    def ended(self, result: Result) -> None:
        """A job has ended."""

    def close(self) -> None:
        """Leave the screen to whoever prints next; may be called again."""

    def closing(self, status: str, lines: Sequence[str]) -> None:
        """Show the end: the table, where things are."""


class Lines:
    """One line per job as it ends, warnings as they come; `quiet` shows nothing but warnings and the last line."""

    def __init__(self, stream: TextIO, quiet: bool = False) -> None:
        self._stream, self._quiet = stream, quiet
        self._total, self._done = 0, 0
        self._lock = threading.Lock()
        self._phases: dict[str, str] = {}

    def opening(self, lines: Sequence[str]) -> None:
        """Print the plan."""
        self._tell(lines)

    def begin(self, total: int) -> None:
        """Count to `total`."""
        self._total = total

    def started(self, lane: str, entry: SweepJob) -> None:
        """Say nothing: what is not yet over is no line."""

    def progress(self, lane: str, progress: Mapping[str, Any]) -> None:
        """Print a phase of a rented machine once."""
        line = words.phase(progress)
        with self._lock:
            if not line or self._phases.get(lane) == line:
                return
            self._phases[lane] = line
        self._tell([f"{lane}: {line}"])

    def warn(self, lane: str, line: str) -> None:
        """Print a warning."""
        self._say([f"warning: {lane}: {line}" if lane else f"warning: {line}"])

    def alarm(self, line: str) -> None:
        """Print an alarm."""
        self._say([f"ALARM: {line}"])

    def ended(self, result: Result) -> None:
        """Print how a job ended."""
        with self._lock:
            self._done += 1
            done = self._done
        self._tell([f"[{done}/{self._total}] {told(result)}"])

    def close(self) -> None:
        """Lines are out already."""

    def closing(self, status: str, lines: Sequence[str]) -> None:
        """Print the end."""
        self._tell(lines)
        self._say([status])

    def _tell(self, lines: Sequence[str]) -> None:
        if not self._quiet:
            self._say(lines)

    def _say(self, lines: Sequence[str]) -> None:
        with self._lock:
            for line in lines:
                print(line, file=self._stream, flush=True)


class JsonLines:
    """JSON lines: `sweep_plan`, `job_started`, `phase`, `warning`, `alarm`, `job_ended`, `sweep_finished`."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def opening(self, lines: Sequence[str]) -> None:
        """Print the plan's lines."""
        self._say({"event": "sweep_plan", "lines": list(lines)})

    def begin(self, total: int) -> None:
        """Say nothing."""

    def started(self, lane: str, entry: SweepJob) -> None:
        """Say which job begins where."""
        self._say({"event": "job_started", "lane": lane, "index": entry.index, "folder": entry.folder})

    def progress(self, lane: str, progress: Mapping[str, Any]) -> None:
        """Print phases."""
        if progress.get("phase"):
            self._say({"event": "phase", "lane": lane, **progress})

    def warn(self, lane: str, line: str) -> None:
        """Print a warning."""
        self._say({"event": "warning", "lane": lane, "text": line})

    def alarm(self, line: str) -> None:
        """Print an alarm."""
        self._say({"event": "alarm", "text": line})

    def ended(self, result: Result) -> None:
        """Print how a job ended."""
        entry = result.entry
        self._say(
            {
                "event": "job_ended", "index": entry.index, "overrides": entry.overrides, "folder": entry.folder,
                "hash": entry.hash, "status": result.status, "reason": result.reason, "seconds": result.seconds,
                "cost_usd": result.cost_usd,
            }
        )  # fmt: skip

    def close(self) -> None:
        """Lines are out already."""

    def closing(self, status: str, lines: Sequence[str]) -> None:
        """Print the end."""
        self._say({"event": "sweep_finished", "status": status, "lines": list(lines)})

    def _say(self, record: Mapping[str, Any]) -> None:
        with self._lock:
            print(json.dumps(record, separators=(",", ":")), file=self._stream, flush=True)


class Live:
    """On a terminal: a bar over all jobs and a line per lane, with what ended and warnings above them."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Column

        self._console = Console(file=stream, highlight=False)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[what]}", table_column=Column(no_wrap=True, ratio=1), markup=False),
            TextColumn("[bold]{task.fields[spent]}[/]"),
            TimeElapsedColumn(),
            console=self._console,
            refresh_per_second=4,  # the screen shares the machine with the measurement
            transient=True,
            expand=True,
        )
        self._tasks: dict[str, Any] = {}
        self._names: dict[str, str] = {}

    def opening(self, lines: Sequence[str]) -> None:
        """Print the plan."""
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)

    def begin(self, total: int) -> None:
        """Show the bar over all jobs."""
        if "" not in self._tasks:
            self._tasks[""] = self._progress.add_task("sweep", total=total, what="", spent="")
            self._progress.start()
        else:
            self._progress.update(self._tasks[""], total=total)

    def started(self, lane: str, entry: SweepJob) -> None:
        """Name the job in its lane's line."""
        self._names[lane] = f"{entry.index}: {entry.name}"
        self._update(lane, completed=0, what=self._names[lane])

    def progress(self, lane: str, progress: Mapping[str, Any]) -> None:
        """Move the lane's line."""
        if progress.get("spent_usd") is not None:
            self._update(lane, spent=usd(progress["spent_usd"]))
        if line := words.phase(progress):
            self._update(lane, what=line)
        elif "index" in progress:
            case = words.case(progress)
            self._update(lane, total=progress["total"], completed=progress["index"], what=f"{self._names.get(lane, '')}  {case}")

    def warn(self, lane: str, line: str) -> None:
        """Print a warning above the bars."""
        self._console.print(f"! {lane}: {line}" if lane else f"! {line}", style="yellow", markup=False, soft_wrap=True)

    def alarm(self, line: str) -> None:
        """Print an alarm above the bars."""
        self._console.print(f"ALARM: {line}", style="bold red", markup=False, soft_wrap=True)

    def ended(self, result: Result) -> None:
        """Print what ended, and move the bar over all jobs."""
        self._console.print(told(result), style="" if result.ok else "red", markup=False, soft_wrap=True)
        self._progress.advance(self._tasks[""])

    def close(self) -> None:
        """Take the bars away."""
        self._progress.stop()

    def closing(self, status: str, lines: Sequence[str]) -> None:
        """Print the end."""
        self.close()
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)
        self._console.print(status, style="bold", markup=False, soft_wrap=True)

    def _update(self, lane: str, **fields: Any) -> None:
        if lane not in self._tasks:
            self._tasks[lane] = self._progress.add_task(lane, total=1, what="", spent="")
        self._progress.update(self._tasks[lane], **fields)


def told(result: Result) -> str:
    """Say how a job ended in a line."""
    seconds = "" if result.seconds is None else f" in {units.duration(result.seconds)}"
    why = f" ({result.reason})" if result.reason else ""
    return f"{result.entry.index}: {result.entry.name}: {result.status}{seconds}{why}"


def for_mode(mode: str, stream: TextIO) -> Show:
    """Return the display of a sweep for `display=mode`, which is one of runner.display.MODES."""
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "rich":
        return Live(stream)
    return JsonLines(stream) if mode == "jsonl" else Lines(stream, quiet=mode == "quiet")
