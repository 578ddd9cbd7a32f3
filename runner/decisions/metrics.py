"""What can be asked about a variant at one case: the value of a metric with its interval, or why there is none."""

import math
from collections.abc import Callable, Mapping, Sequence

from runner import figures, stats
from runner.journal import Event
from runner.results import apart, samples, speedup
from runner.stats import Interval
from runner.units import digits

Value = tuple[Interval | None, str]
"""An interval and what to know about it; without one, why."""

METRICS = {
    "speedup": "{}x",
    "pct_of_peak": "{}% of peak",
    "pct_of_bandwidth": "{}% of bandwidth",
    "tflops": "{} TFLOPS",
    "bandwidth_gbps": "{} GB/s",
    "share": "a share of {}",
    "headroom": "a headroom of {}x",
}
"""The metrics that can be asked about beside the workload's own figures, and how each is written."""


def said(metric: str, interval: Interval) -> str:
    """Write a value with its interval: `72.1% of peak [71.9, 72.4]`."""
    text = f"{METRICS.get(metric, metric + ' {}').format(digits(interval.value))}"
    return text if interval.low == interval.high else f"{text} [{digits(interval.low)}, {digits(interval.high)}]"


def value(
    metric: str,
    event: Event,
    others: Mapping[str, Event],
    baseline: str | None,
    parts: Sequence[str],
    confidence: float,
) -> Value:
    """Return the value of a metric of `event`, a measurement that is `ok`; `others` are those of the same case, by variant."""
    if metric == "speedup":
        against = others.get(str(baseline))
        if against is None or against["status"] != "ok":
            return None, f"the baseline {baseline} is {against['status'] if against else 'not measured'}"
        return speedup(against, event, confidence)
    if metric in ("share", "headroom"):
        return _of_parts(_share if metric == "share" else _headroom, event, others, parts, confidence)
    return _rate(metric, event) if metric in METRICS else _figure(metric, event)


def _figure(metric: str, event: Event) -> Value:
    """Return one of the workload's own figures; what has no interval is taken as exact."""
    found = figures.of(event).get(metric)
    if found is None:
        return None, f"{event['variant']} has no {metric}"
    return (Interval(found.value, found.value, found.value) if math.isnan(found.low) else found), ""


def _rate(metric: str, event: Event) -> Value:
    rate = (event.get("rates") or {}).get(metric)
    if rate is None:
        return None, "no datasheet figure to hold it against" if metric.startswith("pct") else f"no {metric} declared"
    return figures.turned(rate, event["statistics"]), ""


def _of_parts(
    formed: Callable[[Event, list[Event], float, set[int]], Value],
    event: Event,
    others: Mapping[str, Event],
    parts: Sequence[str],
    confidence: float,
) -> Value:
    """Form a metric from the rounds in which the whole and all parts took turns."""
    for part in parts:
        status = others[part]["status"] if part in others else "not measured"
        if status != "ok":
            return None, f"the part {part} is {status}"
    found = [others[part] for part in parts]
    if why := apart([event, *found]):
        return None, f"{event['variant']} and its parts were {why}"
    throttled = {index for one in (event, *found) for index in one.get("throttled") or ()}
    return formed(event, found, confidence, throttled)


def _share(event: Event, parts: list[Event], confidence: float, throttled: set[int]) -> Value:
    share = stats.share_interval([samples(part) for part in parts], samples(event), confidence, throttled)
    if share is None:
        return None, "too few rounds for an interval"
    if share.value <= 1:
        return share, ""
    names = " and ".join(str(part["variant"]) for part in parts)
    return share, f"{names}, timed alone, take {digits(share.value)} of the time of {event['variant']}"


def _headroom(event: Event, parts: list[Event], confidence: float, throttled: set[int]) -> Value:
    bandwidth = (event.get("rates") or {}).get("peak_bandwidth_gbps")
    if not bandwidth:
        return None, "no datasheet figure of the memory's bandwidth"
    moved = {str(part["variant"]): (part.get("work") or {}).get("bytes") or 0 for part in parts}
    for variant, count in moved.items():
        if not count > 0:
            return None, f"no bytes declared for the part {variant}"
    limit_ms = sum(moved.values()) / bandwidth * 1e-6  # bytes over GB/s are ns
    _, note = _share(event, parts, confidence, throttled)
    headroom = stats.headroom_interval([samples(part) for part in parts], samples(event), limit_ms, confidence, throttled)
    return headroom, note if headroom else "too few rounds for an interval"
