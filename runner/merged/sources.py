"""What is merged: the jobs of a sweep, or any folders of runs, in the order in which they are told apart."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runner import journal, rental
from runner.errors import RequestError
from runner.merged.names import varied
from runner.rental import Rental
from runner.sweep import folder as sweeps

JOB = "job.json"


@dataclass(frozen=True)
class Source:
    """One run to read. `index` is the job's in its sweep, else its place; `same_as` is an earlier job's whose folder it has.

    `varied` is what tells it from the other jobs, `gpu` the choice of `gpu/`, both as the sweep has them: empty for a run that is
    in none. `link` leads to its folder from where the merged files lie.
    """

    index: int
    folder: Path
    link: str
    varied: tuple[str, ...] = ()
    gpu: str = ""
    same_as: int | None = None


@dataclass(frozen=True)
class Origin:
    """What a merge is of. `clusters` are those that a sweep rented for several of its jobs."""

    title: str
    sources: list[Source]
    command: str = ""
    created_at: str = ""
    user: str = ""
    clusters: list[Rental] = field(default_factory=list)


def of_sweep(folder: Path) -> Origin:
    """Return what the sweep in `folder` consists of.

    Raises RequestError when there is none, it is damaged, or the record of a cluster is.
    """
    sweep = sweeps.load(folder)
    return Origin(
        title=f"Sweep {sweep.name}",
        sources=_jobs(sweep, 0, folder),
        command=sweep.command,
        created_at=sweep.created_at,
        user=sweep.user,
        clusters=_clusters(folder),
    )


def of_folders(folders: Sequence[Path], out: Path) -> Origin:
    """Return what some folders hold, each a run's or a sweep's; a folder that comes twice counts once.

    Raises RequestError for one that holds neither, and when `out` is a run's folder: its files have the same names.
    """
    if (out / journal.NAME).exists() or (out / JOB).exists():
        raise RequestError(f"{out} is the folder of a run, whose own report.md would be lost; name another one with --out DIR")
    sources: list[Source] = []
    clusters: list[Rental] = []
    seen: set[Path] = set()
    for folder in folders:
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        if sweeps.is_sweep(folder):
            # Jobs keep their order; their indices go on, so that two sweeps don't share any.
            sources += _jobs(sweeps.load(folder), len(sources), out)
            clusters += _clusters(folder)
        elif (folder / journal.NAME).exists() or (folder / JOB).exists():
            sources.append(Source(len(sources), folder, _link(folder, out)))
        else:
            raise RequestError(f"{folder} holds no run ({journal.NAME}) and no sweep ({sweeps.NAME}); name folders that have one")
    count = len(sources)
    return Origin(f"{count} runs" if count != 1 else "1 run", sources, clusters=clusters)


def _jobs(sweep: sweeps.Sweep, first: int, out: Path) -> list[Source]:
    names = varied([job.overrides for job in sweep.jobs])
    return [
        Source(
            index=first + job.index,
            folder=sweep.path(job),
            link=_link(sweep.path(job), out),
            varied=tuple(job.varied) or ((name,) if name else ()),
            gpu=job.gpu,
            same_as=None if job.same_as is None else first + job.same_as,
        )
        for job, name in zip(sweep.jobs, names, strict=True)
    ]


def _clusters(folder: Path) -> list[Rental]:
    paths = sorted((folder / "clusters").glob(f"*/{rental.NAME}"))
    return [found for path in paths if (found := rental.load(path.parent))]


def _link(folder: Path, out: Path) -> str:
    return Path(os.path.relpath(folder.absolute(), out.absolute())).as_posix()
