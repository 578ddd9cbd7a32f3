"""The figures of a measurement that two runs can be compared by, and of which of them more is worse."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from runner.compare.ratio import Estimate, of_samples, single
from runner.errors import RequestError, nearest
from runner.journal import Event
from runner.stats import enough

DEFAULT = "latency_ms"


@dataclass(frozen=True)
class Metric:
    """One figure: how it is read from a measurement, its unit, and what worse and better are called.

    More is worse, but for a `rate`.
    """

    read: Callable[[Event], Estimate | None]
    unit: str
    worse: str = "slower"
    better: str = "faster"
    rate: bool = False


def _latency(event: Event) -> Estimate | None:
    """Read the primary timing; throttled samples are left out where enough others are left."""
    samples = event.get("samples_ms") or []
    throttled = set(event.get("throttled") or ())
    kept = [sample for index, sample in enumerate(samples) if index not in throttled] if throttled else samples
    return of_samples(kept if len(kept) >= enough(0.95) else samples)


def _timing(name: str) -> Callable[[Event], Estimate | None]:
    def read(event: Event) -> Estimate | None:
        if event.get("timing") == name:
            return _latency(event)
        return of_samples(((event.get("also") or {}).get(name) or {}).get("samples_ms") or [])

    return read


def _rate(of: str, scale: float) -> Callable[[Event], Estimate | None]:
    def read(event: Event) -> Estimate | None:
        work, time = (event.get("work") or {}).get(of) or 0.0, _latency(event)
        return Estimate(math.log(scale * work) - time.log, time.error, time.freedom) if work and time else None

    return read


def _once(field: str, scale: float = 1.0) -> Callable[[Event], Estimate | None]:
    def read(event: Event) -> Estimate | None:
        value = event.get(field)
        return None if value is None else single(value * scale)

    return read


METRICS: Mapping[str, Metric] = {
    DEFAULT: Metric(_latency, "ms"),
    "latency_warm_ms": Metric(_timing("warm"), "ms"),
    "latency_wall_ms": Metric(_timing("wall"), "ms"),
    "throughput_tflops": Metric(_rate("ops", 1e-9), "TFLOPS", rate=True),
    "bandwidth_gbps": Metric(_rate("bytes", 1e-6), "GB/s", rate=True),
    "energy_mj": Metric(_once("energy_mj_per_call"), "mJ", "more", "less"),
    "peak_memory_mb": Metric(_once("peak_memory_bytes", 1e-6), "MB", "more", "less"),
}
"""Named as in measurements.csv. Energy and memory are read once a run: only several runs give them an interval."""


def metric(name: str) -> Metric:
    """Return the metric called `name`. Raises RequestError when there is none."""
    if name not in METRICS:
        raise RequestError(f"--metric {name}: no run is compared by that; {nearest(name, METRICS)}")
    return METRICS[name]
