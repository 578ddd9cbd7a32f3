"""Reads the runs of one machine and writes their lineup.md."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runner import gpus, journal, results
from runner.errors import RequestError
from runner.lineup import claims, page, prices
from runner.merged import Price, findings, sources, studies
from runner.merged.reading import Reader
from runner.merged.sources import Origin, Source
from runner.paths import conf_dir, write_whole
from runner.results import Results
from runner.sweep.folder import is_sweep

NAME = "lineup.md"
Runs = list[tuple[Source, Results]]


@dataclass(frozen=True)
class Machine:
    """One machine's runs, each with its source, and what a GPU of its name costs, with where that is from."""

    name: str
    runs: Runs
    price: Price | None
    price_source: str


def of_sweep(folder: Path) -> Path | None:
    """Write the page of the sweep in `folder` into it and return its path; None where it is no lineup.

    A lineup is of several workloads, measured on one machine. Raises RequestError as `write` does.
    """
    origin = sources.of_sweep(folder)
    runs = _runs(origin)
    if len({run.workload for _, run in runs}) < 2 or len(_machines(runs)) != 1:
        return None
    return _write(origin, runs, folder, {})


def write(folders: Sequence[Path], out: Path, given: Mapping[str, Price] | None = None) -> Path:
    """Write the page of the runs in `folders`, of runs or sweeps, into `out`; return its path.

    `given` are prices by device name, which win over the dated ones.

    Raises RequestError when there is no run, they are from several machines, or `out` can't be written.
    """
    single = len(folders) == 1 and is_sweep(folders[0])
    origin = sources.of_sweep(folders[0]) if single else sources.of_folders(folders, out)
    return _write(origin, _runs(origin), out, given or {})


def _write(origin: Origin, runs: Runs, out: Path, given: Mapping[str, Price]) -> Path:
    machine = _machine(runs, given)
    text = page.render(
        origin, machine.name, machine.runs, machine.price, machine.price_source, _costs(origin, machine), claims.load()
    )
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / NAME, text)
    except OSError as error:
        raise RequestError(
            f"can't write to {out}: {error.strerror}; make it writable or name another folder with --out"
        ) from error
    return out / NAME


def verdicts(folders: Sequence[Path]) -> str:
    """Return the claims with what the runs in `folders`, of one machine, say of them. Raises RequestError as `write` does."""
    return page.of_claims(claims.load(), [run for _, run in _machine(_runs(sources.of_folders(folders, Path())), {}).runs])


def _runs(origin: Origin) -> Runs:
    """Return the runs in which a worker ever started."""
    read = ((source, journal.read(source.folder)) for source in origin.sources if source.same_as is None)
    return [
        (source, results.from_events(events)) for source, events in read if any(one["event"] == "job_started" for one in events)
    ]


def _machines(runs: Runs) -> list[str]:
    """Return the names of the devices that were measured on; a projection is arithmetic, and where it was done says nothing."""
    return list(dict.fromkeys(str(run.device.get("name")) for _, run in runs if run.job.get("mode") != "projection"))


def _machine(runs: Runs, given: Mapping[str, Price]) -> Machine:
    names = _machines(runs)
    if not names:
        raise RequestError("none of these runs has measured anything; name folders of runs, or of a sweep")
    if len(names) > 1:
        raise RequestError(f"these runs are from several machines ({', '.join(names)}); name those of one")
    price, source = given.get(names[0]), "as given"
    if price is None:
        memory = next(run.device.get("memory_bytes") or 0 for _, run in runs if run.device.get("name") == names[0])
        known = (choice for choice, spec in gpus.load_specs([conf_dir()]).items() if spec.is_this(names[0], memory))
        price, source = next(filter(None, map(prices.dated, known)), (None, ""))
    return Machine(names[0], runs, price, source)


def _costs(origin: Origin, machine: Machine) -> str:
    """Return the section on money and energy, as merged reports have it."""
    reader = Reader(lambda *row: None, {machine.name: machine.price} if machine.price else {})
    for source, _ in machine.runs:
        reader.add(source)
    for run in reader.read.runs:
        run.label = run.workload
    return findings.of_costs(findings.contests(studies.of(reader.read)), reader.read)
