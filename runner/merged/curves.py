"""Draws curves against x, a colour per GPU or variant: intervals as bands, noisy points hollow.

Where x has no order, or one value, there are points without a line.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from runner.merged import canvas
from runner.merged.panels import Panel, is_numeric
from runner.report.drawing import INK, SMALL_INK, colour, frame, key, line, marker, panel_size
from runner.units import digits, latency

MAX_MARKED = 64
"""Values of x up to which each point of a curve is marked; beyond, only noisy ones are."""

SPREAD = 0.7
"""The part of a name's place on x over which the points of its curves lie side by side."""

MAX_TICK_LINES, LEAST_LETTERS = 3, 6


@dataclass(frozen=True)
class Style:
    """How a quantity is labelled: the y-axis, its ticks (`ratio`, `time` or `number`), a line that parts better from worse."""

    label: str
    ticks: str = "number"
    level: float | None = None
    level_label: str = ""
    unit: str = ""
    places: dict[str, int] = field(default_factory=dict)


def draw(panels: Sequence[Panel], title: str, about: str, style: Style) -> Figure:
    """Draw some panels of one x-axis; `style.places` gives every name its colour."""
    names = sorted({name for panel in panels for name in panel.curves}, key=style.places.__getitem__)
    numeric = is_numeric(panels)
    values = _values(panels)
    paint = partial(_lines if numeric else _points, style=style, values=values, width=panel_size(len(panels))[0])
    made, every = canvas.multiples(panels, title, about, names, paint, lambda panel: panel.title)
    for axes in every:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(partial(_tick, ticks=style.ticks)))
        if style.level is not None:
            axes.axhline(style.level, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
    if style.level is not None:
        low, high = every[0].get_ylim()
        every[0].set_ylim(min(low, style.level * 0.9), max(high, style.level * 1.1))
        every[0].annotate(
            style.level_label, (1, style.level), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points",
            ha="right", fontsize=7.5, color=SMALL_INK,
        )  # fmt: skip
    canvas.label_y(every[0])
    key(made, names, style.places)
    return made


def _lines(axes: Axes, panel: Panel, style: Style, values: list[Any], width: float) -> None:
    for name, readings in panel.curves.items():
        place = style.places[name]
        xs, ys = [one.case[panel.x] for one in readings], [one.value for one in readings]
        lows = [one.low for one in readings if one.low is not None]
        highs = [one.high for one in readings if one.high is not None]
        if len(lows) == len(highs) == len(readings):
            axes.fill_between(xs, lows, highs, color=colour(place), alpha=0.2, linewidth=0, zorder=2)
        axes.plot(xs, ys, line(place), color=colour(place), linewidth=1.5, zorder=3)
        for ok in (True, False):
            chosen = [(x, y) for x, y, one in zip(xs, ys, readings, strict=True) if one.ok is ok]
            if chosen and (len(values) <= MAX_MARKED or not ok):
                axes.plot(
                    *zip(*chosen, strict=True), linestyle="none", marker=marker(place), markersize=4.5, zorder=4,
                    color=colour(place), markerfacecolor=colour(place) if ok else "white",
                )  # fmt: skip
    axes.set_xscale("log", base=2)
    axes.set_xlim(values[0] / _margin(values), values[-1] * _margin(values))
    texts = [_number(value) for value in values]
    axes.xaxis.set_major_locator(FixedLocator(_spread(values, texts, width)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
    _label(axes, panel, style)


def _points(axes: Axes, panel: Panel, style: Style, values: list[Any], width: float) -> None:
    """Draw points with their intervals, those of one x side by side: there is no line from one name to the next."""
    step = SPREAD / max(1, len(style.places))
    for name, readings in panel.curves.items():
        place = style.places[name]
        beside = (place - (len(style.places) - 1) / 2) * step
        for one in readings:
            at = values.index(one.case.get(panel.x)) + beside
            ends = None if one.low is None or one.high is None else ([one.value - one.low], [one.high - one.value])
            axes.errorbar(
                at, one.value, ends, fmt=marker(place), color=colour(place), markersize=5, elinewidth=1.2, capsize=2, zorder=3,
                markerfacecolor=colour(place) if one.ok else "white",
            )  # fmt: skip
    texts = [f"{value}" for value in values]
    shown = range(0, len(values), math.ceil(len(values) * LEAST_LETTERS * canvas.TICK_LETTER / width))
    room = max(LEAST_LETTERS, int(width / len(shown) / canvas.TICK_LETTER) - 1)
    labels = [_wrapped(texts[place], room) for place in shown]
    axes.set_xlim(-0.5, len(values) - 0.5)
    axes.set_xticks(shown, labels)
    _label(axes, panel, style)
    if any("\n" in label for label in labels):
        axes.set_xlabel("")  # the title says it as well, and lines of names need its room
    axes.grid(False, axis="x")


def _label(axes: Axes, panel: Panel, style: Style) -> None:
    frame(axes)
    axes.set_xlabel(f"{panel.x} ({style.unit})" if style.unit else panel.x, fontsize=9, color=INK)
    axes.set_ylabel(style.label, fontsize=9, color=INK)


def _values(panels: Sequence[Panel]) -> list[Any]:
    """Return the values of x, numbers in their order, names in the order in which they came."""
    values = dict.fromkeys(one.case.get(panel.x) for panel in panels for curve in panel.curves.values() for one in curve)
    return sorted(values) if is_numeric(panels) else list(values)


def _tick(value: float, _: int, ticks: str) -> str:
    if ticks == "time":
        number, unit = latency(value).split()
        return f"{float(number):g} {unit}"
    number = _number(float(f"{value:.3g}"))
    return f"{number}x" if ticks == "ratio" else number


def _number(value: float) -> str:
    return f"{round(value, 6):g}" if value < 1e6 else digits(value)


def _margin(values: Sequence[float]) -> float:
    """Return by how much of itself x goes on beyond its ends: a twentieth of the axis."""
    return float((values[-1] / values[0]) ** 0.05)


def _spread(values: Sequence[float], texts: Sequence[str], width: float) -> list[float]:
    """Return the ticks that have room beside each other: from the last one down, as many as don't overlap."""
    low, high = math.log(values[0]), math.log(values[-1])
    kept: list[tuple[float, float]] = []  # where each label begins, and its value
    for value, text in zip(reversed(values), reversed(texts), strict=True):
        at = width * 0.9 * (math.log(value) - low) / (high - low)
        half = (len(text) + 1) * canvas.TICK_LETTER / 2
        if not kept or at + half <= kept[-1][0]:
            kept.append((at - half, value))
    return [value for _, value in reversed(kept)]


def _wrapped(text: str, most: int) -> str:
    """Break a name into lines of at most `most` letters, at its underscores where it has some; three of them at most."""
    lines = [""]
    for part in text.replace("_", "_\0").split("\0"):
        if len(lines[-1]) + len(part) <= most:
            lines[-1] += part
        else:
            lines += [part[at : at + most] for at in range(0, len(part), most)] if lines[-1] else [part]
    return "\n".join(lines[:MAX_TICK_LINES])
