"""The roofline with every GPU: a panel per dtype, each GPU's roofs and measurements in its colour."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullLocator

from runner.merged import canvas
from runner.merged.facts import Cell, Run
from runner.report.drawing import GREY, INK, SMALL_INK, colour, frame, key, marker
from runner.results import MEASURED
from runner.spec import GpuSpec
from runner.units import digits

MAX_POINTS = 500
"""Of one colour in one panel; of more, every second, third, ... is drawn."""


@dataclass(frozen=True)
class Roof:
    """One GPU's roofs for a dtype: TFLOPS for each operation a byte, and the highest there are (None: not on the datasheet)."""

    slope: float
    peak: float | None


@dataclass(frozen=True)
class Panel:
    """One dtype: arithmetic intensity (operations per byte) and TFLOPS of each point by colour, and the roofs by GPU."""

    dtype: str
    points: Mapping[str, Sequence[tuple[float, float, bool]]]
    roofs: Mapping[str, Roof]


def datasheets(runs: Iterable[Run]) -> dict[str, GpuSpec]:
    """Return the datasheet of each device name that has one."""
    found: dict[str, GpuSpec] = {}
    for run in runs:
        if run.datasheet is not None:
            found.setdefault(run.name, run.datasheet)
    return found


def panels(cells: Sequence[Cell], specs: Mapping[str, GpuSpec]) -> list[Panel]:
    """Return a panel for each dtype with rates on a GPU with a datasheet; none where there is no such GPU."""
    drawn = [
        one for one in cells
        if one.latest and one.status in MEASURED and one.tflops and one.ops and one.bytes and one.device in specs
    ]  # fmt: skip
    several = len({one.device for one in cells}) > 1
    found = []
    for dtype in dict.fromkeys(one.dtype for one in drawn):
        points: dict[str, list[tuple[float, float, bool]]] = {}
        for one in drawn:
            if one.dtype == dtype and one.ops and one.bytes and one.tflops:
                name = one.device if several else one.variant
                points.setdefault(name, []).append((one.ops / one.bytes, one.tflops, one.status == "ok"))
        roofs = {
            device: Roof(specs[device].bandwidth_gbps * 1e-3, specs[device].peak_tflops.get(dtype))
            for device in dict.fromkeys(one.device for one in drawn if one.dtype == dtype)
        }
        found.append(Panel(dtype, points, roofs))
    return found


def draw(shown: Sequence[Panel], title: str, about: str, places: dict[str, int]) -> Figure:
    """Draw the panels; `places` give GPUs, or the variants of the only one, their colours."""
    names = sorted({name for panel in shown for name in panel.points}, key=places.__getitem__)
    intensities = [x for panel in shown for points in panel.points.values() for x, _, _ in points]
    knees = [roof.peak / roof.slope for panel in shown for roof in panel.roofs.values() if roof.peak]
    low, high = min([*intensities, *knees]) / 3, max([*intensities, *knees]) * 6
    integers = any(panel.dtype.startswith("int") for panel in shown)
    paint = partial(_panel, low=low, high=high, places=places, integers=integers)
    made, every = canvas.multiples(shown, title, about, names, paint, lambda panel: panel.dtype)
    bottom = min(y for panel in shown for points in panel.points.values() for _, y, _ in points)
    peaks = [roof.peak for panel in shown for roof in panel.roofs.values() if roof.peak]
    every[0].set_ylim(bottom / 2, max([*peaks, *(y for panel in shown for one in panel.points.values() for _, y, _ in one)]) * 2)
    for axes, panel in zip(every, shown, strict=True):
        _annotate(axes, panel, high, places)
    key(made, names, places)
    return made


def _panel(axes: Axes, panel: Panel, low: float, high: float, places: Mapping[str, int], integers: bool) -> None:
    for device, roof in panel.roofs.items():
        shade = colour(places[device]) if device in places else GREY
        knee = roof.peak / roof.slope if roof.peak else high
        axes.plot([low, knee], [low * roof.slope, knee * roof.slope], color=shade, linewidth=1.2, alpha=0.8, zorder=1)
        if roof.peak:
            axes.plot([knee, high], [roof.peak, roof.peak], color=shade, linewidth=1.2, alpha=0.8, zorder=1)
    for name, points in panel.points.items():
        shade, step = colour(places[name]), math.ceil(len(points) / MAX_POINTS)
        for ok in (True, False):
            chosen = [(x, y) for x, y, fine in points[::step] if fine is ok]
            if chosen:
                xs, ys = zip(*chosen, strict=True)
                axes.scatter(
                    xs, ys, s=20, marker=marker(places[name]), zorder=3, linewidths=1,
                    facecolors=shade if ok else "white", edgecolors=shade,
                )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity (operations per byte)", fontsize=9, color=INK)
    axes.set_ylabel("TFLOPS (int8: TOPS)" if integers else "TFLOPS", fontsize=9, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    frame(axes)


def _annotate(axes: Axes, panel: Panel, high: float, places: Mapping[str, int]) -> None:
    """Write the peaks above their lines, where they are far enough apart for that."""
    bottom, top = axes.get_ylim()
    last = 0.0
    for device, roof in sorted(panel.roofs.items(), key=lambda one: one[1].peak or 0):
        if roof.peak and (not last or math.log(roof.peak / last) > 0.07 * math.log(top / bottom)):
            last = roof.peak
            axes.annotate(
                digits(roof.peak), (high, roof.peak), xytext=(-2, 2), textcoords="offset points", ha="right", fontsize=7.5,
                color=colour(places[device]) if device in places else SMALL_INK,
            )  # fmt: skip
