"""A workload's own figures beside times: qualities of what was computed (`accuracy`), and rates of what gets done (`rows/s`)."""

import math
from collections.abc import Mapping
from typing import Any

from runner.journal import Event
from runner.stats import Interval


def of(event: Event) -> dict[str, Interval]:
    """Return the figures of a measurement by name; the bounds of what has no interval are NaN."""
    found = {
        name: Interval(*map(_number, (one["value"], one["low"], one["high"]))) for name, one in _part(event, "figures").items()
    }
    rates = _part(event, "rates")
    own = _part(_part(_part(event, "also"), rates.get("by", "")), "statistics") or _part(event, "statistics")
    for name, rate in _part(rates, "per_second").items():
        found[name] = turned(rate, own)
    return found


def turned(rate: float, time: Mapping[str, float]) -> Interval:
    """Return a rate with its interval: it is an amount over a time, so its interval is that of the time, turned over."""
    return Interval(rate, *(rate * time["median_ms"] / time[end] for end in ("ci_high_ms", "ci_low_ms")))


def columns(event: Event) -> dict[str, float | None]:
    """Return them as columns of a table: `accuracy`, `accuracy_low`, `accuracy_high`; None where there is none."""
    return {
        name + bound: None if math.isnan(value) else value
        for name, one in of(event).items()
        for bound, value in (("", one.value), ("_low", one.low), ("_high", one.high))
    }


def units(job: Mapping[str, Any]) -> dict[str, str]:
    """Return the unit of every figure that a job (as plain data) declares, "" for a plain number."""
    found: dict[str, str] = (job.get("derive") or {}).get("figures") or {}
    return found


def _part(event: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    return event.get(name) or {}


def _number(value: float | None) -> float:
    return math.nan if value is None else value
