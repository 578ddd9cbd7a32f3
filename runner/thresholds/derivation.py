"""From a journal to evidence: a row per case, and the rule applied to all of them and to those of each scope.

The smallest x such that at every measured x' >= x, and at every value of all other axes, the lower confidence bound of the
speedup is at least the margin (`direction: upto` mirrors it). Only `ok` measurements count.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from runner import stats
from runner.journal import Event, case_key
from runner.results import Results, labels, speedup
from runner.spec import ThresholdSpec
from runner.thresholds.evidence import LOSS, OPEN, WIN, Evidence, Row, Scoped, is_number
from runner.thresholds.rule import decide

UNFIT = ("oom", "unsupported", "incorrect")
"""Statuses that say something about the variant itself: where the candidate has one, it can't be used there."""

Axes = dict[str, Any]


def derive(spec: ThresholdSpec, results: Results) -> Evidence:
    """Derive one threshold; a pure function of the journal. Never raises for what was measured or not measured."""
    measured = results.by_key()
    found = [(axes, _row(spec, axes, measured, results)) for axes in _cells(spec, results)]
    return conclude(spec, found, results.settings, off=results.device.get("sm") in spec.off_on_sm)


def conclude(
    spec: ThresholdSpec, found: Sequence[tuple[Mapping[str, Any], Row]], settings: Mapping[str, Any], off: bool = False
) -> Evidence:
    """Return what cases, each with its row, say together; the axes on which they differ are held in the rows.

    `settings` are those of the runs that they are from, `off` whether the device is one on which this is turned off.
    """
    cells = [axes for axes, _ in found]
    others = sorted({axis for axes in cells for axis in axes if axis != spec.axis})
    values = {axis: {repr(axes.get(axis)): axes.get(axis) for axes in cells} for axis in others}
    scope = {axis: next(iter(known.values())) for axis, known in values.items() if len(known) == 1}
    held = [axis for axis in others if axis not in scope]
    both = [(axes, replace(row, held={axis: axes[axis] for axis in held if axis in axes})) for axes, row in found]
    both.sort(key=lambda one: (one[1].x if is_number(one[1].x) else 0, repr(sorted(one[1].held.items()))))
    rows = [row for _, row in both]
    named = [axis for axis in scope if axis not in labels(scope, settings)]
    evidence = Evidence(spec, *decide(spec, rows), rows, scope, settings=named, off=off)
    return replace(evidence, scopes=_scopes(spec, cells, both)) if evidence.usable_never else evidence


def derive_all(results: Results) -> list[Evidence]:
    """Derive every threshold that the job declares, in its order.

    Raises RequestError when a declaration in the job is not one of this version.
    """
    return [derive(spec, results) for spec in results.declared("thresholds", ThresholdSpec)]


def _cells(spec: ThresholdSpec, results: Results) -> list[Axes]:
    """Return the axes of the cases this threshold is about: with its axis, the values of `where`, and both variants planned."""
    return [
        axes
        for axes, _ in results.cases
        if spec.axis in axes
        and all(axis in axes and axes[axis] == value for axis, value in spec.where.items())
        and {spec.baseline, spec.candidate} <= set(results.planned(axes))
    ]


def _scopes(
    spec: ThresholdSpec, cells: Sequence[Mapping[str, Any]], found: Sequence[tuple[Mapping[str, Any], Row]]
) -> list[Scoped]:
    """Decide each combination of the values of `per` from its own cases alone, in the order of the job."""
    if not spec.per:
        return []
    scopes = {_scope(spec, axes): {axis: axes[axis] for axis in spec.per} for axes in cells if set(spec.per) <= set(axes)}
    decided = []
    for name, scope in scopes.items():
        rows = [
            replace(row, held={axis: value for axis, value in row.held.items() if axis not in scope})
            for axes, row in found
            if _scope(spec, axes) == name
        ]
        decided.append(Scoped(scope, *decide(spec, rows)))
    return decided


def _scope(spec: ThresholdSpec, axes: Mapping[str, Any]) -> str:
    return repr([axes.get(axis) for axis in spec.per])


def _row(spec: ThresholdSpec, axes: Axes, measured: Mapping[tuple[str, str], Event], results: Results) -> Row:
    x, others = axes[spec.axis], Axes()  # what is held is known when all rows are
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


def _note(variant: str, event: Event) -> str:
    reason = event.get("reason")
    words = {"oom": "out of memory"}.get(str(event["status"]), str(event["status"]))
    return f"{variant} {words}" + (f" ({reason})" if reason else "")
