"""How every picture of a run looks: colours, margins, small multiples, title and legend. What is drawn is in plots and bars.

Figures are built without pyplot (no global state, no display needed).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from runner.results import Results, plain

# Okabe and Ito's palette: told apart by every common kind of colour blindness; markers tell them apart in grey as well.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C6D00")
MARKERS = "osD^vPX*"
GREY, INK, SMALL_INK = "#8a8f98", "#2b2f36", "#5b616b"
DPI = 100
MAX_PANELS = 9
LEFT, RIGHT, BOTTOM, TOP = 0.85, 0.2, 0.95, 0.7
LEGEND_ROW, LEGEND_HANDLE, LEGEND_LETTER = 0.21, 0.55, 0.083
"""Inches: what a row of the legend takes, and what an entry does beside its name and per letter of it."""


class Panel(Protocol):
    """One series of a run: its x-axis, and the values of the other axes that name it."""

    @property
    def x(self) -> str:
        """The name of the x-axis."""

    @property
    def series(self) -> Mapping[str, Any]:
        """Axis -> value."""


P = TypeVar("P", bound=Panel)
Q = TypeVar("Q")


def colour(index: int) -> str:
    """Return the colour of the variant at this place."""
    return COLOURS[index % len(COLOURS)]


def marker(index: int) -> str:
    """Return its marker: where colours begin again, markers don't."""
    return MARKERS[(index + index // len(COLOURS)) % len(MARKERS)]


def line(index: int) -> Literal["-", "--"]:
    """Return its line style: solid, and dashed from where colours begin again."""
    return "--" if index >= len(COLOURS) else "-"


def places(results: Results) -> dict[str, int]:
    """Return the place of every variant, which gives it the same colour in all pictures of a run."""
    names = [*(results.job.get("variants") or []), *(str(event["variant"]) for event in results.measurements)]
    return {variant: index for index, variant in enumerate(dict.fromkeys(names))}


def multiples(
    shown: Sequence[P], results: Results, title: str, names: Sequence[str], draw: Callable[[Axes, P], None]
) -> tuple[Figure, list[Axes]]:
    """Lay panels out as small multiples; their number is bounded, the CSV has the rest. `names` will be in the legend."""
    left_out = len(shown) - MAX_PANELS

    def with_x(axes: Axes, panel: P) -> None:
        draw(axes, panel)
        unit = results.unit(panel.x)
        axes.set_xlabel(f"{panel.x} ({unit})" if unit else panel.x, fontsize=9, color=INK)

    made, every = grid(shown[:MAX_PANELS], names, with_x, lambda panel: plain(panel.series))
    head(made, results, title + (f" (first {MAX_PANELS} of {MAX_PANELS + left_out} series)" if left_out > 0 else ""))
    return made, every


def panel_size(count: int) -> tuple[float, float]:
    """Return the inches, width and height, of each of `count` panels."""
    return (7.0, 3.6) if count == 1 else (3.4, 2.5)


def grid(
    panels: Sequence[Q], names: Sequence[str], draw: Callable[[Axes, Q], None], caption: Callable[[Q], str]
) -> tuple[Figure, list[Axes]]:
    """Lay panels out beside each other, each drawn by `draw` and named by `caption`; `names` will be in the legend.

    One scale for all: panels are there to be compared, and only the outer ones need labels.
    """
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = math.ceil(len(panels) / columns)
    width, height = panel_size(len(panels))
    made = figure(width * columns, height * rows, names)
    made.subplots_adjust(wspace=0.07, hspace=0.32 if rows > 1 else 0)
    every: list[Axes] = []
    for index, panel in enumerate(panels):
        axes = made.add_subplot(rows, columns, index + 1, sharey=every[0] if every else None)
        every.append(axes)
        draw(axes, panel)
        if index % columns:
            axes.tick_params(left=False, labelleft=False)
            axes.set_ylabel("")
        if index + columns < len(panels):
            axes.set_xlabel("")
        if text := caption(panel):
            axes.set_title(text, fontsize=8.5, color=INK, loc="left", pad=4)
    return made, every


def key(made: Figure, names: Sequence[str], places: Mapping[str, int]) -> None:
    """Write the legend of curves; `places` say which colour, marker and line each name has."""
    at = [(name, places[name]) for name in names]
    legend(
        made,
        [
            Line2D([], [], color=colour(place), linestyle=line(place), marker=marker(place), markersize=5, label=name)
            for name, place in at
        ],
    )


def figure(width: float, height: float, names: Sequence[str]) -> Figure:
    """Return a figure with `width` x `height` inches for its panels, and margins for title, labels and a legend of `names`.

    The margins are fixed: a layout engine would measure every label twice, which takes longer than drawing.
    """
    bottom = BOTTOM + LEGEND_ROW * (math.ceil(len(names) / legend_columns(names, LEFT + width + RIGHT)) - 1)
    total_width, total_height = LEFT + width + RIGHT, bottom + height + TOP
    made = Figure(figsize=(total_width, total_height), dpi=DPI)
    made.subplots_adjust(LEFT / total_width, bottom / total_height, 1 - RIGHT / total_width, 1 - TOP / total_height)
    return made


def legend_columns(names: Sequence[str], width: float) -> int:
    """Return how many entries fit beside each other into `width` inches; the rows of a legend are kept equally long."""
    longest = max((len(name) for name in names), default=0)
    fit = max(1, int(width / (LEGEND_HANDLE + LEGEND_LETTER * longest)))
    rows = max(1, math.ceil(len(names) / fit))
    return max(1, math.ceil(len(names) / rows))


def frame(axes: Axes) -> None:
    """Draw the axes: a light grid behind, no box."""
    axes.grid(True, which="major", color="#e3e6ea", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8, colors=INK, length=3)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color("#b8bdc5")


def head(figure: Figure, results: Results, title: str) -> None:
    """Write the title, and on the right the device, torch and the job."""
    width, height = figure.get_size_inches()
    figure.text(
        0.12 / width, 1 - 0.12 / height, f"{results.workload}: {title}", fontsize=11, color=INK, va="top", fontweight="bold"
    )
    about = f"{results.device.get('name')}   torch {results.software.get('torch')}   job {results.job_hash[:12]}"
    figure.text(1 - 0.2 / width, 1 - 0.16 / height, about, fontsize=7.5, color=SMALL_INK, ha="right", va="top")


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Put one legend below all panels."""
    width, height = figure.get_size_inches()
    columns = legend_columns([str(handle.get_label()) for handle in handles], width)
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, 0.06 / height), ncols=columns, frameon=False, fontsize=9,
        columnspacing=1.6, borderaxespad=0.2,
    )  # fmt: skip


def save(figure: Figure, path: Path) -> Path:
    """Draw once and write the pixels; `Figure.savefig` would draw everything twice."""
    path.parent.mkdir(parents=True, exist_ok=True)
    canvas: Any = FigureCanvasAgg(figure)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(path, compress_level=2)
    return path
