"""The pictures of a run: latency and TFLOPS against x with interval bands and the crossovers marked, and the roofline.

Many series become small multiples of one figure.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from runner.report import drawing
from runner.report.drawing import (
    GREY,
    INK,
    MAX_PANELS,
    SMALL_INK,
    colour,
    frame,
    head,
    key,
    line,
    marker,
    multiples,
    places,
    save,
)
from runner.report.table import flat
from runner.results import MEASURED, Results
from runner.thresholds import Evidence
from runner.units import digits, latency, rate_unit


@dataclass(frozen=True)
class Point:
    """One measurement of a curve: x, the figures of its row, and whether it is evidence (`ok`) or noisy."""

    x: float
    row: Mapping[str, Any]
    ok: bool


@dataclass(frozen=True)
class Panel:
    """One series: the curves of all variants at fixed values of the other axes, of which `series` names all but settings."""

    x: str
    series: Mapping[str, Any]
    curves: Mapping[str, list[Point]]
    dtypes: Mapping[str, str]


def panels(results: Results) -> list[Panel]:
    """Return the series of a run that have a numeric x-axis and at least one timed measurement, in the run's order."""
    found: dict[str, tuple[str, dict[str, Any], dict[str, list[Point]], dict[str, str]]] = {}
    for event in results.measurements:
        x, case = str(event["x"]), event["case"]
        if event["status"] not in MEASURED or not isinstance(case.get(x), int | float) or not case[x] > 0:
            continue
        series = results.series(event)
        _, _, curves, dtypes = found.setdefault(f"{x}/{series!r}", (x, series, {}, {}))
        curves.setdefault(event["variant"], []).append(Point(float(case[x]), flat(event), event["status"] == "ok"))
        dtypes[event["variant"]] = str(event.get("dtype"))
    for _, _, curves, _ in found.values():
        for points in curves.values():
            points.sort(key=lambda point: point.x)
    return [Panel(*parts) for parts in found.values()]


def write(folder: Path, results: Results, evidence: Sequence[Evidence]) -> list[Path]:
    """Draw `latency*.png`, `throughput*.png` and `roofline.png` into `folder`; return those that there is data for."""
    colours = places(results)
    written = []
    every = panels(results)
    for x in dict.fromkeys(panel.x for panel in every):
        of_x = [panel for panel in every if panel.x == x]
        suffix = f"_{x}" if len({panel.x for panel in every}) > 1 else ""
        marks = [found for found in evidence if found.spec.axis == x]
        draw_latency = partial(_latency, colours=colours, evidence=marks)
        written.append(save(_grid(of_x, results, colours, f"latency against {x}", draw_latency), folder / f"latency{suffix}.png"))
        rates = [point.row["throughput_tflops"] for panel in of_x for points in panel.curves.values() for point in points]
        if any(rates):
            unit = rate_unit(max(filter(None, rates)))
            peaks = results.spec.peak_tflops if results.spec else {}
            draw_throughput = partial(_throughput, colours=colours, peaks=peaks, unit=unit)
            throughput = _grid(of_x, results, colours, f"throughput against {x}", draw_throughput)
            written.append(save(throughput, folder / f"throughput{suffix}.png"))
    roofline = _roofline(results, colours)
    if roofline is not None:
        written.append(save(roofline, folder / "roofline.png"))
    return written


def _grid(
    shown: list[Panel], results: Results, colours: Mapping[str, int], title: str, draw: Callable[[Axes, Panel], None]
) -> Figure:
    """Lay the curves of panels out as small multiples with one legend."""
    names = _ordered(colours, (variant for panel in shown[:MAX_PANELS] for variant in panel.curves))
    figure, every = multiples(shown, results, title, names, draw)
    _label_y(every[0])
    key(figure, names, colours)
    return figure


def _latency(axes: Axes, panel: Panel, colours: Mapping[str, int], evidence: Sequence[Evidence]) -> None:
    for variant, points in panel.curves.items():
        _curve(axes, points, colours[variant], "latency_ms", ("latency_low_ms", "latency_high_ms"))
    _style(axes, panel)
    axes.set_ylabel("latency", fontsize=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _trim(latency(value))))
    for found in evidence:
        spec = found.spec
        if found.decision != "enabled" or any(panel.series.get(axis, value) != value for axis, value in spec.where.items()):
            continue
        if spec.candidate not in panel.curves:
            continue
        axes.axvline(found.value, color=colour(colours[spec.candidate]), linestyle=(0, (4, 3)), linewidth=1.1, zorder=1)
        sign = "from" if spec.direction == "from" else "up to"
        over = f" over {spec.baseline}" if not panel.series else ""
        claim = f"{spec.candidate} {spec.margin:g}x{over} "
        # Curves rise to the right, so the upper left is free: the text goes there, to the side of its line that has room.
        low, high = axes.get_xlim()
        right = math.log(found.value / low) > 0.6 * math.log(high / low)
        axes.annotate(
            f"{claim}{sign} {found.value:g}",
            (found.value, 0.97 - 0.07 * len(axes.texts)),
            xycoords=("data", "axes fraction"),
            xytext=(-4 if right else 4, 0),
            textcoords="offset points",
            ha="right" if right else "left",
            va="top",
            fontsize=8,
            color=colour(colours[spec.candidate]),
        )


def _throughput(
    axes: Axes, panel: Panel, colours: Mapping[str, int], peaks: Mapping[str, float | None], unit: tuple[str, float]
) -> None:
    lines: dict[float, list[str]] = {}
    for variant, points in panel.curves.items():
        dtype = panel.dtypes[variant]
        if _curve(axes, points, colours[variant], "throughput_tflops", None) and (peak := peaks.get(dtype)):
            lines.setdefault(peak, []).append(dtype)
    _style(axes, panel)
    for index, (peak, dtypes) in enumerate(sorted(lines.items())):
        axes.axhline(peak, color=GREY, linestyle=(0, (4, 3)), linewidth=1, zorder=1)
        names = " = ".join(dict.fromkeys(dtypes))
        # Neighbouring peaks are a factor of two apart, less than a line of text in a small panel: labels take turns.
        axes.annotate(
            f"{names} peak {digits(peak)}",
            (0.01 + 0.36 * (index % 2), peak),
            xycoords=("axes fraction", "data"),
            xytext=(0, 2),
            textcoords="offset points",
            fontsize=8,
            color=SMALL_INK,
        )
    axes.set_ylabel(unit[0], fontsize=9, color=INK)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value * unit[1], 9):g}"))


def _roofline(results: Results, colours: Mapping[str, int]) -> Figure | None:
    """Arithmetic intensity against TFLOPS under the memory and compute roofs; None without a datasheet or rates."""
    spec = results.spec
    points = [
        (event["variant"], str(event.get("dtype")), row["ops"] / row["bytes"], row["throughput_tflops"], event["status"] == "ok")
        for event in results.measurements
        if event["status"] in MEASURED and (row := flat(event))["throughput_tflops"] and row["ops"] and row["bytes"]
    ]
    if spec is None or not points:
        return None
    names = _ordered(colours, (name for name, *_ in points))
    figure = drawing.figure(7.0, 3.6, names)
    axes = figure.add_subplot()
    roofs: dict[float, list[str]] = {}
    for dtype in dict.fromkeys(dtype for _, dtype, *_ in points):
        if peak := spec.peak_tflops.get(dtype):
            roofs.setdefault(peak, []).append(dtype)
    slope = spec.bandwidth_gbps * 1e-3  # TFLOPS per operation per byte
    intensities = [point[2] for point in points]
    knees = [peak / slope for peak in roofs]
    low, high = min([*intensities, *knees]) / 4, max([*intensities, *knees]) * 8
    top = max(roofs, default=slope * high)
    axes.plot([low, top / slope], [low * slope, top], color=GREY, linewidth=1.3, zorder=1)
    for peak, dtypes in roofs.items():
        axes.plot([peak / slope, high], [peak, peak], color=GREY, linewidth=1.3, zorder=1)
        axes.annotate(
            f"{' = '.join(dtypes)} {digits(peak)} TFLOPS",
            (high, peak),
            xytext=(-3, 3),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color=SMALL_INK,
        )
    for variant in dict.fromkeys(name for name, *_ in points):
        own = [point for point in points if point[0] == variant]
        for ok in (True, False):
            chosen = [(intensity, tflops) for _, _, intensity, tflops, fine in own if fine is ok]
            if chosen:
                own_colour = colour(colours[variant])
                xs, ys = zip(*chosen, strict=True)
                axes.scatter(
                    xs,
                    ys,
                    s=30,
                    marker=marker(colours[variant]),
                    zorder=3,
                    linewidths=1.1,
                    facecolors=own_colour if ok else "white",
                    edgecolors=own_colour,
                )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlim(low, high)
    axes.set_xlabel("arithmetic intensity (operations per byte)", fontsize=9, color=INK)
    axes.set_ylabel("TFLOPS", fontsize=9, color=INK)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_locator(NullLocator())
    frame(axes)
    at = math.sqrt(low * (max(knees) if knees else high))
    axes.annotate(
        f"memory {digits(spec.bandwidth_gbps)} GB/s",
        (at, at * slope),
        xytext=(-6, 4),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color=SMALL_INK,
    )
    head(figure, results, f"roofline of the {spec.name}")
    key(figure, names, colours)
    return figure


def _curve(axes: Axes, points: list[Point], index: int, what: str, band: tuple[str, str] | None) -> bool:
    """Draw one variant with its interval band; noisy points are hollow. Return whether there was anything to draw."""
    drawn = [point for point in points if point.row[what]]
    if not drawn:
        return False
    xs, ys = [point.x for point in drawn], [point.row[what] for point in drawn]
    if band:
        lows, highs = ([point.row[edge] for point in drawn] for edge in band)
    else:  # a rate's interval is the latency's, turned over
        lows = [y * point.row["latency_ms"] / point.row["latency_high_ms"] for y, point in zip(ys, drawn, strict=True)]
        highs = [y * point.row["latency_ms"] / point.row["latency_low_ms"] for y, point in zip(ys, drawn, strict=True)]
    shade, sign = colour(index), marker(index)
    axes.fill_between(xs, lows, highs, color=shade, alpha=0.22, linewidth=0, zorder=2)
    axes.plot(xs, ys, line(index), color=shade, linewidth=1.6, zorder=3)
    for ok in (True, False):
        chosen = [(x, y) for x, y, point in zip(xs, ys, drawn, strict=True) if point.ok is ok]
        if chosen:
            axes.plot(
                *zip(*chosen, strict=True),
                linestyle="none",
                marker=sign,
                markersize=5,
                zorder=4,
                color=shade,
                markerfacecolor=shade if ok else "white",
            )
    return True


def _style(axes: Axes, panel: Panel) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    xs = sorted({point.x for points in panel.curves.values() for point in points})
    axes.xaxis.set_major_locator(FixedLocator(_spread(xs, 9)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{round(value, 6):g}" if value < 1e6 else digits(value)))
    frame(axes)


def _label_y(axes: Axes) -> None:
    """Put enough ticks on a logarithmic y-axis: under about a decade and a half it would have one or none."""
    low, high = axes.get_ylim()
    if high / low < 30:
        decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [factor * 10.0**power for power in decades for factor in (1, 2, 5) if low <= factor * 10.0**power <= high]
        axes.yaxis.set_major_locator(
            FixedLocator(ticks if len(ticks) > 1 else [low * (high / low) ** part for part in (0.1, 0.5, 0.9)])
        )


def _ordered(colours: Mapping[str, int], present: Iterable[str]) -> list[str]:
    return sorted(set(present), key=lambda name: colours[name])


def _spread(values: list[float], most: int) -> list[float]:
    """Thin ticks out evenly, keeping the first and the last."""
    step = math.ceil(len(values) / most)
    kept = values[::-step][::-1]
    return kept


def _trim(text: str) -> str:
    """Write axis labels without needless zeros: `10 us`, not `10.0 us`."""
    number, unit = text.split()
    return f"{float(number):g} {unit}"
