"""Numbers as a person reads them: times, ratios, sizes; one way for the display and the report."""

import math
from collections.abc import Mapping
from typing import Any

_TIME_UNITS = (("s", 1e-3), ("ms", 1.0), ("us", 1e3), ("ns", 1e6))


def digits(value: float, significant: int = 3) -> str:
    """Write a number with `significant` digits and no exponent, as in 0.0123, 1.23, 123, 12300.

    >>> digits(71.6478), digits(1234.5), digits(0.00123456), digits(0.000010001)
    ('71.6', '1234', '0.00123', '0.0000100')
    """
    if value == 0:
        return "0"
    size = len(f"{abs(value):.0f}") if abs(value) >= 1 else 1 + math.floor(math.log10(abs(value)))
    return f"{value:.{max(0, significant - size)}f}"


def time_unit(milliseconds: float) -> tuple[str, float]:
    """Return the unit that suits a time, and what milliseconds are multiplied with to get it."""
    for unit, factor in _TIME_UNITS:
        if abs(milliseconds) * factor >= 1:
            return unit, factor
    return _TIME_UNITS[-1]


def rate_unit(tflops: float) -> tuple[str, float]:
    """Return the unit that suits rates up to `tflops`, and what TFLOPS are multiplied with to get it."""
    return ("TFLOPS", 1.0) if tflops >= 0.1 else ("GFLOPS", 1e3)


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


def ratio(value: float, low: float, high: float) -> str:
    """Write a ratio with its interval, all with the decimals that one of them needs.

    Two, none from 100 on, and three where they decide: near 1, and below 0.1.

    >>> ratio(1.8349, 1.8141, 1.8601), ratio(1.051, 1.0473, 1.0549), ratio(123.4, 121, 126)
    ('1.83 [1.81, 1.86]', '1.051 [1.047, 1.055]', '123 [121, 126]')
    """
    numbers = (value, low, high)
    decimals = max(3 if 0.95 <= one <= 1.05 or one < 0.1 else 2 if one < 100 else 0 for one in numbers)
    first, least, most = (f"{one:.{decimals}f}" for one in numbers)
    return f"{first} [{least}, {most}]"


def speedup(found: Mapping[str, Any]) -> str:
    """Write a speedup with its interval and verdict: `1.83x [1.81, 1.86] faster`."""
    value, interval = ratio(found["ratio"], found["ci_low"], found["ci_high"]).split(" ", 1)
    return f"{value}x {interval} {found['verdict']}"


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


def listed(axes: Mapping[str, Any]) -> str:
    """Write the values of axes in a line.

    >>> listed({"heads": 64, "head_dim": 128})
    'heads 64, head_dim 128'
    """
    return ", ".join(f"{axis} {value}" for axis, value in axes.items())
