"""Thresholds: from which x on a candidate beats a baseline, derived from a journal's raw samples and nothing else.

The rule: the smallest x such that at every measured x' >= x, and at every value of all other axes, the lower confidence bound
of the speedup is at least the margin (`direction: upto` mirrors it). Only `ok` measurements count; whatever is not a proven
win blocks. docs/thresholds.md says it with examples.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner import stats
from runner.errors import RequestError
from runner.journal import Event, case_key
from runner.results import Results, from_events, plain, speedup
from runner.spec import ThresholdSpec
from runner.units import ratio as ratio_text

SCHEMA = 1

WIN, LOSS, OPEN = "win", "loss", "open"

UNFIT = ("oom", "unsupported", "incorrect")
"""Statuses that say something about the variant itself: where the candidate has one, it can't be used there."""


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
class Evidence:
    """What was derived for one declared threshold, and from what. `value` is the x found, None unless `enabled`."""

    spec: ThresholdSpec
    decision: str
    value: Any
    reason: str
    rows: list[Row]
    scope: Mapping[str, Any]

    @property
    def runtime(self) -> Any:
        """What a runtime loads: the threshold, or the declared value that means never."""
        return self.spec.never if self.value is None else self.value

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the YAML."""
        spec = self.spec
        return {
            "decision": self.decision,
            "axis": spec.axis,
            "unit": spec.unit,
            "baseline": spec.baseline,
            "candidate": spec.candidate,
            "direction": spec.direction,
            "margin": spec.margin,
            "scope": dict(self.scope),
            "table": [row.as_dict() for row in self.rows],
            "reason": self.reason,
        }


def derive(spec: ThresholdSpec, results: Results) -> Evidence:
    """Derive one threshold; a pure function of the journal. Never raises for what was measured or not measured."""
    cells = _cells(spec, results)
    held = sorted({axis for axes in cells for axis in axes if axis != spec.axis})
    values = {axis: {repr(axes.get(axis)): axes.get(axis) for axes in cells} for axis in held}
    scope = {axis: next(iter(found.values())) for axis, found in values.items() if len(found) == 1}
    measured = results.by_key()
    rows = [_row(spec, axes, [axis for axis in held if axis not in scope], measured, results) for axes in cells]
    rows.sort(key=lambda row: (row.x if _is_number(row.x) else 0, repr(sorted(row.held.items()))))
    decision, value, reason = _decide(spec, rows, results)
    return Evidence(spec, decision, value, reason, rows, scope)


def derive_all(results: Results) -> list[Evidence]:
    """Derive every threshold that the job declares, in its order.

    Raises RequestError when a declaration in the job is not one of this version.
    """
    try:
        specs = [ThresholdSpec(**declared) for declared in results.job["derive"].get("thresholds") or []]
    except TypeError as error:
        raise RequestError(
            f"the job declares a threshold that this version does not know ({error}); write the job anew"
        ) from error
    return [derive(spec, results) for spec in specs]


def thresholds(events: list[Event], run_id: str | None = None) -> dict[str, Any]:
    """Return the content of `thresholds.yaml` for a journal's events.

    Raises RequestError when the journal holds no job.
    """
    results = from_events(events)
    return as_dict(derive_all(results), results, run_id)


def as_dict(found: list[Evidence], results: Results, run_id: str | None = None) -> dict[str, Any]:
    """Return the content of `thresholds.yaml`; `run_id` is MLflow's, and the session's where there is none."""
    margins = {evidence.spec.margin for evidence in found}
    return head(results, run_id) | {
        "policy": {"margin": margins.pop() if len(margins) == 1 else None, "confidence": results.confidence},
        "runtime": {evidence.spec.key: evidence.runtime for evidence in found if _usable_never(evidence)},
        "evidence": {evidence.spec.key: evidence.as_dict() for evidence in found},
    }


def head(results: Results, run_id: str | None = None) -> dict[str, Any]:
    """Return what `thresholds.yaml` and `decisions.yaml` both start with: where the numbers are from."""
    return {
        "schema": SCHEMA,
        "device": {key: results.device.get(key) for key in ("name", "uuid", "sm")} | {"driver": results.software.get("driver")},
        "software": {key: results.software.get(key) for key in ("torch", "cuda", "triton")},
        "source": {
            "run_id": run_id or results.session,
            "session": results.session,
            "workload": results.workload,
            "job_hash": results.job_hash,
            "git_sha": results.git["sha"],
            "measured_at": results.started_at,
        },
    }


def in_words(evidence: Evidence) -> str:
    """Say a threshold in one sentence, as in `bf16 beats fp32 by 1.2x from n = 512 on`."""
    spec = evidence.spec
    claim = f"{spec.candidate} beats {spec.baseline} by {spec.margin:g}x"
    scope = f" ({plain(evidence.scope)})" if evidence.scope else ""
    if evidence.decision == "enabled":
        where = f"from {spec.axis} = {evidence.value} on" if spec.direction == "from" else f"up to {spec.axis} = {evidence.value}"
        return f"{claim} {where}{scope}"
    if evidence.decision == "disabled":
        return f"{spec.candidate} does not beat {spec.baseline} by {spec.margin:g}x{scope}: {evidence.reason}"
    return f"undecided whether {claim}{scope}: {evidence.reason}"


def _cells(spec: ThresholdSpec, results: Results) -> list[dict[str, Any]]:
    """Return the axes of the cases this threshold is about: those with its axis and the values of `where`."""
    return [
        axes
        for axes, _ in results.cases
        if spec.axis in axes and all(axis in axes and axes[axis] == value for axis, value in spec.where.items())
    ]


def _row(
    spec: ThresholdSpec, axes: dict[str, Any], held: list[str], measured: Mapping[tuple[str, str], Event], results: Results
) -> Row:
    x, others = axes[spec.axis], {axis: axes[axis] for axis in held if axis in axes}
    baseline, candidate = (measured.get((case_key(axes), variant)) for variant in (spec.baseline, spec.candidate))
    if candidate is not None and candidate["status"] in UNFIT:
        return Row(x, others, None, str(candidate["status"]), LOSS, _note(spec.candidate, candidate))
    for variant, event in ((spec.candidate, candidate), (spec.baseline, baseline)):
        if event is None:
            return Row(x, others, None, "missing", OPEN, f"{variant} was not measured")
        if event["status"] not in ("ok", "noisy"):
            return Row(x, others, None, str(event["status"]), OPEN, _note(variant, event))
    assert baseline is not None  # the loop above returned otherwise
    assert candidate is not None
    interval, why = speedup(baseline, candidate, results.confidence)
    if interval is None:
        return Row(x, others, None, "missing", OPEN, why)
    noisy = [variant for variant, event in ((spec.candidate, candidate), (spec.baseline, baseline)) if event["status"] == "noisy"]
    if noisy:
        return Row(x, others, interval, "noisy", OPEN, f"{' and '.join(noisy)} noisy")
    outcome = WIN if interval.low >= spec.margin else LOSS if interval.high < spec.margin else OPEN
    return Row(x, others, interval, stats.verdict(interval, results.same_within), outcome)


def _decide(spec: ThresholdSpec, rows: list[Row], results: Results) -> tuple[str, Any, str]:
    """Return (decision, value, reason) from the rows, which are sorted by x."""
    impossible = spec.misleading_never([row.x for row in rows if _is_number(row.x)])
    if impossible is not None:
        return "undecided", None, impossible
    if not rows:
        where = f" with {plain(spec.where)}" if spec.where else ""
        return "undecided", None, f"no case has the axis {spec.axis}{where}"
    if not all(_is_number(row.x) for row in rows):
        return "undecided", None, f"the values of {spec.axis} are names and have no order"
    compared = {row.x for row in rows if row.speedup is not None and row.verdict != "noisy"}
    if len(compared) < 2:
        return "undecided", None, _too_little(spec, rows, len(compared), results)

    # Walk from the decisive end (the largest x, for `upto` the smallest) while every row of that x is a win.
    ordered = sorted({row.x for row in rows}, reverse=spec.direction == "from")
    value = None
    for x in ordered:
        if any(row.outcome != WIN for row in rows if row.x == x):
            break
        value = x
    sign = ">=" if spec.direction == "from" else "<="
    if value is not None:
        return (
            "enabled",
            value,
            f"lower bound of the speedup is at least {spec.margin:g} at every measured {spec.axis} {sign} {value}",
        )

    decisive = [row for row in rows if row.x == ordered[0]]
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


def _too_little(spec: ThresholdSpec, rows: list[Row], compared: int, results: Results) -> str:
    """Say why fewer than two x could be compared: one point shows no crossover, and nothing about what lies beyond it."""
    notes = Counter(row.note for row in rows if row.note)
    if compared == 0 and notes:
        note, count = notes.most_common(1)[0]
        everywhere = " at every case" if count == len(rows) else ""
        return f"{note}{everywhere}"
    why = f"; {notes.most_common(1)[0][0]} elsewhere" if notes else ""
    return f"{spec.baseline} and {spec.candidate} could be compared at {compared} value of {spec.axis} only, 2 are needed{why}"


def _interval(speedup: stats.Interval) -> str:
    return f"{ratio_text(speedup.value)} [{ratio_text(speedup.low)}, {ratio_text(speedup.high)}]"


def _note(variant: str, event: Event) -> str:
    reason = event.get("reason")
    words = {"oom": "out of memory"}.get(str(event["status"]), str(event["status"]))
    return f"{variant} {words}" + (f" ({reason})" if reason else "")


def _usable_never(evidence: Evidence) -> bool:
    """Leave a key out of the runtime block rather than write a `never` that means the opposite."""
    xs = [row.x for row in evidence.rows if _is_number(row.x)]
    return evidence.spec.misleading_never(xs) is None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: float) -> float:
    return float(f"{value:.6g}")
