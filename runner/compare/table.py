"""The pairs as a table: one row each as text, aligned for a log, drawn for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

from runner import columns, units
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
    found_rows: list[Row] = []
    for one in shown:
        here, ratio = one.pair.here, one.ratio
        value = "" if ratio is None else units.digits(ratio.value)
        if ratio is not None and ratio.low is not None and ratio.high is not None:
            value = units.ratio(ratio.value, ratio.low, ratio.high)
        found_rows.append(
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
    return found_rows


def lines(cells: Sequence[Row], shown: Sequence[Judged], terminal: TextIO | None) -> list[str]:
    """Return the table as text, with colours for a `terminal`."""
    if terminal is None:
        return columns.aligned(HEADERS, cells, RIGHT)
    return columns.drawn(HEADERS, cells, [_style(one) for one in shown], terminal, right=RIGHT, wrapped=WRAPPED)


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
