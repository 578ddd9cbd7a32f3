"""What a derived threshold is: the rows it was read off, what they decide, and the same for each scope of its own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner import stats
from runner.spec import ThresholdSpec

WIN, LOSS, OPEN = "win", "loss", "open"


@dataclass(frozen=True)
class Row:
    """One case's evidence: candidate against baseline at `x` and the held axis values.

    `outcome` is win (the whole interval is at or above the margin), loss (all of it below, or the candidate can't be used
    here) or open (neither is shown). Ratio and interval are None where the two were not both timed.
    """

    x: Any
    held: Mapping[str, Any]
    speedup: stats.Interval | None
    verdict: str
    outcome: str
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the YAML's table."""
        row: dict[str, Any] = {"x": self.x}
        if self.held:
            row["held"] = dict(self.held)
        row["ratio"] = _short(self.speedup.value) if self.speedup else None
        row["ci"] = [_short(self.speedup.low), _short(self.speedup.high)] if self.speedup else None
        row["verdict"] = self.verdict
        if self.note:
            row["note"] = self.note
        return row


@dataclass(frozen=True)
class Scoped:
    """What was derived from the cases of one scope alone: one value of each axis of `per`. `value` is None unless `enabled`."""

    scope: Mapping[str, Any]
    decision: str
    value: Any
    reason: str


@dataclass(frozen=True)
class Evidence:
    """What was derived for one declared threshold, and from what. `value` is the x found, None unless `enabled`.

    `settings` are the axes of `scope` that are fixed in the whole job, and not worth naming in a sentence. `off` is policy, not
    evidence: this device's SM version is one on which a runtime is told `never` whatever was found.
    """

    spec: ThresholdSpec
    decision: str
    value: Any
    reason: str
    rows: list[Row]
    scope: Mapping[str, Any]
    scopes: list[Scoped] = field(default_factory=list)
    settings: list[str] = field(default_factory=list)
    off: bool = False

    @property
    def runtime(self) -> Any:
        """What a runtime loads: the threshold, or the declared value that means never."""
        return self._runtime(self.value)

    @property
    def usable_never(self) -> bool:
        """Whether `never` lies beyond every x, so that no runtime takes it for a threshold."""
        return self.spec.misleading_never([row.x for row in self.rows if is_number(row.x)]) is None

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the YAML."""
        spec = self.spec
        scopes = [
            {
                "scope": dict(one.scope),
                "decision": one.decision,
                "value": one.value,
                "runtime": self._runtime(one.value),
                "reason": one.reason,
            }
            for one in self.scopes
        ]
        return {
            "decision": self.decision,
            "value": self.value,
            "operation": spec.operation,
            "axis": spec.axis,
            "unit": spec.unit,
            "baseline": spec.baseline,
            "candidate": spec.candidate,
            "direction": spec.direction,
            "margin": spec.margin,
            "never": spec.never,
            "scope": dict(self.scope),
            "settings": self.settings,
            "table": [row.as_dict() for row in self.rows],
            "scopes": scopes,
            "reason": self.reason,
        }

    def _runtime(self, value: Any) -> Any:
        return self.spec.never if value is None or self.off else value


def is_number(value: Any) -> bool:
    """Whether an axis value has an order: a number, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
