"""The merged report.md: one page that a person would send to a colleague, findings first."""

import shlex
from collections import Counter
from collections.abc import Sequence

from runner import units
from runner.cost import usd
from runner.errors import one_line
from runner.merged import caveats, findings, prices
from runner.merged.facts import Cell, Drawn, Read, Run, machines
from runner.merged.sources import Origin
from runner.merged.studies import Study, drawable
from runner.merged.union import Union
from runner.report import rented
from runner.report.table import as_markdown
from runner.results import plain
from runner.thresholds.evidence import is_number

MAX_JOBS = 200
MAX_GPUS = 12
MAX_NAME = 80


def render(
    origin: Origin,
    read: Read,
    unions: Sequence[Union],
    studies: Sequence[Study],
    drawn: Sequence[Drawn],
    superseded: int,
) -> str:
    """Return the page; the pictures `drawn` are in `plots/` beside it."""
    contests = findings.contests(studies)
    parts = [
        _head(origin, read),
        findings.of_thresholds(unions),
        findings.of_decisions(read.runs),
        findings.of_contests(contests),
        findings.of_costs(contests, read),
        _pictures(drawn),
        _jobs(origin, read),
        caveats.section(read.runs, superseded, studies, drawable(studies)),
        _again(origin, read.runs),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _head(origin: Origin, read: Read) -> str:
    runs = read.runs
    statuses = Counter(run.status for run in runs)
    counts = Counter(cell.status for cell in read.cells)
    gpus = list(dict.fromkeys(run.name for run in runs if run.measured))
    lines = [f"# {origin.title}", *_loud(origin, runs)]
    undone = len(runs) - statuses["complete"]
    if undone:
        lines.append(
            f"> **{undone} of {units.several(len(runs), 'job')} did not complete.** What they measured counts; what they did not "
            "is open, and enables nothing."
        )
    if origin.command:
        lines.append(f"`{origin.command}`" + (f", by {origin.user}" if origin.user else "") + f", {_minute(origin.created_at)}.")
    named = ", ".join(gpus[:MAX_GPUS]) + (f" and {len(gpus) - MAX_GPUS} more" if len(gpus) > MAX_GPUS else "")
    shared = len(origin.sources) - len(runs)
    lines.append(
        f"{units.several(len(origin.sources), 'job')} on {machines(runs, len(gpus))}"
        + (f" ({named})" if gpus else "")
        + f": {_counted(statuses)}"
        + (f", {shared} the same as another" if shared else "")
        + f". Measurements: {_counted(counts) or 'none'}. "
        + "[thresholds.yaml](thresholds.yaml) and [comparison.csv](comparison.csv) have everything."
    )
    lines.append(_totals(origin, runs))
    return "\n\n".join(filter(None, lines))


def _loud(origin: Origin, runs: Sequence[Run]) -> list[str]:
    """Return what must stand above everything: machines that may still cost money, and fallbacks, equal ones once."""
    rentals = [*origin.clusters, *(run.rental for run in runs)]
    found = Counter(line for rental in rentals for line in rented.loud(rental))
    return list(found)[:MAX_GPUS]


def _totals(origin: Origin, runs: Sequence[Run]) -> str:
    """Say how long it took and what was billed."""
    started = [run.started_at for run in runs if run.started_at]
    ended = [run.ended_at for run in runs if run.ended_at]
    parts = []
    if started:
        took = units.duration(sum(run.measure_s for run in runs))
        parts.append(f"From {_minute(min(started))} to {_minute(max(ended))}; {took} of measuring in all.")
    bill = prices.bill((run.rental for run in runs if run.rental), origin.clusters)
    if bill.clusters:
        cost = usd(bill.usd) if bill.usd is not None else "unknown"
        more = f", {bill.unknown} of them of unknown price" if bill.unknown and bill.usd is not None else ""
        parts.append(f"Bill: {cost} for {units.several(bill.clusters, 'cluster')} on {', '.join(bill.clouds)}{more}.")
    return " ".join(parts)


def _pictures(drawn: Sequence[Drawn]) -> str:
    """Return the pictures by study, each with a sentence."""
    parts: list[str] = []
    for one in drawn:
        heading = f"### {one.study}"
        parts += [heading] if heading not in parts else []
        parts.append(f"![{one.title}](plots/{one.path.name})\n\n{one.title}, {one.caption}.")
    return "\n\n".join(["## Pictures", *parts]) if parts else ""


def _jobs(origin: Origin, read: Read) -> str:
    """Return a row per job: what was varied, where it ran, how it ended, and the best that it found."""
    places = {run.source.index: place for place, run in enumerate(read.runs)}
    shown = origin.sources[:MAX_JOBS]
    wanted = {places[source.index] for source in shown if source.index in places}
    own: dict[int, list[Cell]] = {place: [] for place in wanted}
    for cell in read.cells:
        if cell.run in wanted:
            own[cell.run].append(cell)
    rows = []
    for source in shown:
        if source.same_as is not None:
            rows.append([f"{source.index}", _code(" ".join(source.varied)), "", f"as job {source.same_as}", "", ""])
            continue
        place = places[source.index]
        run = read.runs[place]
        name = _code(run.label if source.varied else source.folder.name)
        linked = f"[{name}]({source.link}/report.md)" if (source.folder / "report.md").exists() else name
        cases = f"{run.cases}" if run.measured else ""
        rows.append(
            [
                f"{source.index}",
                linked,
                run.name or f"asked: {source.gpu}" if source.gpu else "",
                run.status,
                cases,
                _result(run, own[place]),
            ]
        )
    lines = ["## Jobs", "", *as_markdown(["", "job", "on", "status", "cases", "at its largest case"], rows)]
    if len(origin.sources) > MAX_JOBS:
        lines += ["", f"{len(origin.sources) - MAX_JOBS} more are in comparison.csv."]
    return "\n".join(lines)


def _result(run: Run, cells: Sequence[Cell]) -> str:
    """Say the best of a run at its first x-axis' largest value: the highest speed-up, else the shortest time."""
    timed = [cell for cell in cells if cell.status == "ok" and cell.latency_ms and cell.variant in run.comparable]
    timed = [cell for cell in timed if cell.x == timed[0].x]
    numbers = [cell.case[cell.x] for cell in timed if is_number(cell.case.get(cell.x))]
    timed = [cell for cell in timed if not numbers or cell.case.get(cell.x) == max(numbers)]
    faster = [cell for cell in timed if cell.speedup is not None]
    if faster:
        best = max(faster, key=lambda cell: cell.speedup or 0.0)
        ratio = units.ratio(best.speedup or 0.0, best.speedup_low or 0.0, best.speedup_high or 0.0).replace(" ", "x ", 1)
        return f"`{best.variant}` {ratio} over `{run.baseline}` at {_at(run, best)}"
    if timed:
        best = min(timed, key=lambda cell: cell.latency_ms or 0.0)
        return f"`{best.variant}` {units.latency(best.latency_ms or 0.0)} at {_at(run, best)}"
    return ""


def _at(run: Run, cell: Cell) -> str:
    return plain({axis: value for axis, value in cell.case.items() if run.settings.get(axis) != value})


def _again(origin: Origin, runs: Sequence[Run]) -> str:
    commits = dict.fromkeys(
        f"`{run.git_sha}`" + (" with uncommitted changes" if run.git_dirty else "") for run in runs if run.git_sha
    )
    code = (
        f"At commit {', '.join(list(commits)[:3])}{' and others' if len(commits) > 3 else ''}:"
        if commits
        else "At an unknown commit:"
    )
    links = [source.link for source in origin.sources[:6]]
    more = ["..."] if len(origin.sources) > len(links) else []
    command = origin.command or " ".join(["python -m runner.merged", *map(shlex.quote, links), *more, "--out ."])
    again = "`python -m runner.report DIR`, DIR being the folder of this page" if origin.command else "the command above"
    code = code if origin.command else "In the folder of this page; how each run was made is in its own report:"
    lines = ["## How to reproduce", "", code, "", "```", command, "```", ""]
    return "\n".join([*lines, f"Everything here can be made again from the runs' folders with {again}."])


def _counted(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.most_common())


def _minute(time: str) -> str:
    return f"{time[:16].replace('T', ' ')} UTC"


def _code(text: str) -> str:
    line = one_line(text)
    return f"`{line[:MAX_NAME]}{'...' if len(line) > MAX_NAME else ''}`"
