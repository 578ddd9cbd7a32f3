"""The pictures of a merge: latency, speed-up, performance per dollar and per joule against x, the roofline; with every GPU."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from runner.cost import usd
from runner.merged import curves, panels, prices, roofline
from runner.merged.curves import Style
from runner.merged.facts import Cell, Drawn, Read, Run, machines
from runner.merged.panels import MAX_PANELS, Panel, Quantity, Reading
from runner.merged.studies import Study, drawable
from runner.merged.union import Union
from runner.report.drawing import save
from runner.report.shares import CLOCKS
from runner.units import listed, several

MAX_X = 3
"""How many x-axes of a study are drawn."""

KINDS = ("latency", "speedup", "per_dollar", "per_joule", "roofline")
MAX_PRICES = 4


Made = tuple[str, str, str, Figure]
"""A picture's name, title, caption and figure."""


def write(folder: Path, studies: Sequence[Study], read: Read, unions: Sequence[Union]) -> list[Drawn]:
    """Draw what there is data for into `folder`, and remove what an earlier merge drew there. Raises OSError."""
    for path in folder.glob("*.png"):
        if path.name.startswith(KINDS):
            path.unlink()
    drawn: list[Drawn] = []
    for study in drawable(studies):
        for name, title, caption, figure in _of(study, read, unions):
            stem = re.sub(r"[^a-zA-Z0-9.-]+", "_", name).strip("_")
            while (path := folder / f"{stem}.png") in {one.path for one in drawn}:
                stem += "_"  # names that differ in nothing that a file's name can have
            drawn.append(Drawn(save(figure, path), study.label, title, caption))
    return drawn


def _of(study: Study, read: Read, unions: Sequence[Union]) -> Iterator[Made]:
    """Yield every picture of a study."""
    cells = sorted(study.cells, key=lambda cell: (cell.variant not in study.comparable, study.variants[cell.variant]))
    clock = CLOCKS.get(study.timing, study.timing)
    confidence = f"{100 * study.runs[0].confidence:g}%"

    found = panels.readings(cells, lambda cell: (cell.latency_ms or 0.0, cell.latency_low_ms, cell.latency_high_ms))
    said = f"{clock}, and its {confidence} interval; hollow points are noisy"
    yield from _curves(study, "latency", found, Style("latency", "time"), said)

    ratios, over = _speedups(study, cells, unions)
    style = Style("speed-up", "ratio", 1.0, f"as fast as {over}" if study.baseline else "as fast")
    said = f"over {over} in rounds in which both took turns on one machine, and its {confidence} interval"
    yield from _curves(study, "speedup", ratios, style, said)

    counted = _equal_work(cells)
    if len(study.devices) > 1:  # with one price it would be the latency upside down
        style, quantity = _per_dollar(read.runs, counted)
        said = f"one call after the other; {_priced(study)}"
        yield from _curves(study, "per_dollar", panels.readings(cells, quantity), style, said)

    style, quantity = _per_joule(counted)
    said = "by the GPU's energy counter, idle power included"
    yield from _curves(study, "per_joule", panels.readings(cells, quantity), style, said)

    shown = roofline.panels(cells, roofline.datasheets(study.runs))
    if shown:
        places = study.devices if len(study.devices) > 1 else study.variants
        most = sorted(shown, key=lambda panel: -sum(map(len, panel.points.values())))[:MAX_PANELS]
        shown = [panel for panel in shown if any(panel is one for one in most)]
        title = f"{study.label}: roofline by dtype"
        said = "measured rates under the roofs of each GPU's datasheet"
        yield f"roofline_{study.label}", title, said, roofline.draw(shown, title, _about(study), places)


def _curves(study: Study, kind: str, found: Sequence[Reading], style: Style, said: str) -> Iterator[Made]:
    by_x = panels.build(found, study.settings)
    several_gpus = len({one.device for one in found}) > 1
    names = {name: place for place, name in enumerate(dict.fromkeys(one.variant for one in found))}
    places = study.devices if several_gpus else study.variants if set(names) <= set(study.variants) else names
    for x, every in list(by_x.items())[:MAX_X]:
        shown = panels.select(every, study.comparable)
        chosen = replace(style, places=places, unit=study.units.get(x, ""))
        fixed = study.fixed(one.case for panel in shown for curve in panel.curves.values() for one in curve)
        about = _about(study, {axis: value for axis, value in fixed.items() if axis != x})
        about += _left_out(shown, every)
        what = {"latency": "latency", "speedup": "speed-up"}.get(kind, style.label)
        title = f"{study.label}: {what} against {x}"
        yield f"{kind}_{study.label}" + (f"_{x}" if len(by_x) > 1 else ""), title, said, curves.draw(shown, title, about, chosen)


def _speedups(study: Study, cells: Sequence[Cell], unions: Sequence[Union]) -> tuple[list[Reading], str]:
    """Return the speed-ups over the baseline; where a workload has none, those that its thresholds are about."""
    if study.baseline:
        whole = [cell for cell in cells if cell.variant in study.comparable]
        return panels.readings(whole, lambda cell: (cell.speedup or 0.0, cell.speedup_low, cell.speedup_high)), study.baseline
    found: dict[str, Reading] = {}
    for union in unions:
        if union.runs[0].study is not study.runs[0].study:
            continue
        for evidence in union.evidence:
            name = f"{evidence.spec.candidate} over {evidence.spec.baseline}"
            for row in evidence.rows:
                if row.speedup is not None:
                    case = {**evidence.scope, **row.held, evidence.spec.axis: row.x}
                    ok = row.verdict != "noisy"
                    speedup = (row.speedup.value, row.speedup.low, row.speedup.high)
                    reading = Reading(union.device, name, case, evidence.spec.axis, *speedup, ok)
                    found[f"{union.device}/{name}/{sorted(case.items())!r}"] = reading
    return list(found.values()), "what each threshold compares with"


def _equal_work(cells: Sequence[Cell]) -> bool:
    """Whether all variants of each case do the same number of operations: only then do operations tell which is better."""
    counts: dict[int, set[float | None]] = {}
    for cell in cells:
        if cell.latency_ms is not None:
            counts.setdefault(id(cell.case), set()).add(cell.ops)
    return bool(counts) and all(len(found) == 1 and all(found) for found in counts.values())


def _per_dollar(runs: Sequence[Run], counted: bool) -> tuple[Style, Quantity]:
    def operations(cell: Cell) -> tuple[float, None, None] | None:
        rate = prices.tflops_per_usd_hour(cell.tflops, runs[cell.run].price)
        return None if rate is None else (3.6 * rate, None, None)

    def calls(cell: Cell) -> tuple[float, None, None] | None:
        cost = prices.usd_per_million_calls(cell.latency_ms, runs[cell.run].price)
        return (1 / cost, None, None) if cost else None

    return (Style("10^15 operations per US$"), operations) if counted else (Style("million calls per US$"), calls)


def _per_joule(counted: bool) -> tuple[Style, Quantity]:
    def operations(cell: Cell) -> tuple[float, None, None] | None:
        rate = prices.gflops_per_watt(cell.ops, cell.energy_mj)
        return None if rate is None else (rate, None, None)

    def calls(cell: Cell) -> tuple[float, None, None] | None:
        return (1e3 / cell.energy_mj, None, None) if cell.energy_mj else None

    return (Style("10^9 operations per joule"), operations) if counted else (Style("calls per joule"), calls)


def _priced(study: Study) -> str:
    """Say what prices were taken."""
    known = dict.fromkeys(
        f"{run.name} at {usd(run.price.usd_per_hour)}/h ({run.price.source})" for run in study.runs if run.price
    )
    more = len(known) - MAX_PRICES
    return ", ".join(list(known)[:MAX_PRICES]) + (f" and {more} more" if more > 0 else "")


def _about(study: Study, fixed: dict[str, object] | None = None) -> str:
    """Say what a picture is of: GPUs, runs, and what has one value in it."""
    gpus = next(iter(study.devices)) if len(study.devices) == 1 else machines(study.runs, len(study.devices))
    return f"{gpus}, {several(len(study.runs), 'run')}" + (f"; {listed(fixed)}" if fixed else "")


def _left_out(shown: Sequence[Panel], every: Sequence[Panel]) -> str:
    return "" if len(shown) == len(every) else f"; {len(shown)} of {len(every)} panels, comparison.csv has the rest"
