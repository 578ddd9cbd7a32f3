"""The section of the page on what a whole is made of: per case, the share of every stage and of their sum."""

from collections.abc import Mapping, Sequence
from typing import Any

from runner import composition, units
from runner.composition import Composition, Row, Share, Time
from runner.report.table import as_markdown
from runner.results import Results, labels, plain

CLOCKS = {
    "cold": "device time with a cold L2",
    "warm": "device time of calls replayed back to back: the L2 as they leave it, launches hidden",
    "wall": "the host's clock around a call and the wait for it",
}


def section(results: Results) -> str:
    """Return the section, empty where the job declares no composition or no case has one."""
    return "\n\n".join(part for one in composition.declared(results.job) for part in _of(one, results))


def _of(one: Composition, results: Results) -> list[str]:
    if not composition.rows(one, results):
        return []
    parts: list[str] = []
    timings: list[str | None] = [*composition.timings(one, results)]
    for timing in timings or [None]:
        rows = composition.rows(one, results, timing)
        if timing:
            parts.append(f"### `{timing}`: {CLOCKS[timing]}" if len(timings) > 1 else f"Times are `{timing}`: {CLOCKS[timing]}.")
        for x in dict.fromkeys(row.x for row in rows):
            parts.append(_table(one, x, [row for row in rows if row.x == x], results))
        parts += _launched(rows)
    explained = (
        f"Shares of the time of `{one.whole}`. Each stage was timed alone, in turn with the whole, so their sum may differ from "
        "it: alone, each pays for its own start and finds the caches in a state of its own, and what only the whole does is in "
        "no stage."
    )
    without = (
        [f"This run leaves out {', '.join(f'`{stage}`' for stage in one.without)}: the sum lacks it."] if one.without else []
    )
    return [f"## Stages of `{one.whole}`", explained, *without, *parts]


def _table(one: Composition, x: str, rows: Sequence[Row], results: Results) -> str:
    """Return a row per case: x, the labels in which cases differ, the whole, every stage, their sum and how far that is off."""
    named = [{axis: value for axis, value in labels(row.axes, results.settings).items() if axis != x} for row in rows]
    same = _same(named)
    axes = list(dict.fromkeys(axis for case in named for axis in case if axis not in same))
    unit = results.unit(x)
    columns = [f"{x} ({unit})" if unit else x, *axes, f"`{one.whole}`", *(f"`{stage}`" for stage in one.stages), "sum"]
    columns += [] if one.without else ["sum - 100%"]
    cells = [
        [
            f"{row.axes.get(x, '')}",
            *(f"{case.get(axis, '')}" for axis in axes),
            _time(row.whole),
            *(_share(row.stages[stage]) for stage in one.stages),
            _share(row.total),
            *([] if one.without else [_off(row.total)]),
        ]
        for row, case in zip(rows, named, strict=True)
    ]
    about = [f"At {plain(same)}:", ""] if same else []
    return "\n".join([*about, *as_markdown(columns, cells, words=())])


def _same(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the labels that all cases share."""
    return {axis: value for axis, value in cases[0].items() if all(axis in one and one[axis] == value for one in cases)}


def _time(time: Time) -> str:
    if time.interval is None:
        return f"*{time.why}*"
    return units.interval(time.interval.value, time.interval.low, time.interval.high) + (" *noisy*" if time.noisy else "")


def _share(share: Share) -> str:
    if share.interval is None:
        return f"*{share.why}*" if share.why else "-"
    value, low, high = (100 * one for one in (share.interval.value, share.interval.low, share.interval.high))
    return f"{value:.1f}% [{low:.1f}, {high:.1f}]" + (" *noisy*" if share.noisy else "")


def _off(total: Share) -> str:
    return f"{100 * (total.interval.value - 1):+.1f}%" if total.interval else "-"


def _launched(rows: Sequence[Row]) -> list[str]:
    """Say what was launched call by call where others were replayed as a graph: gaps between its kernels are in its time."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for variant, timer in row.timers.items():
            if timer != "cuda_graph" and "cuda_graph" in row.timers.values():
                found.setdefault(f"`{variant}`", []).append(f"{row.axes[row.x]}")
    names = "; ".join(f"{variant} at {rows[0].x} = {', '.join(dict.fromkeys(xs))}" for variant, xs in found.items())
    return [f"Launched call by call, not replayed as a graph: {names}."] if found else []
