"""Figures that others published as one side of a comparison: no spread, no known machine, only what the source says."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runner import journal, reported
from runner.compare.metrics import METRICS
from runner.compare.ratio import as_published
from runner.compare.records import PUBLISHED, Found, Run
from runner.errors import RequestError, nearest
from runner.paths import conf_dir
from runner.reported import Figure, Reported
from runner.schema import read as read_as

PREFIX = "reported:"


@dataclass(frozen=True)
class Table:
    """A published table and the name it was asked for by."""

    name: str
    reported: Reported


def load(text: str) -> Table:
    """Read `reported:NAME` from conf/reported, or the YAML at a path. Raises RequestError when it is none."""
    import yaml

    folder = conf_dir() / "reported"
    path = folder / f"{text.removeprefix(PREFIX)}.yaml" if text.startswith(PREFIX) else Path(text)
    if text.startswith(PREFIX) and not path.is_file():
        raise RequestError(f"{text}: no such table; {nearest(path.stem, (one.stem for one in folder.glob('*.yaml')))}")
    try:
        data = yaml.safe_load(path.read_text())
    except OSError as error:
        raise RequestError(f"can't read {path}: {error.strerror}; name a table of figures, or reported:NAME") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RequestError(f"{path} is no YAML ({error}); expected a table like those in conf/reported") from error
    try:
        found = read_as(Reported, data, "")
        reported.check(found)
    except RequestError as error:
        raise RequestError(f"{path}: {error}; expected a table like those in conf/reported") from error
    return Table(text, found)


def as_found(table: Table, other: Sequence[Found], metrics: Sequence[str]) -> tuple[list[Found], list[str]]:
    """Return the figures as measurements of the cases in `other` that they fit, and notes on those that are left out.

    A figure fits a case that has its values of its axes, whatever else that has. One that fits none keeps its own case. Only
    `metrics` are taken, the others can't be compared; nor can those that fit several cases, or the same one as others.
    """
    source, notes, found = table.reported.source, [], []
    device = {"type": PUBLISHED, "name": source.device}
    workloads = {one.run.workload for one in other}
    job = {"workload": workloads.pop() if len(workloads) == 1 else ""}
    run = Run(f"{source.title}, {source.date}", table.name, source.date, job, device, {"torch": source.software})
    figures = [figure for figure in table.reported.rows if figure.metric in metrics]
    if left := len(table.reported.rows) - len(figures):
        notes.append(f"{left} figures of {table.name} are of other kinds than {', '.join(metrics)}: not compared")
    ambiguous = 0
    for figure in figures:
        fitting = {one.key: one for one in other if _fits(figure, one)}
        if len(fitting) > 1:
            ambiguous += 1
            continue
        found.append(_found(run, figure, next(iter(fitting.values()), None)))
    keys = Counter(one.key for one in found)
    found = [one for one in found if keys[one.key] == 1]
    ambiguous += sum(count for count in keys.values() if count > 1)
    if ambiguous:
        notes.append(f"{ambiguous} figures of {table.name} fit several cases, or a case that another fits: not compared")
    return found, notes


def metrics_of(tables: Sequence[Table]) -> list[str]:
    """Return the metrics that the figures of these tables have and that can be compared, in the order of METRICS."""
    named = {figure.metric for table in tables for figure in table.reported.rows}
    return [name for name in METRICS if name in named]


def _fits(figure: Figure, one: Found) -> bool:
    return (figure.variant, figure.metric) == (one.variant, one.metric) and (
        figure.case.items() <= one.case.items() or (one.run.published and one.case.items() <= figure.case.items())
    )


def _found(run: Run, figure: Figure, like: Found | None) -> Found:
    """Make a measurement of a figure, on the case that it is held against."""
    if like is not None:
        run = run if run.workload == like.run.workload else Run(**vars(run) | {"job": {"workload": like.run.workload}})
    case = figure.case if like is None else like.case
    return Found(
        run=run,
        case=case,
        x="" if like is None else like.x,
        variant=figure.variant,
        metric=figure.metric,
        status="ok",
        at=run.started_at,
        estimate=as_published(figure.value),
        case_key=journal.case_key(case),
    )
