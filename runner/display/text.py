"""The displays without a terminal: plain lines, quiet, and JSON lines for scripts."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TextIO

from runner import composition
from runner.display import words
from runner.journal import Event


class Plain:
    """One line per measurement, warnings as they come, then what was found."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._events: list[Event] = []
        self._case = ""
        self._settings: Mapping[str, Any] = {}
        self._stages: set[str] = set()

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
        """Lines don't move."""

    def warn(self, line: str) -> None:
        """Print a warning."""
        self._say(f"warning: {line}")

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
    """Nothing but the last line, with the run's folder and how it ended, and warnings from outside the journal."""

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

    def finish(self, status: str, reason: str) -> None:
        """Print the last line."""
        print(f"{self._folder}: {status}" + (f" ({reason})" if reason else ""), file=self._stream, flush=True)

    def closing(self, lines: list[str]) -> None:
        """Say nothing: the folder holds it all."""


class JsonLines:
    """Every journal event as a line of JSON, then `run_finished` with the folder, and `closing` with where the results are."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._folder: Path | None = None

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Remember the folder."""
        self._folder = folder

    def event(self, event: Event) -> None:
        """Print the event as it is in the journal."""
        self._say(event)

    def progress(self, progress: dict[str, Any]) -> None:
        """Progress is not part of the journal, and not printed."""

    def warn(self, line: str) -> None:
        """Print a warning."""
        self._say({"event": "warning", "text": line})

    def finish(self, status: str, reason: str) -> None:
        """Print the end."""
        self._say({"event": "run_finished", "status": status, "reason": reason, "folder": str(self._folder)})

    def closing(self, lines: list[str]) -> None:
        """Print where the results are."""
        self._say({"event": "closing", "lines": lines})

    def _say(self, record: Mapping[str, Any]) -> None:
        print(json.dumps(record, separators=(",", ":")), file=self._stream, flush=True)
