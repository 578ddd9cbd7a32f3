"""The journal: append-only JSON lines, flushed per event, the one record of what happened in a run.

Killing the writer at any byte loses at most the event being written: a torn last line is ignored on reading and
cut off before the next append. Events and their fields are listed in docs/journal.md.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from runner.errors import RequestError

NAME = "journal.jsonl"

Event = dict[str, Any]


class Writer:
    """Appends events to `DIR/journal.jsonl`; holds a lock, so that two workers never share a folder."""

    def __init__(self, folder: Path) -> None:
        """Open the journal of `folder` (created when missing).

        Raises RequestError when the folder can't be written or another process is writing this journal.
        """
        path = folder / NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = open(path, "a+b")  # noqa: SIM115 - closed by close(); it lives as long as the writer
        except OSError as error:
            raise RequestError(f"can't write to {folder}: {error.strerror}; name another folder") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            raise RequestError(f"{path} is being written by another worker; wait for it or name another folder") from error
        self._cut_torn_line()

    def _cut_torn_line(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        if data and not data.endswith(b"\n"):
            self._file.truncate(data.rfind(b"\n") + 1)

    def append(self, event: str, **fields: Any) -> Event:
        """Write one event and flush it to the operating system; return it as written."""
        record: Event = {"event": event, "time": datetime.now(UTC).isoformat(timespec="milliseconds"), **fields}
        line = json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n"
        self._file.write(line.encode())
        self._file.flush()
        os.fsync(self._file.fileno())
        return record

    def close(self) -> None:
        """Close the file, which also releases the lock; on a full disk what could not be written is lost already."""
        with contextlib.suppress(OSError):
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class Follower:
    """Reads a journal that is still growing: each call of `new()` returns the complete events since the last."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / NAME
        self._offset = 0

    def new(self) -> list[Event]:
        """Return the events added since the last call; a line that is still being written waits for the next one.

        Raises RequestError when a complete line is no JSON event: the file is not a journal.
        """
        if not self.path.exists():
            return []
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            data = file.read()
        complete = data[: data.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [_parse(self.path, line) for line in complete.splitlines() if line.strip()]


def _parse(path: Path, line: bytes) -> Event:
    try:
        event = json.loads(line)
    except ValueError as error:
        raise RequestError(f"{path} is damaged at {line[:60]!r}: not a JSON line; restore it or name another folder") from error
    if not isinstance(event, dict) or "event" not in event:
        raise RequestError(f"{path} is no journal: {line[:60]!r} has no 'event'; name a folder written by this program")
    return event


def read(folder: Path) -> list[Event]:
    """Return every complete event of the journal in `folder` (an empty list when there is none)."""
    return Follower(folder).new()


def measurements(events: list[Event]) -> Iterator[Event]:
    """Yield the measurements in order; the last one stands where a case was measured again."""
    last: dict[str, Event] = {}
    for event in events:
        if event["event"] == "measurement":
            last[f"{case_key(event['case'])}/{event['variant']}"] = event
    yield from last.values()


def case_key(case: Mapping[str, Any]) -> str:
    """Name a case by its axis values, in a fixed order: `layer=llama3_8b.qkv,m=16`."""
    return ",".join(f"{axis}={case[axis]}" for axis in sorted(case))


def final_status(events: list[Event]) -> tuple[str, str]:
    """Return (status, reason) of the run: `partial` as long as no `job_finished` follows the last `job_started`."""
    for event in reversed(events):
        if event["event"] == "job_finished":
            return str(event["status"]), str(event.get("reason") or "")
        if event["event"] == "job_started":
            return "partial", "the worker ended without a last word (killed, or the machine was lost)"
    return "failed", "the worker never started"
