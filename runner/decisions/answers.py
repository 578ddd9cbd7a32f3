"""From a journal to answers: a row per case with every metric asked about, and the case that decides."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runner.decisions import metrics
from runner.journal import Event, case_key
from runner.results import Results, labels, plain
from runner.spec import DecisionSpec
from runner.stats import Interval
from runner.thresholds import UNFIT, head


@dataclass(frozen=True)
class Found:
    """One metric of one case held against its bound: `yes`, `no` or `undecided`; without an interval `note` says why."""

    metric: str
    bound: float
    interval: Interval | None
    answer: str
    note: str = ""

    @property
    def reached(self) -> float:
        """The value in units of its bound, so that metrics can be told by how near they are to theirs."""
        value = self.interval.value if self.interval else 0.0
        return value / self.bound if self.bound > 0 else value

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the YAML's table."""
        one = self.interval
        numbers = [float(f"{number:.6g}") for number in (one.value, one.low, one.high)] if one else None
        return {"value": numbers and numbers[0], "ci": numbers and numbers[1:], "answer": self.answer}


@dataclass(frozen=True)
class Row:
    """One case: what was found for each metric, the main one first. Yes needs all of them, one no is enough for no.

    It is `refuted` where the variant was wrong, and not merely without a time.
    """

    axes: Mapping[str, Any]
    found: list[Found]
    refuted: bool = False

    @property
    def answer(self) -> str:
        """What this case says."""
        said = {one.answer for one in self.found}
        return "no" if "no" in said else "undecided" if "undecided" in said else "yes"

    @property
    def note(self) -> str:
        """What to know of it, each sentence once."""
        return "; ".join(dict.fromkeys(one.note for one in self.found if one.note))

    @property
    def telling(self) -> list[Found]:
        """The timed metrics that make the answer what it is."""
        return [one for one in self.found if one.answer == self.answer and one.interval]

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the YAML's table."""
        main, *others = self.found
        row: dict[str, Any] = {"case": dict(self.axes)} | main.as_dict() | {"answer": self.answer}
        if others:
            row["also"] = {one.metric: one.as_dict() for one in others}
        return row | ({"note": self.note} if self.note else {})


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


def derive(spec: DecisionSpec, results: Results) -> Answer:
    """Answer one declared question; a pure function of the journal. Never raises for what was measured or not measured."""
    cells = _cells(spec, results)
    # Asking whether `any` of many cases reaches the bound gives chance as many tries: each gets its share (Bonferroni).
    confidence = results.confidence
    if spec.over == "any" and cells:
        confidence = 1 - (1 - confidence) / len(cells)
    measured: dict[str, dict[str, Event]] = {}
    for (case, variant), event in results.by_key().items():
        measured.setdefault(case, {})[variant] = event
    rows = [_row(spec, axes, measured.get(case_key(axes), {}), results.baseline, confidence) for axes in cells]
    answer, reason = _answer(spec, rows, results.settings)
    details = {
        "metric": spec.metric,
        "variant": spec.variant,
        "at_least": spec.at_least,
        "over": spec.over,
        "where": dict(spec.where),
        "confidence": confidence,
    }
    details |= ({"parts": list(spec.parts)} if spec.parts else {}) | ({"also": dict(spec.also)} if spec.also else {})
    return Answer(spec.key, spec.question, answer, reason, [row.as_dict() for row in rows], details)


def derive_all(results: Results) -> list[Answer]:
    """Answer every question of the job, `hardware` first where a certain GPU was asked for.

    Raises RequestError when a declaration in the job is not one of this version.
    """
    specs = results.declared("decisions", DecisionSpec)
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


def _cells(spec: DecisionSpec, results: Results) -> list[dict[str, Any]]:
    """Return the axes of the cases that are asked about: with the values of `where`, and all that it takes planned there."""
    needed = {spec.variant, *spec.parts}
    if "speedup" in spec.bounds and results.baseline:
        needed.add(results.baseline)
    cells = [
        (axes, x)
        for axes, x in results.cases
        if all(axis in axes and axes[axis] == value for axis, value in spec.where.items())
        and needed <= set(results.planned(axes))
    ]
    if spec.over == "largest":
        top: dict[str, Any] = {}
        for axes, x in cells:
            top[x] = max(top.get(x, axes.get(x, 0)), axes.get(x, 0))
        cells = [(axes, x) for axes, x in cells if axes.get(x, 0) == top[x]]
    return [axes for axes, _ in cells]


def _row(
    spec: DecisionSpec, axes: Mapping[str, Any], measured: Mapping[str, Event], baseline: str | None, confidence: float
) -> Row:
    event = measured.get(spec.variant)
    status = str(event["status"]) if event else "not measured"
    timeless = event is not None and spec.bounds.keys() <= (event.get("figures") or {}).keys()
    if event is None or (status != "ok" and not (status == "noisy" and timeless)):  # an accuracy is no less true for noisy times
        reason = f"{spec.variant} was not measured" if event is None else f"{spec.variant} {status}"
        note = reason + (f" ({event['reason']})" if event and event.get("reason") else "")
        answer = "no" if status in UNFIT else "undecided"
        found = [Found(metric, bound, None, answer, note) for metric, bound in spec.bounds.items()]
        return Row(axes, found, refuted=status == "incorrect")
    found = []
    for metric, bound in spec.bounds.items():
        interval, note = metrics.value(metric, event, measured, baseline, spec.parts, confidence)
        found.append(Found(metric, bound, interval, _held(interval, bound), note))
    return Row(axes, found)


def _held(interval: Interval | None, bound: float) -> str:
    if interval is None:
        return "undecided"
    return "yes" if interval.low >= bound else "no" if interval.high < bound else "undecided"


def _answer(spec: DecisionSpec, rows: list[Row], settings: Mapping[str, Any]) -> tuple[str, str]:
    """Return the answer and why; cases are named without the job's `settings`."""
    if not rows:
        return "undecided", "no case of this run is asked about" + (f" ({plain(spec.where)})" if spec.where else "")
    if all(one.interval is None for row in rows for one in row.found) and not any(row.refuted for row in rows):
        return "undecided", rows[0].note
    says = {answer: [row for row in rows if row.answer == answer] for answer in ("yes", "no", "undecided")}
    order = ("yes", "undecided", "no") if spec.over == "any" else ("no", "undecided", "yes")
    answer = next(answer for answer in order if says[answer])
    # The case that decides: the best one for `any`, else the worst.
    timed = [row for row in says[answer] if row.telling]
    if not timed:
        return answer, f"{says[answer][0].note} at {plain(labels(says[answer][0].axes, settings))}"
    pick = max if spec.over == "any" else min
    row = pick(timed, key=lambda row: min(one.reached for one in row.telling))
    found = " and ".join(metrics.said(one.metric, one.interval) for one in row.telling if one.interval)
    bounds = " and ".join(f"{one.bound:g}" for one in row.telling)
    rest = {"yes": "", "no": f", below {bounds}", "undecided": f", on both sides of {bounds}"}[answer]
    which = {"every": " (the lowest)", "any": " (the highest)", "largest": ""}[spec.over] if len(rows) > 1 else ""
    return answer, f"{found} at {plain(labels(row.axes, settings))}{which}{rest}" + (f"; {row.note}" if row.note else "")
