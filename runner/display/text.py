"""The displays without a terminal: plain lines, quiet, and JSON lines for scripts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from runner import composition
from runner.display import words
from runner.journal import Event

LAST_PHASE = "tearing down"
"""What a machine ends with: what is said of the next one is new."""


class Plain:
    """One line per measurement, warnings as they come, then what was found."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._events: list[Event] = []
        self._case = ""
        self._settings: Mapping[str, Any] = {}
        self._stages: set[str] = set()
        self._phases: set[str] = set()

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Say what will run."""
        for line in [words.opening(job), *words.fixed(job)]:
            self._say(line)

    def event(self, event: Event) -> None:
        """Print a line per measurement and warning."""
        self._events.append(event)
        if event["event"] == "job_started":
            self._settings, self._stages = words.settings(event["job"]), composition.stages(event["job"])
        if event["event"] == "case_started":
            self._case = f"[{event['index'] + 1}/{event['total']}] "
        for line in words.warnings(event, self._settings):
            self.warn(line)
        if event["event"] == "measurement":
            found = words.measurement(event, self._stages)
            self._say(f"{self._case}{words.case(event, self._settings)} {event['variant']}: {found}")

    def progress(self, progress: dict[str, Any]) -> None:
        """Print a line per phase, each once for every machine: one that comes and goes is no news. Else lines don't move."""
        line = words.phase(progress)
        if line and line not in self._phases:
            self._phases.add(line)
            self._say(line)
        if progress.get("phase") == LAST_PHASE:
            self._phases = {line}

    def warn(self, line: str) -> None:
        """Print a warning."""
        self._say(f"warning: {line}")

    def alarm(self, line: str) -> None:
        """Print an alarm."""
        self._say(f"ALARM: {line}")

    def close(self) -> None:
        """Lines are out already."""

    def finish(self, status: str, reason: str) -> None:
        """Print what was found and how it ended."""
        results = words.results_of(self._events)
        if results:
            for group in words.found(results):
                for line in group:
                    self._say(line)
        ended = status + (f" ({reason})" if reason else "")
        self._say(f"{ended}: {words.counts(results)}" if results else ended)

    def closing(self, lines: list[str]) -> None:
        """Print where the results are."""
        for line in lines:
            self._say(line)

    def _say(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class Quiet:
    """Nothing but the last line, with the run's folder and how it ended, and warnings and alarms from outside the journal."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._folder: Path | None = None

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Remember the folder."""
        self._folder = folder

    def event(self, event: Event) -> None:
        """Say nothing."""

    def progress(self, progress: dict[str, Any]) -> None:
        """Say nothing."""

    def warn(self, line: str) -> None:
        """Print it: it is in no file."""
        print(f"warning: {line}", file=self._stream, flush=True)

    def alarm(self, line: str) -> None:
        """Print it."""
        print(f"ALARM: {line}", file=self._stream, flush=True)

    def close(self) -> None:
        """Lines are out already."""

    def finish(self, status: str, reason: str) -> None:
        """Print the last line."""
        print(f"{self._folder}: {status}" + (f" ({reason})" if reason else ""), file=self._stream, flush=True)

    def closing(self, lines: list[str]) -> None:
        """Say nothing: the folder holds it all."""


class JsonLines:
    """Every journal event as a line of JSON, then `run_finished` with the folder, and `closing` with where the results are.

    Between them `phase` (each change of it), `warning` and `alarm`.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._folder: Path | None = None
        self._phase = ""

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Remember the folder."""
        self._folder = folder

    def event(self, event: Event) -> None:
        """Print the event as it is in the journal."""
        self._say(event)

    def progress(self, progress: dict[str, Any]) -> None:
        """Print a phase when it changes; a case's progress is not part of the journal, and not printed."""
        phase = words.phase(progress)
        if phase and phase != self._phase:
            self._phase = phase
            spent = progress.get("spent_usd")
            self._say({"event": "phase", "phase": progress["phase"], "detail": progress.get("detail") or "", "spent_usd": spent})

    def warn(self, line: str) -> None:
        """Print a warning."""
        self._say({"event": "warning", "text": line})

    def alarm(self, line: str) -> None:
        """Print an alarm."""
        self._say({"event": "alarm", "text": line})

    def close(self) -> None:
        """Lines are out already."""

    def finish(self, status: str, reason: str) -> None:
        """Print the end."""
        self._say({"event": "run_finished", "status": status, "reason": reason, "folder": str(self._folder)})

    def closing(self, lines: list[str]) -> None:
        """Print where the results are."""
        self._say({"event": "closing", "lines": lines})

    def _say(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(record, separators=(",", ":")), file=self._stream, flush=True)
