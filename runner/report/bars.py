"""The pictures of what a whole is made of: the shares of its stages stacked against x, one panel per series."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FuncFormatter, NullLocator

from runner import composition
from runner.composition import Composition, Row
from runner.report.drawing import INK, SMALL_INK, colour, frame, legend, multiples, places, save
from runner.results import Results, labels
from runner.units import digits

WIDTH = 0.72
ROOM_FOR_TEXT = 0.055
"""How high a segment must be, as part of the axis, for its number to fit in."""

LIGHT = ("#E69F00", "#56B4E9", "#CC79A7")
"""Colours of the palette that dark text is read better on."""


@dataclass(frozen=True)
class Panel:
    """One series: its cases in the run's order, each with the share of every stage."""

    x: str
    series: Mapping[str, Any]
    rows: list[Row]


def panels(one: Composition, results: Results) -> list[Panel]:
    """Return the series of a composition that have a case in which every stage has a share."""
    found: dict[str, Panel] = {}
    for row in composition.rows(one, results):
        series = {axis: value for axis, value in labels(row.axes, results.settings).items() if axis != row.x}
        found.setdefault(f"{row.x}/{series!r}", Panel(row.x, series, [])).rows.append(row)
    return [panel for panel in found.values() if any(row.total.interval for row in panel.rows)]


def write(folder: Path, results: Results) -> list[Path]:
    """Draw `shares_WHOLE*.png` of every composition into `folder`; return those that there is data for."""
    written = []
    for one in composition.declared(results.job):
        every, own = panels(one, results), shades(one, results)
        for x in dict.fromkeys(panel.x for panel in every):
            of_x = [panel for panel in every if panel.x == x]
            suffix = f"_{x}" if len({panel.x for panel in every}) > 1 else ""
            totals = [row.total.interval for panel in of_x for row in panel.rows if row.total.interval]
            top = 1.12 * max(
                1.0, *(min(total.high, 1.3 * total.value) for total in totals)
            )  # a wide interval may leave the picture
            draw = partial(_stack, one=one, shades=own, top=top)
            figure, _ = multiples(of_x, results, f"stages of {one.whole} against {x}", one.stages, draw)
            legend(figure, [Patch(color=own[stage], label=stage) for stage in one.stages])
            written.append(save(figure, folder / f"shares_{one.whole}{suffix}.png"))
    return written


def shades(one: Composition, results: Results) -> dict[str, str]:
    """Return the colour of each stage: the one it has in the other pictures, unless two of them share one there."""
    place = places(results)
    found = {stage: colour(place[stage]) for stage in one.stages}
    if len(set(found.values())) < len(found):
        found = {stage: colour(index) for index, stage in enumerate(one.stages)}
    return found


def _stack(axes: Axes, panel: Panel, one: Composition, shades: Mapping[str, str], top: float) -> None:
    """Draw a bar per case, the stages from below in their declared order; shares with a noisy time in them are pale.

    Where not every stage has a share, less would be taken for the whole: a word says what is missing.
    """
    for place, row in enumerate(panel.rows):
        if row.total.interval is None:
            axes.text(place, 0.02 * top, _missing(row, one), rotation=90, ha="center", va="bottom", fontsize=7.5, color=SMALL_INK)
            continue
        foot = 0.0
        for stage in one.stages:
            share = row.stages[stage]
            if share.interval is None:
                continue
            shade, height = shades[stage], share.interval.value
            axes.bar(
                place,
                height,
                WIDTH,
                foot,
                color=shade,
                alpha=0.45 if share.noisy else 1,
                edgecolor="white",
                linewidth=0.8,
                zorder=2,
            )
            if height > ROOM_FOR_TEXT * top:
                ink = INK if share.noisy or shade in LIGHT else "white"
                axes.text(
                    place, foot + height / 2, f"{100 * height:.0f}", ha="center", va="center", fontsize=7.5, color=ink, zorder=3
                )
            foot += height
        # Shares are medians of their own, so the stack may end a little beside the sum, which is formed round by round.
        total = row.total.interval
        ends = ([total.value - total.low], [total.high - total.value])
        drawn = axes.errorbar(place, total.value, ends, fmt="_", color=INK, markersize=9, elinewidth=1.1, capsize=3, zorder=4)
        for artist in drawn.get_children():
            artist.set_path_effects([withStroke(linewidth=2.4, foreground="white")])
    axes.axhline(1, color=INK, linestyle=(0, (4, 3)), linewidth=1, zorder=3)
    axes.annotate(
        one.whole, (1, 1), xycoords=("axes fraction", "data"), xytext=(-2, 2), textcoords="offset points", ha="right",
        fontsize=8, color=SMALL_INK,
    )  # fmt: skip
    frame(axes)
    axes.grid(False, axis="x")
    axes.set_ylim(0, top)
    axes.set_xlim(-0.6, len(panel.rows) - 0.4)
    step = -(-len(panel.rows) // 9)
    shown = list(range(len(panel.rows)))[::-step][::-1]
    axes.set_xticks(shown, [_tick(panel.rows[index].axes[panel.x]) for index in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_ylabel(f"share of {one.whole}'s time", fontsize=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:.0f}%"))


def _missing(row: Row, one: Composition) -> str:
    """Say what keeps a case from having a bar."""
    if row.whole.interval is None:
        return f"{one.whole}: {row.whole.why}"
    return next((f"{stage}: {share.why}" for stage, share in row.stages.items() if share.why), "no sum")


def _tick(value: Any) -> str:
    return digits(value) if isinstance(value, int | float) and value >= 1e6 else f"{value}"
