"""The rule, from rows to a decision: walk from the decisive end while every row of an x is a win; whatever is not one blocks."""

from collections import Counter
from typing import Any

from runner import stats
from runner.results import plain
from runner.spec import ThresholdSpec
from runner.thresholds.evidence import LOSS, OPEN, WIN, Row, is_number
from runner.units import ratio


def decide(spec: ThresholdSpec, rows: list[Row]) -> tuple[str, Any, str]:
    """Return (decision, value, reason): `enabled` with the x found, else `disabled` or `undecided` with None."""
    impossible = spec.misleading_never([row.x for row in rows if is_number(row.x)])
    if impossible is not None:
        return "undecided", None, impossible
    if not rows:
        where = f" with {plain(spec.where)}" if spec.where else ""
        return "undecided", None, f"no case has the axis {spec.axis}{where}"
    if not all(is_number(row.x) for row in rows):
        return "undecided", None, f"the values of {spec.axis} are names and have no order"
    compared = {row.x for row in rows if row.speedup is not None and row.verdict != "noisy"}
    if len(compared) < 2:
        return "undecided", None, _too_little(spec, rows, len(compared))

    # The decisive end is the largest x, for `upto` the smallest.
    ordered = sorted({row.x for row in rows}, reverse=spec.direction == "from")
    value = None
    for x in ordered:
        if any(row.outcome != WIN for row in rows if row.x == x):
            break
        value = x
    if value is not None:
        sign = ">=" if spec.direction == "from" else "<="
        reason = f"lower bound of the speedup is at least {spec.margin:g} at every measured {spec.axis} {sign} {value}"
        return "enabled", value, reason
    return _blocked(spec, [row for row in rows if row.x == ordered[0]])


def _blocked(spec: ThresholdSpec, decisive: list[Row]) -> tuple[str, None, str]:
    """Say what at the decisive end is no win: a loss disables, else nothing is shown."""
    end = "largest" if spec.direction == "from" else "smallest"
    losses = [row for row in decisive if row.outcome == LOSS]
    row = (losses or [row for row in decisive if row.outcome == OPEN])[0]
    at = f"at the {end} {spec.axis}, {row.x}" + (f" ({plain(row.held)})" if row.held else "")
    if losses:
        found = f"the speedup is {_interval(row.speedup)}, below {spec.margin:g}" if row.speedup else row.note
        return "disabled", None, f"{at}, {found}"
    if row.speedup is not None and row.verdict != "noisy":
        return "undecided", None, f"{at}, the speedup is {_interval(row.speedup)}, on both sides of {spec.margin:g}"
    return "undecided", None, f"{at}, {row.note}"


def _too_little(spec: ThresholdSpec, rows: list[Row], compared: int) -> str:
    """Say why fewer than two x could be compared: one point shows no crossover, and nothing about what lies beyond it."""
    notes = Counter(row.note for row in rows if row.note)
    if compared == 0 and notes:
        note, count = notes.most_common(1)[0]
        everywhere = " at every case" if count == len(rows) else ""
        return f"{note}{everywhere}"
    why = f"; {notes.most_common(1)[0][0]} elsewhere" if notes else ""
    return f"{spec.baseline} and {spec.candidate} could be compared at {compared} value of {spec.axis} only, 2 are needed{why}"


def _interval(speedup: stats.Interval) -> str:
    return ratio(speedup.value, speedup.low, speedup.high)
