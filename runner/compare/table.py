"""The pairs as a table: one row each as text, aligned for a log, drawn for a terminal."""

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from runner import units
from runner.compare import verdicts
from runner.compare.comparison import Comparison
from runner.compare.metrics import METRICS
from runner.compare.records import Found
from runner.compare.verdicts import Judged
from runner.errors import one_line
from runner.results import labels

MAX_REASON = 80
HEADERS = ("case", "variant", "metric", "device", "A", "B", "B / A", "verdict", "")
RIGHT, WRAPPED = {"A", "B", "B / A"}, {"case", ""}

Row = tuple[str, ...]


def rows(found: Comparison, shown: Sequence[Judged]) -> list[Row]:
    """Return the lines of the table as text, one cell for each of HEADERS."""
    axes = shared(found)
    several = {
        "metric": len(found.metrics) > 1,
        "device": len({run.model for run in found.new_runs if not run.published}) > 1,
        "workload": len({run.workload for run in found.new_runs}) > 1,
    }
    lines: list[Row] = []
    for one in shown:
        here, ratio = one.pair.here, one.ratio
        value = "" if ratio is None else units.digits(ratio.value)
        if ratio is not None and ratio.low is not None and ratio.high is not None:
            value = units.ratio(ratio.value, ratio.low, ratio.high)
        lines.append(
            (
                (f"{here.run.workload} " if several["workload"] else "") + label(here, axes),
                here.variant,
                here.metric if several["metric"] else "",
                here.run.model if several["device"] else "",
                _figure(one.pair.old),
                _figure(one.pair.new),
                value,
                one.verdict + ("*" if one.elsewhere else ""),
                _cut(one.reason),
            )
        )
    return lines


def aligned(cells: Sequence[Row]) -> list[str]:
    """Return the table as plain text; columns in which nothing stands are left out."""
    used = _used(cells)
    lines = [HEADERS, *cells]
    widths = {column: max(len(line[column]) for line in lines) for column in used}
    return [
        "  ".join(
            line[column].rjust(widths[column]) if HEADERS[column] in RIGHT else line[column].ljust(widths[column])
            for column in used
        ).rstrip()
        for line in lines
    ]


def drawn(cells: Sequence[Row], shown: Sequence[Judged], terminal: TextIO) -> list[str]:
    """Return the table as rich draws it for a terminal: as wide as that is, with its colours."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    here = Console(file=terminal, highlight=False)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    used = _used(cells)
    for column in used:
        name = HEADERS[column]
        table.add_column(name, justify="right" if name in RIGHT else "left", no_wrap=name not in WRAPPED)
    for one, line in zip(shown, cells, strict=True):
        table.add_row(*(Text(line[column]) for column in used), style=_style(one))
    text = io.StringIO()
    look: Any = here.color_system
    Console(file=text, width=here.width, color_system=look, force_terminal=here.is_terminal, highlight=False).print(table)
    return [line.rstrip() for line in text.getvalue().splitlines() if line.strip()]


def shared(found: Comparison) -> dict[str, dict[str, Any]]:
    """Return of each workload the axes that have one value in all that is compared: no label names them but for the x-axis."""
    axes: dict[str, dict[str, Any]] = {}
    for one in (*(judged.pair.here for judged in found.judged), *found.only_old, *found.only_new):
        case = {axis: value for axis, value in one.case.items() if axis != one.x}
        known = axes.setdefault(one.run.workload, case)
        axes[one.run.workload] = {axis: value for axis, value in known.items() if axis in case and case[axis] == value}
    return axes


def label(one: Found, axes: Mapping[str, Mapping[str, Any]]) -> str:
    """Name a case without the `shared` axes, its x last: `layer=qkv m=16`."""
    own = labels(one.case, axes.get(one.run.workload, {})) or dict(one.case)
    ordered = [axis for axis in own if axis != one.x] + ([one.x] if one.x in own else [])
    return " ".join(f"{axis}={own[axis]}" for axis in ordered)


def _style(one: Judged) -> str:
    if one.regression:
        return "bold red"
    if one.excused or one.verdict in (verdicts.UNCLEAR, verdicts.NOISY):
        return "yellow"
    return "green" if one.better else "dim"


def _used(cells: Sequence[Row]) -> list[int]:
    """Return the columns in which something stands."""
    return [column for column in range(len(HEADERS)) if any(line[column] for line in cells)]


def mean(side: Sequence[Found]) -> float | None:
    """Return the figure of a side in its unit: the geometric mean of its runs; None where it has none."""
    known = [one.estimate.log for one in verdicts.evidence(side) if one.estimate]
    return math.exp(math.fsum(known) / len(known)) if known else None


def _figure(side: Sequence[Found]) -> str:
    """Write the figure of a side, and of how many runs it is the mean."""
    value, unit, runs = mean(side), METRICS[side[-1].metric].unit, len(verdicts.evidence(side))
    if value is None:
        return side[-1].status
    return (units.latency(value) if unit == "ms" else f"{units.digits(value)} {unit}") + (f" ({runs})" if len(side) > 1 else "")


def _cut(reason: str) -> str:
    text = one_line(reason)
    return text if len(text) <= MAX_REASON else f"{text[: MAX_REASON - 3]}..."
