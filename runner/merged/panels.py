"""What goes into which picture: readings by x-axis, in panels of curves, and which panels are shown where there are many."""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from runner.merged.facts import Case, Cell
from runner.merged.names import SHOWN
from runner.results import MEASURED, plain
from runner.thresholds.evidence import is_number

MAX_PANELS = 9


@dataclass(frozen=True, slots=True)
class Reading:
    """One value to draw, of a variant on a case and a GPU, with its interval where it has one; `ok` is False for a noisy one."""

    device: str
    variant: str
    case: Case
    x: str
    value: float
    low: float | None
    high: float | None
    ok: bool


@dataclass(frozen=True)
class Panel:
    """One set of axes: `variant` is whose curves these are where colours stand for GPUs.

    `series` are the axes but for x that have several values in a study, `named` those of them that tell the series apart.
    `curves` maps what the colours stand for to readings, by rising x.
    """

    x: str
    series: dict[str, Any]
    named: dict[str, Any]
    variant: str | None
    curves: dict[str, list[Reading]] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """What stands above it, "" where nothing is to be told apart."""
        return ", ".join(part for part in (self.variant or "", plain(self.named)) if part)

    @property
    def points(self) -> int:
        """How many points it has."""
        return sum(map(len, self.curves.values()))


Quantity = Callable[[Cell], tuple[float, float | None, float | None] | None]
"""What to draw of a measurement: a value and its interval, or nothing."""


def readings(cells: Iterable[Cell], quantity: Quantity) -> list[Reading]:
    """Return what a quantity makes of the measurements that stand and have a time."""
    found = []
    for cell in cells:
        numbers = quantity(cell) if cell.latest and cell.status in MEASURED else None
        if numbers is not None and numbers[0] > 0:
            found.append(Reading(cell.device, cell.variant, cell.case, cell.x, *numbers, cell.status == "ok"))
    return found


def build(found: Sequence[Reading], settings: Collection[str] = ()) -> dict[str, list[Panel]]:
    """Return the panels of every x-axis, in the order of the readings; `settings` are axes that need no name if others tell.

    Colours stand for GPUs where there are several, and each variant has panels of its own; else they stand for variants.
    """
    several = len({one.device for one in found}) > 1
    kinds: dict[tuple[str, tuple[str, ...]], list[Reading]] = {}
    for one in found:
        kinds.setdefault((one.x, tuple(sorted(one.case))), []).append(one)
    panels: dict[tuple[str, str], Panel] = {}
    for (declared, axes), same in kinds.items():
        x = _telling(declared, same)
        varying = [axis for axis in axes if axis != x and len({repr(one.case[axis]) for one in same}) > 1]
        varying.sort(key=list(same[0].case).index)
        named = _naming(varying, same, settings)
        for one in same:
            series = {axis: one.case[axis] for axis in varying}
            variant = one.variant if several else None
            own = Panel(x, series, {axis: series[axis] for axis in named}, variant)
            panel = panels.setdefault((x, f"{axes}{series!r}{variant}"), own)
            panel.curves.setdefault(one.device if several else one.variant, []).append(one)
    by_x: dict[str, list[Panel]] = {}
    for panel in panels.values():
        for curve in panel.curves.values():
            curve.sort(key=lambda one: _place(one.case[panel.x]))
        by_x.setdefault(panel.x, []).append(panel)
    return {x: sorted(same, key=_series_order(same)) for x, same in by_x.items()}


def select(panels: Sequence[Panel], first: Collection[str], most: int = MAX_PANELS) -> list[Panel]:
    """Return at most so many panels, in their order: whole series, those that have most to show.

    Of variants those `first` come before others, in all of the series that there is room for.
    """
    if len(panels) <= most:
        return list(panels)
    main = [panel for panel in panels if panel.variant is None or panel.variant in first] or list(panels)
    series = [list(group) for _, group in groupby(main, key=lambda panel: repr(panel.series))]
    best = sorted(series, key=lambda group: -sum(panel.points for panel in group))
    count = max(1, most // len(best[0]))
    chosen = [panel for group in best[:count] for panel in group]
    chosen += [panel for panel in panels if panel.variant not in first and panel.series == chosen[0].series]
    return [panel for panel in panels if any(panel is one for one in chosen[:most])]


def is_numeric(panels: Iterable[Panel]) -> bool:
    """Whether these panels' x is a line of numbers: more than one of them, all positive."""
    values = {one.case[panel.x] for panel in panels for curve in panel.curves.values() for one in curve}
    return len(values) > 1 and all(is_number(value) and value > 0 for value in values)


def _telling(declared: str, same: Sequence[Reading]) -> str:
    """Return the axis to draw against: the declared one, unless it has one value and another axis has several numbers."""
    if len({repr(one.case.get(declared)) for one in same}) > 1:
        return declared
    numbers = {
        axis: {one.case[axis] for one in same}
        for axis in same[0].case
        if axis != declared and all(is_number(one.case[axis]) and one.case[axis] > 0 for one in same)
    }
    axis = max(numbers, key=lambda axis: len(numbers[axis]), default=declared)
    return axis if axis in numbers and len(numbers[axis]) > 1 else declared


def _naming(varying: Sequence[str], same: Sequence[Reading], settings: Collection[str]) -> list[str]:
    """Leave out settings that others say as well: heads and head dim mostly vary together, and one of them tells the series."""
    named = list(varying)
    cases = list({id(one.case): one.case for one in same}.values())
    series = len({repr([case[axis] for axis in named]) for case in cases})
    for axis in [*(one for one in reversed(varying) if one not in SHOWN), *(one for one in varying if one in SHOWN)]:
        rest = [one for one in named if one != axis]
        if axis in settings and len({repr([case[one] for one in rest]) for case in cases}) == series:
            named = rest
    return named


def _series_order(panels: Sequence[Panel]) -> Callable[[Panel], tuple[int, int]]:
    """Keep the panels of a series together, in the order in which series and variants first came."""
    series = {name: place for place, name in enumerate(dict.fromkeys(repr(panel.series) for panel in panels))}
    variants = {name: place for place, name in enumerate(dict.fromkeys(panel.variant for panel in panels))}
    return lambda panel: (series[repr(panel.series)], variants[panel.variant])


def _place(value: Any) -> tuple[bool, float]:
    return (not is_number(value), value if is_number(value) else 0.0)
