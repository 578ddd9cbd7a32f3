"""What A and B may name: runs, journals, sweeps, MLflow runs and published tables, one or several; found and read."""

import glob
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner import journal, results
from runner.compare import published, stored
from runner.compare.published import Table
from runner.compare.records import Found, read
from runner.errors import RequestError, nearest
from runner.journal import Event
from runner.sweep import folder as sweeps

EXPECTED = (
    "expected the folder of a run, its journal.jsonl, a sweep's folder or name, an MLflow run id (32 hex digits), "
    "reported:NAME, or several of these with commas or as a quoted pattern"
)
RUN_ID = re.compile(r"[0-9a-f]{32}")


@dataclass
class Side:
    """A or B: what was typed, what is found in it, and in `notes` what a reader should know of that.

    Of a published table `tables` has the figures; they become `found` when it is known what they are held against.
    """

    typed: str
    names: list[str] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def side(typed: str) -> Side:
    """Take apart what was typed, and read the published tables in it.

    Raises RequestError when it names nothing, a table that can't be read, or tables together with runs.
    """
    parts = [typed] if typed and Path(typed).exists() else [part.strip() for part in typed.split(",") if part.strip()]
    if not parts:
        raise RequestError(f"an empty name can't be compared; {EXPECTED}")
    tables = [part for part in parts if part.startswith(published.PREFIX) or part.endswith((".yaml", ".yml"))]
    names = [part for part in parts if part not in tables]
    if tables and names:
        raise RequestError(f"{typed}: published figures and runs can't be one side; name {tables[0]} against {names[0]}")
    return Side(typed, names, [published.load(part) for part in tables])


def read_into(one: Side, out: Path, uri: str | None, metrics: Sequence[str]) -> None:
    """Read every run that a side names, each once, with these metrics.

    `out` is the folder in which sweeps are looked up by name and the local MLflow store lies; `uri` is another store's.

    Raises RequestError when something is not there, or can't be read.
    """
    sessions: set[str] = set()
    for name, events in _journals(one, out, uri):
        found = list(read(name, events, metrics))
        session = next((each.run.session for each in found), name)
        if session in sessions:
            one.notes.append(f"{name} is named twice, or is a copy of another: it counts once")
            continue
        sessions.add(session)
        one.found += found


def _journals(one: Side, out: Path, uri: str | None) -> Iterator[tuple[str, list[Event]]]:
    """Yield (name, events) of every journal that a side names."""
    for name in one.names:
        path = Path(name)
        if path.is_dir():
            yield from _folder(path, one)
        elif path.is_file():
            yield name, _file(path)
        elif glob.has_magic(name):
            yield from _pattern(name, one)
        elif sweeps.is_sweep(out / "sweeps" / name):
            yield from _folder(out / "sweeps" / name, one)
        elif RUN_ID.fullmatch(name):
            yield from stored.journals(name, uri, out)
        else:
            known = sweeps.known(out)
            near = f"; {nearest(name, known)}" if known and "/" not in name else ""
            raise RequestError(f"{name}: there is no such thing to compare{near}; {EXPECTED}")


def _folder(folder: Path, one: Side) -> Iterator[tuple[str, list[Event]]]:
    """Yield the journal of a run's folder, or those of a sweep's jobs."""
    if sweeps.is_sweep(folder):
        jobs = sweeps.load(folder).distinct
        begun = [job for job in jobs if (folder / job.folder / journal.NAME).is_file()]
        if len(begun) < len(jobs):
            one.notes.append(f"{len(jobs) - len(begun)} of {len(jobs)} jobs of {folder} have no journal")
        for job in begun:
            events = results.read_events(folder / job.folder)
            if any(event["event"] == "job_started" for event in events):
                yield str(folder / job.folder), events
            else:
                one.notes.append(f"{folder / job.folder}: its worker never started")
    elif (folder / journal.NAME).exists():
        yield str(folder), results.read_events(folder)
    else:
        raise RequestError(f"{folder} holds neither {journal.NAME} nor {sweeps.NAME}; name the runs in it, as in '{folder}/*'")


def _file(path: Path) -> list[Event]:
    """Read a journal of whatever name."""
    follower = journal.Follower(path.parent)
    follower.path = path
    try:
        events = follower.new()
    except OSError as error:
        raise RequestError(f"can't read {path}: {error.strerror}; {EXPECTED}") from error
    if not events:
        raise RequestError(f"{path} is empty; {EXPECTED}")
    return events


def _pattern(pattern: str, one: Side) -> Iterator[tuple[str, list[Event]]]:
    """Yield the journals of the runs, sweeps and journals that a pattern matches; what else it matches is passed over."""
    paths = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]
    folders = [path for path in paths if sweeps.is_sweep(path) or (path / journal.NAME).is_file()]
    files = [path for path in paths if path.suffix == ".jsonl" and path.is_file()]
    if not folders and not files:
        raise RequestError(f"{pattern} matches no run; {EXPECTED}")
    for folder in folders:
        yield from _folder(folder, one)
    for path in files:
        yield str(path), _file(path)
