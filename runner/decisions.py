"""Decisions: yes, no or undecided to a declared question, with the interval of every case as evidence.

A case says yes when its whole interval is at or above the bound, no when all of it is below. `hardware` is built in: is
this the GPU that was asked for?
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner import stats
from runner.errors import RequestError
from runner.journal import Event, case_key
from runner.results import Results, plain, speedup
from runner.spec import DecisionSpec
from runner.thresholds import UNFIT, head
from runner.units import digits

UNITS = {
    "speedup": "x",
    "pct_of_peak": "% of peak",
    "pct_of_bandwidth": "% of bandwidth",
    "tflops": " TFLOPS",
    "bandwidth_gbps": " GB/s",
}
"""The metrics that can be asked about, and how each is written."""


@dataclass(frozen=True)
class Answer:
    """One answered question; `table` is its evidence as plain data."""

    key: str
    question: str
    answer: str
    reason: str
    table: list[dict[str, Any]]
    details: Mapping[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for `decisions.yaml`."""
        return {"question": self.question, "answer": self.answer, **self.details, "table": self.table, "reason": self.reason}


@dataclass(frozen=True)
class _Row:
    axes: Mapping[str, Any]
    interval: stats.Interval | None
    answer: str
    note: str

    def as_dict(self) -> dict[str, Any]:
        row: dict[str, Any] = {"case": dict(self.axes), "value": None, "ci": None, "answer": self.answer}
        if self.interval:
            row["value"] = float(f"{self.interval.value:.6g}")
            row["ci"] = [float(f"{self.interval.low:.6g}"), float(f"{self.interval.high:.6g}")]
        return row | ({"note": self.note} if self.note else {})


def derive(spec: DecisionSpec, results: Results) -> Answer:
    """Answer one declared question; a pure function of the journal. Never raises for what was measured or not measured."""
    cells = [
        (axes, x) for axes, x in results.cases if all(axis in axes and axes[axis] == value for axis, value in spec.where.items())
    ]
    if spec.over == "largest":
        top: dict[str, Any] = {}
        for axes, x in cells:
            top[x] = max(top.get(x, axes.get(x, 0)), axes.get(x, 0))
        cells = [(axes, x) for axes, x in cells if axes.get(x, 0) == top[x]]
    # Asking whether `any` of many cases reaches the bound gives chance as many tries: each gets its share (Bonferroni).
    confidence = results.confidence
    if spec.over == "any" and cells:
        confidence = 1 - (1 - confidence) / len(cells)
    measured = results.by_key()
    rows = [_row(spec, axes, measured, results.baseline, confidence) for axes, _ in cells]
    answer, reason = _answer(spec, rows)
    details = {
        "metric": spec.metric,
        "variant": spec.variant,
        "at_least": spec.at_least,
        "over": spec.over,
        "where": dict(spec.where),
        "confidence": confidence,
    }
    return Answer(spec.key, spec.question, answer, reason, [row.as_dict() for row in rows], details)


def derive_all(results: Results) -> list[Answer]:
    """Answer every question of the job, `hardware` first where a certain GPU was asked for.

    Raises RequestError when a declaration in the job is not one of this version.
    """
    try:
        specs = [DecisionSpec(**declared) for declared in results.job["derive"].get("decisions") or []]
    except TypeError as error:
        raise RequestError(
            f"the job declares a decision that this version does not know ({error}); write the job anew"
        ) from error
    known = hardware(results)
    return ([known] if known else []) + [derive(spec, results) for spec in specs]


def hardware(results: Results) -> Answer | None:
    """Hold the device against the datasheet of the GPU that was asked for: `match` or `mismatch`; None when any would do."""
    spec = results.spec
    if spec is None:
        return None
    from runner import gpus

    rows = gpus.compare(spec, dict(results.device))
    wrong = [row for row in rows if row.ok is False]
    table = [{"what": row.what, "expected": row.expected, "found": row.found, "ok": row.ok} for row in rows]
    question = f"Is this the {spec.name} that was asked for?"
    if not wrong:
        return Answer(
            "hardware", question, "match", f"all that could be read agrees with the datasheet of the {spec.name}", table
        )
    differing = "; ".join(f"{row.what}: expected {row.expected}, found {row.found}" for row in wrong)
    return Answer("hardware", question, "mismatch", differing, table)


def as_dict(found: list[Answer], results: Results, run_id: str | None = None) -> dict[str, Any]:
    """Return the content of `decisions.yaml`."""
    return head(results, run_id) | {
        "policy": {"confidence": results.confidence},
        "decisions": {answer.key: answer.as_dict() for answer in found},
    }


def in_words(answer: Answer) -> str:
    """Say an answer in one line, as in `Does bf16 reach 60% of peak? yes: 72.1% of peak [71.9, 72.4] at n = 8192`."""
    return f"{answer.question} {answer.answer}: {answer.reason}"


def _row(
    spec: DecisionSpec,
    axes: Mapping[str, Any],
    measured: Mapping[tuple[str, str], Event],
    baseline: str | None,
    confidence: float,
) -> _Row:
    event = measured.get((case_key(axes), spec.variant))
    if event is None:
        return _Row(axes, None, "undecided", f"{spec.variant} was not measured")
    status = str(event["status"])
    if status != "ok":
        reason = f"{spec.variant} {status}" + (f" ({event['reason']})" if event.get("reason") else "")
        return _Row(axes, None, "no" if status in UNFIT else "undecided", reason)
    interval, note = _value(spec, event, measured.get((case_key(axes), str(baseline))), baseline, confidence)
    if interval is None:
        return _Row(axes, None, "undecided", note)
    answer = "yes" if interval.low >= spec.at_least else "no" if interval.high < spec.at_least else "undecided"
    return _Row(axes, interval, answer, "")


def _value(
    spec: DecisionSpec, event: Event, against: Event | None, baseline: str | None, confidence: float
) -> tuple[stats.Interval | None, str]:
    """Return the metric's interval, or None and why there is none."""
    if spec.metric == "speedup":
        if against is None or against["status"] != "ok":
            return None, f"the baseline {baseline} is {against['status'] if against else 'not measured'}"
        return speedup(against, event, confidence)
    rate = (event.get("rates") or {}).get(spec.metric)
    if rate is None:
        return None, "no datasheet figure to hold it against" if spec.metric.startswith("pct") else f"no {spec.metric} declared"
    # A rate is a constant over the latency, so its interval is the latency's, turned over.
    time = event["statistics"]
    constant = rate * time["median_ms"]
    return stats.Interval(rate, constant / time["ci_high_ms"], constant / time["ci_low_ms"]), ""


def _answer(spec: DecisionSpec, rows: list[_Row]) -> tuple[str, str]:
    if not rows:
        return "undecided", "no case of this run is asked about" + (f" ({plain(spec.where)})" if spec.where else "")
    if all(row.interval is None for row in rows):
        return "undecided", rows[0].note
    says = {answer: [row for row in rows if row.answer == answer] for answer in ("yes", "no", "undecided")}
    order = ("yes", "undecided", "no") if spec.over == "any" else ("no", "undecided", "yes")
    answer = next(answer for answer in order if says[answer])
    # The case that decides: the best one for `any`, else the worst.
    timed = [row for row in says[answer] if row.interval is not None]
    if not timed:
        return answer, f"{says[answer][0].note} at {plain(says[answer][0].axes)}"
    pick = max if spec.over == "any" else min
    row = pick(timed, key=lambda row: row.interval.value if row.interval else 0.0)
    assert row.interval is not None
    found = f"{digits(row.interval.value)}{UNITS[spec.metric]} [{digits(row.interval.low)}, {digits(row.interval.high)}]"
    rest = {"yes": "", "no": f", below {spec.at_least:g}", "undecided": f", on both sides of {spec.at_least:g}"}[answer]
    which = {"every": " (the lowest)", "any": " (the highest)", "largest": ""}[spec.over] if len(rows) > 1 else ""
    return answer, f"{found} at {plain(row.axes)}{which}{rest}"
