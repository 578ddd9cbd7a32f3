"""Numbers as a person reads them: times, ratios, sizes; one way for the display and the report."""

from collections.abc import Mapping
from typing import Any

_TIME_UNITS = (("s", 1e-3), ("ms", 1.0), ("us", 1e3), ("ns", 1e6))


def digits(value: float, significant: int = 3) -> str:
    """Write a number with `significant` digits and no exponent, as in 0.0123, 1.23, 123, 12300.

    >>> digits(71.6478), digits(1234.5), digits(0.00123456)
    ('71.6', '1234', '0.00123')
    """
    if value == 0:
        return "0"
    size = len(f"{abs(value):.0f}") if abs(value) >= 1 else 0
    if size >= significant:
        return f"{value:.0f}"
    return f"{value:.{significant - size}f}" if size else f"{value:.{significant}g}"


def time_unit(milliseconds: float) -> tuple[str, float]:
    """Return the unit that suits a time, and what milliseconds are multiplied with to get it."""
    for unit, factor in _TIME_UNITS:
        if abs(milliseconds) * factor >= 1:
            return unit, factor
    return _TIME_UNITS[-1]


def latency(milliseconds: float) -> str:
    """Write a time in the unit that suits it.

    >>> latency(0.01234), latency(12.34), latency(4321)
    ('12.3 us', '12.3 ms', '4.32 s')
    """
    unit, factor = time_unit(milliseconds)
    return f"{digits(milliseconds * factor)} {unit}"


def interval(value: float, low: float, high: float) -> str:
    """Write a time and its interval in one unit: `12.3 us [12.2, 12.4]`; all in milliseconds."""
    unit, factor = time_unit(value)
    places = max(0, 3 - len(f"{value * factor:.0f}"))
    return f"{value * factor:.{places}f} {unit} [{low * factor:.{places}f}, {high * factor:.{places}f}]"


def ratio(value: float) -> str:
    """Write a ratio: two decimals, none from 100 on, and three near 1, where they decide.

    >>> ratio(1.8349), ratio(0.9961), ratio(123.4)
    ('1.83', '0.996', '123')
    """
    if 0.95 <= value <= 1.05:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def speedup(found: Mapping[str, Any]) -> str:
    """Write a speedup with its interval and verdict: `1.83x [1.81, 1.86] faster`."""
    low, high = ratio(found["ci_low"]), ratio(found["ci_high"])
    return f"{ratio(found['ratio'])}x [{low}, {high}] {found['verdict']}"


def duration(seconds: float) -> str:
    """Write a length of time for a person: `8 s`, `3 min 20 s`, `1 h 05 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size(count: float) -> str:
    """Write a number of bytes: `24.0 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024 or unit == "GiB":
            break
        count /= 1024
    return f"{count:.1f} {unit}" if unit != "B" else f"{count:.0f} B"


def several(count: int, noun: str) -> str:
    """Write a count with its noun: `1 case`, `3 cases`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
