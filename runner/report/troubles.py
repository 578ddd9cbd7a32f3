"""What a reader must know before trusting a run: what is not ok, every warning, and where the host was the slower one."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runner import units
from runner.journal import Event
from runner.report.table import flat
from runner.results import MEASURED, Results, labels, plain

MOST_NAMED = 4

Axes = Mapping[str, Any]


def section(results: Results) -> str:
    """Return the section, empty where there is nothing to know."""
    lines = [*_statuses(results), *results.warnings]
    if results.other_processes:
        names = ", ".join(f"{one.get('name') or 'unknown'} (pid {one.get('pid')})" for one in results.other_processes)
        lines.append(f"other processes were on the GPU: {names}")
    lines += [*_warnings(results), *_launch_bound(results)]
    return "\n".join(["## What to know before trusting this", "", *(f"- {line}" for line in lines)]) if lines else ""


def where(cases: Sequence[Axes], total: int) -> str:
    """Name the first few of some cases, what they have in common once: `at n = 128, 256 and 3 more (layer = up)`.

    `total` is how many there could have been.
    """
    if len(cases) == total > 1:
        return "in both cases" if total == 2 else f"in all {total} cases"
    common = {axis: value for axis, value in cases[0].items() if len(cases) > 1 and all(one.get(axis) == value for one in cases)}
    own = [{axis: value for axis, value in one.items() if axis not in common} for one in cases[:MOST_NAMED]]
    if len({tuple(one) for one in own}) == 1 and len(own[0]) == 1:
        (axis,) = own[0]
        names = f"{axis} = {', '.join(f'{one[axis]}' for one in own)}"
    else:
        names = "; ".join(plain(one) or "the only case" for one in own)
    more = f" and {len(cases) - MOST_NAMED} more" if len(cases) > MOST_NAMED else ""
    return f"at {names}{more}" + (f" ({plain(common)})" if common else "")


def _statuses(results: Results) -> Iterator[str]:
    """Say what isn't ok, equal reasons together."""
    found: dict[tuple[str, str, str], list[Axes]] = {}
    for event in results.measurements:
        if event["status"] != "ok":
            key = (str(event["variant"]), str(event["status"]), str(event.get("reason") or "no reason given"))
            found.setdefault(key, []).append(_named(results, event))
    for (variant, status, reason), cases in found.items():
        yield f"`{variant}` is **{status}** {where(cases, _planned(results, variant))}: {reason}"


def _warnings(results: Results) -> Iterator[str]:
    """Say each warning once, with the variants that it hit together and where."""
    said: dict[tuple[str, str], tuple[Axes, list[str]]] = {}  # what hit a whole case is said once
    for event in results.measurements:
        lines = [str(line) for line in event.get("warnings") or []]
        control = event.get("control")
        if control and control["verdict"] in ("faster", "slower"):
            lines.append(f"A/A control failed, the baseline against itself is {units.speedup(control)}")
        for line in lines:
            axes = _named(results, event)
            said.setdefault((repr(axes), line), (axes, []))[1].append(f"`{event['variant']}`")
    found: dict[tuple[str, str], list[Axes]] = {}
    for (_, line), (axes, variants) in said.items():
        found.setdefault((", ".join(variants), line), []).append(axes)
    for (names, line), cases in found.items():
        yield f"{names} {where(cases, len(results.cases))}: {line}"


def _launch_bound(results: Results) -> Iterator[str]:
    """Say of each variant where the host needs much longer than the device, with the times of the worst case."""
    found: dict[str, list[Event]] = {}
    for event in results.measurements:
        if event["status"] in MEASURED and event.get("launch_bound") and "wall" in (event.get("also") or {}):
            found.setdefault(str(event["variant"]), []).append(event)
    for variant, events in found.items():
        rows = [flat(event) for event in events]
        worst = max(rows, key=lambda row: row["latency_wall_ms"] / row["latency_ms"])
        host, device = units.latency(worst["latency_wall_ms"]), units.latency(worst["latency_ms"])
        at = where([_named(results, event) for event in events], _planned(results, variant))
        worst_of = "at worst, " if len(events) > 1 else ""
        yield f"`{variant}` is **launch bound** {at}: {worst_of}the host needs {host} for {device} of device work"


def _named(results: Results, event: Event) -> Axes:
    """Return the axes that name the case of a measurement, x last."""
    axes = labels(event["case"], results.settings)
    return {axis: axes[axis] for axis in sorted(axes, key=lambda axis: axis == event["x"])}


def _planned(results: Results, variant: str) -> int:
    return sum(variant in results.planned(axes) for axes, _ in results.cases)
