"""How a picture over several runs is laid out: small multiples with one scale, a title, a line below it, one legend.

Colours, margins and type are those of `runner.report.drawing`; what is drawn is in curves and roofline.
"""

import math
from collections.abc import Callable, Sequence
from typing import TypeVar

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from runner.report.drawing import INK, SMALL_INK, grid, panel_size

TITLE_LETTER, ABOUT_LETTER, PANEL_LETTER, TICK_LETTER = 0.1, 0.062, 0.071, 0.068
"""Inches that a letter takes, by the size that each of these has."""

P = TypeVar("P")


def multiples(
    panels: Sequence[P],
    title: str,
    about: str,
    names: Sequence[str],
    draw: Callable[[Axes, P], None],
    caption: Callable[[P], str],
) -> tuple[Figure, list[Axes]]:
    """Lay panels out beside each other, each drawn by `draw` and named by `caption`; `names` will be in the legend.

    All share one scale, so only the outer ones are labelled.
    """
    room = panel_size(len(panels))[0] / PANEL_LETTER
    made, every = grid(panels, names, draw, lambda panel: _cut(caption(panel), room))
    _head(made, title, about)
    return made, every


def label_y(axes: Axes) -> None:
    """Put enough ticks on a logarithmic y-axis: within two decades it would have one or two."""
    low, high = axes.get_ylim()
    if high / low >= 100:
        return
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [factor * 10.0**power for power in decades for factor in factors if low <= factor * 10.0**power <= high]
        if len(ticks) > 2:
            break
    if len(ticks) < 2:
        ticks = [float(f"{low * (high / low) ** part:.2g}") for part in (0.15, 0.5, 0.85)]
    axes.yaxis.set_major_locator(FixedLocator(ticks))


def _head(made: Figure, title: str, about: str) -> None:
    """Write the title, and below it in small what the picture is of: beside each other, long ones would meet."""
    width, height = made.get_size_inches()
    room = width - 0.3
    made.text(
        0.12 / width, 1 - 0.1 / height, _cut(title, room / TITLE_LETTER), fontsize=11, color=INK, va="top", fontweight="bold"
    )
    made.text(0.12 / width, 1 - 0.32 / height, _cut(about, room / ABOUT_LETTER), fontsize=7.5, color=SMALL_INK, va="top")


def _cut(text: str, most: float) -> str:
    """Shorten a line to a number of letters, with an ellipsis where something is lost."""
    return text if len(text) <= most else text[: int(most) - 1].rstrip(" ,") + "\u2026"
