"""A sweep's folder: `sweep.json` says which jobs it has, each job is a run folder of its own beside it.

    OUT/sweeps/NAME/sweep.json
    OUT/sweeps/NAME/000-matmul-1a2b3c4d/     a run folder: job.json, journal.jsonl, ...
    OUT/sweeps/NAME/clusters/4090-0/         what was rented for some of them: launch.json, task.yaml, ...

What is merged over all jobs (thresholds.yaml, comparison.csv, report.md, plots/) lies beside sweep.json.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import RequestError, nearest
from runner.paths import write_whole

NAME = "sweep.json"
SCHEMA = 1


@dataclass(frozen=True)
class SweepJob:
    """One job of a sweep: its overrides, its hash, its run folder's name under the sweep's, where it runs.

    `varied` are the overrides that the sweep chose: those typed for all jobs are left out. `same_as` is the index of an earlier
    job with the same hash, whose folder this one shares: it runs once. `gpu` and `workload` are the choices of the config
    groups. `target` is `local` or `sky`.
    """

    index: int
    overrides: list[str]
    hash: str
    folder: str
    workload: str
    gpu: str
    target: str
    varied: list[str] = field(default_factory=list)
    same_as: int | None = None

    @property
    def name(self) -> str:
        """The job in a few words: what distinguishes it from the others of its sweep."""
        return " ".join(self.varied) or f"{self.workload} on {self.gpu}"


@dataclass
class Sweep:
    """A sweep as `sweep.json` has it. `overrides` are the command line's, as typed, `command` is the whole of it."""

    folder: Path
    name: str
    created_at: str
    command: str
    overrides: list[str]
    jobs: list[SweepJob] = field(default_factory=list)
    user: str = ""

    def path(self, job: SweepJob) -> Path:
        """Return the run folder of a job."""
        return self.folder / job.folder

    @property
    def distinct(self) -> list[SweepJob]:
        """The jobs without those that are the same as an earlier one."""
        return [job for job in self.jobs if job.same_as is None]

    def save(self) -> None:
        """Write `sweep.json`. Raises RequestError when the folder can't be written."""
        data: dict[str, Any] = {"schema": SCHEMA} | {key: value for key, value in asdict(self).items() if key != "folder"}
        try:
            write_whole(self.folder / NAME, json.dumps(data, indent=1) + "\n")
        except OSError as error:
            raise RequestError(f"can't write {self.folder / NAME}: {error.strerror}; name another folder with out=DIR") from error


def is_sweep(folder: Path) -> bool:
    """Whether a folder is a sweep's."""
    return (folder / NAME).is_file()


def load(folder: Path) -> Sweep:
    """Read the sweep in `folder`. Raises RequestError when there is none, or it is damaged."""
    path = folder / NAME
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        if data.pop("schema") != SCHEMA:
            raise ValueError("of another version of this program")
        return Sweep(folder=folder, **data | {"jobs": [SweepJob(**one) for one in data["jobs"]]})
    except OSError as error:
        raise RequestError(f"{folder} holds no sweep ({NAME}: {error.strerror}); name a folder under OUT/sweeps") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RequestError(f"{path} is damaged ({error}); its jobs' folders are still whole") from error


def known(out: Path) -> list[str]:
    """Return the names of the sweeps under `out`."""
    folders: Iterable[Path] = (out / "sweeps").glob(f"*/{NAME}")
    return sorted(path.parent.name for path in folders)


def find(out: Path, name: str) -> Sweep:
    """Read the sweep called `name` under `out`. Raises RequestError when there is none, or it is damaged."""
    names = known(out)
    if name not in names:
        raise RequestError(f"sweep.resume={name}: no such sweep under {(out / 'sweeps').absolute()}; {nearest(name, names)}")
    return load(out / "sweeps" / name)
