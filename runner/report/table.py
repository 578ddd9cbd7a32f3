"""One flat row per measurement, units in the names: the CSV, the metrics in MLflow and every printed table start here."""

import csv
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from runner import figures
from runner.fields import COLUMNS as COLUMNS
from runner.journal import Event
from runner.results import Results


def flat(event: Event) -> dict[str, Any]:
    """Return the figures of one measurement under `COLUMNS`' names (without axes); None where there is none.

    Megabytes are 10^6 bytes; clock and power are medians inside the timed windows, the temperature is the highest seen.
    """
    statistics, rates, telemetry = (event.get(key) or {} for key in ("statistics", "rates", "telemetry"))
    also, speedup, work = (event.get(key) or {} for key in ("also", "speedup", "work"))
    memory = event.get("peak_memory_bytes")
    row: dict[str, Any] = {
        "status": event["status"],
        "reason": event.get("reason"),
        "timing": event.get("timing"),
        "timer": event.get("timer"),
        "latency_ms": statistics.get("median_ms"),
        "latency_low_ms": statistics.get("ci_low_ms"),
        "latency_high_ms": statistics.get("ci_high_ms"),
        "precision_pct": 100 * statistics["precision"] if "precision" in statistics else None,
        "samples": statistics.get("n"),
        "samples_effective": statistics.get("n_effective"),
        "latency_min_ms": statistics.get("min_ms"),
        "latency_p95_ms": statistics.get("p95_ms"),
        "latency_max_ms": statistics.get("max_ms"),
        "latency_stdev_ms": statistics.get("stdev_ms"),
        "launch_bound": event.get("launch_bound"),
        "speedup": speedup.get("ratio"),
        "speedup_low": speedup.get("ci_low"),
        "speedup_high": speedup.get("ci_high"),
        "verdict": speedup.get("verdict"),
        "throughput_tflops": rates.get("tflops"),
        "bandwidth_gbps": rates.get("bandwidth_gbps"),
        "pct_of_peak": rates.get("pct_of_peak"),
        "pct_of_bandwidth": rates.get("pct_of_bandwidth"),
        "ops": work.get("ops"),
        "bytes": work.get("bytes"),
        "peak_memory_mb": memory / 1e6 if memory is not None else None,
        "leak_bytes_per_call": event.get("leak_bytes_per_call"),
        "energy_mj": event.get("energy_mj_per_call"),
        "first_call_ms": event.get("first_call_ms"),
        "sm_clock_mhz": _part(telemetry, "sm_clock_mhz", "median"),
        "temperature_c": _part(telemetry, "temperature_c", "max"),
        "power_w": _part(telemetry, "power_w", "median"),
        "throttled_samples": len(event["throttled"]) if event.get("throttled") is not None else None,
        "warnings": "; ".join(event.get("warnings") or []) or None,
        "measured_at": event["time"],
    }
    for timing in ("warm", "wall"):
        other = (also.get(timing) or {}).get("statistics") or {}
        for name, key in (("", "median_ms"), ("_low", "ci_low_ms"), ("_high", "ci_high_ms")):
            row[f"latency_{timing}{name}_ms"] = other.get(key)
    return row


def looked_up(event: Event, metric: str) -> tuple[Any, Any, Any]:
    """Return a figure of a measurement with its bounds: a column, a counter or the workload's own; None where there is none."""
    row = flat(event) | (event.get("counters") or {}) | figures.columns(event)
    stem, unit, _ = metric.partition("_ms")
    return row.get(f"{stem}{unit}"), row.get(f"{stem}_low{unit}"), row.get(f"{stem}_high{unit}")


def write_csv(path: Path, results: Results) -> None:
    """Write `measurements.csv`: axes, `x` (the x-axis' name), variant, dtype, `COLUMNS`, and the workload's own figures."""
    own_figures = [figures.columns(event) for event in results.measurements]
    more = list(dict.fromkeys(name for one in own_figures for name in one))
    axes = sorted({axis for event in results.measurements for axis in event["case"]})
    # An axis may share its name with a column (`bytes`); the figure keeps its name, the axis is marked.
    columns = {
        axis: f"axis_{axis}" if axis in COLUMNS or axis in ("workload", "x", "variant", "dtype") else axis for axis in axes
    }
    header = ["workload", *columns.values(), "x", "variant", "dtype", *COLUMNS, *more]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        for event, found in zip(results.measurements, own_figures, strict=True):
            own = {"workload": results.workload, "x": event["x"], "variant": event["variant"], "dtype": event.get("dtype")}
            writer.writerow(own | {columns[axis]: value for axis, value in event["case"].items()} | flat(event) | found)


def as_markdown(columns: Sequence[str], rows: Iterable[Sequence[str]], words: Container[int] | None = None) -> list[str]:
    """Return the lines of a Markdown table; all but the columns `words` are aligned to the right, None of them without it."""
    rule = ["---" if words is None or index in words else "---:" for index in range(len(columns))]
    lines = [columns, rule, *([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)]
    return [f"| {' | '.join(line)} |" for line in lines]


def _part(telemetry: Mapping[str, Any], what: str, which: str) -> Any:
    return (telemetry.get(what) or {}).get(which)
