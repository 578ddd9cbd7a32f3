"""Reads the runs, derives what they say together, and writes it: each file whole or not at all, twice the same bytes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner.errors import RequestError
from runner.merged import comparison, document, names, sources, studies
from runner.merged.comparison import Spool
from runner.merged.facts import Drawn, Price, Run
from runner.merged.page import render
from runner.merged.reading import Reader
from runner.merged.sources import Origin
from runner.merged.union import Union, unite
from runner.paths import write_whole


@dataclass(frozen=True)
class Merged:
    """What was merged: the runs with their statuses, the thresholds of every GPU, and the paths that were written.

    `origin` has every job in its order, also those that are the same as another and share its run. `superseded` is how many
    measurements don't count because a later run took them again.
    """

    folder: Path
    origin: Origin
    runs: list[Run]
    thresholds: list[Union]
    superseded: int
    paths: list[Path]

    @property
    def complete(self) -> bool:
        """Whether every run is."""
        return all(run.status == "complete" for run in self.runs)


def write(folder: Path, plots: bool = True, prices: Mapping[str, Price] | None = None) -> Merged:
    """Merge the jobs of the sweep in `folder` and write what they say together beside its sweep.json.

    `prices` are by device name, for runs whose machine was not rented. Raises RequestError when there is no sweep, or the folder
    can't be written.
    """
    return _write(sources.of_sweep(folder), folder, plots, prices or {})


def merge(folders: Sequence[Path], out: Path, plots: bool = True, prices: Mapping[str, Price] | None = None) -> Merged:
    """Merge any runs, each the folder of a run or of a sweep, and write what they say together into `out`.

    Raises RequestError when a folder holds neither, `out` is a run's own folder, or can't be written.
    """
    return _write(sources.of_folders(folders, out), out, plots, prices or {})


def _write(origin: Origin, out: Path, plots: bool, given: Mapping[str, Price]) -> Merged:
    spool = Spool()
    try:
        out.mkdir(parents=True, exist_ok=True)
        reader = Reader(spool.add, given)
        for source in origin.sources:
            if source.same_as is None:
                reader.add(source)
        read = reader.read
        for run, label in zip(read.runs, names.varied([run.overrides for run in read.runs]), strict=True):
            run.label = " ".join(run.source.varied) or label or run.workload or run.source.folder.name
        superseded = comparison.mark_latest(read)
        unions, found = unite(read.runs), studies.of(read)

        paths = [out / document.NAME, out / "comparison.csv"]
        write_whole(paths[0], document.to_text(document.content(unions, origin)))
        spool.write(paths[1], read)
        drawn: list[Drawn] = []
        if plots:
            from runner.merged import pictures  # matplotlib takes a third of a second to import; those who only read don't pay it

            drawn = pictures.write(out / "plots", found, read, unions)
        write_whole(out / "report.md", render(origin, read, unions, found, drawn, superseded))
    except OSError as error:
        raise RequestError(f"can't write to {out}: {error.strerror}; make it writable or name another folder") from error
    finally:
        spool.close()
    return Merged(out, origin, read.runs, unions, superseded, [*paths, *(one.path for one in drawn), out / "report.md"])
