"""What this program started and has not seen end: a file per cluster, written before the cluster is asked for.

The process that rented it holds a lock on the file as long as it lives, so that the next command knows what was left behind
by a kill -9. The files are under $XDG_STATE_HOME/crossover (~/.local/state/crossover), one folder for all runs of this user.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from runner.errors import RequestError


@dataclass
class Entry:
    """A cluster that was asked for, of the SkyPilot server at `endpoint` (None: the local one); `folder` has its `launch.json`.

    `runs` maps the run folders here to where each is on the node.
    """

    cluster: str
    folder: str
    requested_at: float
    endpoint: str | None = None
    offer: str = ""
    usd_per_hour: float | None = None
    job_id: int | None = None
    runs: dict[str, str] = field(default_factory=dict)


class Held:
    """An entry that this process holds: `save` after each change, `close` when the cluster is known to have ended."""

    def __init__(self, entry: Entry, path: Path, lock: IO[str]) -> None:
        self.entry, self._path, self._lock = entry, path, lock

    def save(self) -> None:
        """Write the entry in place: another file would not be the one that is locked."""
        text = json.dumps(asdict(self.entry), indent=1) + "\n"
        self._lock.seek(0)
        self._lock.write(text)
        self._lock.truncate()
        self._lock.flush()
        os.fsync(self._lock.fileno())

    def release(self) -> None:
        """Leave the entry to whoever comes next."""
        self._lock.close()

    def close(self) -> None:
        """Forget the cluster: it is known to have ended."""
        self._path.unlink(missing_ok=True)
        self._lock.close()


def _place() -> Path:
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "crossover"


def folder() -> Path:
    """Return the folder of the ledger, created when missing.

    Raises RequestError when it can't be written: without it a cluster could be forgotten.
    """
    path = _place()
    try:
        (path / "clusters").mkdir(parents=True, exist_ok=True)
        if not os.access(path / "clusters", os.W_OK):
            raise PermissionError(13, "not writable")
    except OSError as error:
        raise RequestError(f"can't keep track of clusters in {path}: {error.strerror}; set XDG_STATE_HOME to a folder") from error
    return path


def enter(entry: Entry) -> Held:
    """Write a new entry and hold it."""
    path = folder() / "clusters" / f"{entry.cluster}.json"
    lock = open(path, "w+")  # noqa: SIM115 - held as long as the cluster may live
    fcntl.flock(lock, fcntl.LOCK_EX)
    held = Held(entry, path, lock)
    held.save()
    return held


def entries() -> Iterator[tuple[Entry, bool]]:
    """Yield every entry, and whether a living process holds it."""
    for path in sorted((_place() / "clusters").glob("*.json")):
        held = _take(path)
        if held is None:
            found = _read(path)
            if found:
                yield found, True
        else:
            held.release()
            yield held.entry, False


def take(cluster: str) -> Held | None:
    """Hold the entry of a cluster that nobody holds; None when there is none, or somebody does."""
    return _take(_place() / "clusters" / f"{cluster}.json")


def left_behind() -> list[Entry]:
    """Return the entries of processes that are gone."""
    return [entry for entry, is_held in entries() if not is_held]


def _take(path: Path) -> Held | None:
    try:
        lock = open(path, "r+")  # noqa: SIM115 - handed on
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.close()
        return None
    entry = _read(path)
    if entry is None or not path.exists():  # ended between our look and our lock
        lock.close()
        return None
    return Held(entry, path, lock)


def _read(path: Path) -> Entry | None:
    """Return an entry; one whose first write was cut short names its cluster and nothing else."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        data: dict[str, Any] = json.loads(path.read_text())
        return Entry(**data)
    return Entry(path.stem, "", 0.0) if path.exists() else None
