"""Claims of others, each with a test that measured runs answer: it holds, it does not hold, or it can't be told here and why."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import decisions, figures, thresholds, units
from runner.errors import RequestError
from runner.journal import Event, case_key
from runner.report.table import looked_up
from runner.results import MEASURED, Results, plain, speedup
from runner.schema import read

FOLDER = Path(__file__).with_name("claims")

HOLDS, FAILS, OPEN, NOT_HERE = "holds", "does not hold", "undecided", "not measurable here"
TELLING = (NOT_HERE, OPEN, HOLDS, FAILS)
"""What says more comes later."""
RATES = {
    "throughput_tflops": "tflops",
    "bandwidth_gbps": "bandwidth_gbps",
    "pct_of_peak": "pct_of_peak",
    "pct_of_bandwidth": "pct_of_bandwidth",
}
"""Columns that are an amount over the latency, by their names in the journal."""


@dataclass(frozen=True)
class Question:
    """What a claim is held against: a figure of `variant` at a case of `workload`, or what a run derived.

    `metric` is a column of measurements.csv, a counter, or one of the workload's own figures; `speedup` is over the variant
    `over`, else over the run's baseline. `threshold` and `decision` name a derived value instead. The claim holds where the
    value is `at_least`, `at_most`, or `about` (within `within`, a fraction), or where the decision's answer is `answer`;
    `exact` takes the value itself and not its interval, for what is said of these very cases.
    `usable` asks only whether the variant was right in all cases: that it was measured at all. `needs` are params of the
    workload without which a run says nothing of the claim, such as the path of real data.
    """

    workload: str
    variant: str = ""
    metric: str = ""
    over: str = ""
    case: dict[str, Any] = field(default_factory=dict)
    threshold: str = ""
    decision: str = ""
    at_least: float | None = None
    at_most: float | None = None
    about: float | None = None
    within: float = 0.05
    answer: str = ""
    usable: bool = False
    exact: bool = False
    needs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Claim:
    """One claim; `behind` is what is really there. `device` is a regular expression of the devices that it is about, "" for any.

    Without a `test`, `instead` says why none is possible.
    """

    claim: str
    behind: str
    device: str = ""
    test: Question | None = None
    instead: str = ""


@dataclass(frozen=True)
class Report:
    """A report that made claims: `claims/*.yaml`."""

    title: str
    date: str
    device: str
    claims: list[Claim]


@dataclass(frozen=True)
class Verdict:
    """A claim judged; `here` is what was measured, with its interval, "" where nothing was. `runs` are those it is from."""

    claim: Claim
    verdict: str
    here: str
    reason: str = ""


def load(folder: Path = FOLDER) -> list[Report]:
    """Return the reports in `folder`, by file name. Raises RequestError for a file that is none."""
    import yaml

    found = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            data = yaml.safe_load(path.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise RequestError(f"can't read {path}: {error}") from error
        report = read(Report, data, path.name)
        for index, claim in enumerate(report.claims):
            _check(claim, f"{path.name}: claims[{index}]")
        found.append(report)
    return found


def judge(claim: Claim, runs: Sequence[Results]) -> Verdict:
    """Hold a claim against runs of one machine; of several that can tell, one that refutes it counts, else the last."""
    test = claim.test
    if test is None:
        return Verdict(claim, NOT_HERE, "", claim.instead)
    own = [run for run in runs if run.workload == test.workload]
    if not own:
        return Verdict(claim, NOT_HERE, "", f"no run of `{test.workload}` here")
    if not (own := [run for run in own if all(run.job["params"].get(name) is not None for name in test.needs)]):
        return Verdict(claim, NOT_HERE, "", f"it takes {' and '.join(f'workload.params.{name}' for name in test.needs)}")
    found = [(run, one) for run in own if (one := _answer(test, run))]
    if not found:
        what = test.threshold or test.decision or f"`{test.variant}`" + (f" at {plain(test.case)}" if test.case else "")
        return Verdict(claim, NOT_HERE, "", f"{what} is not in the runs of `{test.workload}` here")
    # a run that could not tell takes nothing back
    run, (verdict, here, reason) = max(reversed(found), key=lambda one: TELLING.index(one[1][0]))
    given = ", ".join(f"{name} {Path(str(run.job['params'][name])).name}" for name in test.needs)
    here += f" ({given})" if given and here else ""
    if claim.device and not re.search(claim.device, str(run.device.get("name"))) and verdict != NOT_HERE:
        return Verdict(claim, NOT_HERE, here, f"it is about another device ({_readable(claim.device)})")
    return Verdict(claim, verdict, here, reason)


def _answer(test: Question, run: Results) -> tuple[str, str, str] | None:
    """Return (verdict, what is here, reason) of one run, None where it has nothing to say."""
    if test.threshold:
        return _of_threshold(test, run)
    if test.decision:
        return _of_decision(test, run)
    fits = [
        event for event in run.measurements if event["variant"] == test.variant and test.case.items() <= event["case"].items()
    ]
    if test.usable:
        # one wrong case refutes it, one that could not be run leaves it open
        fits.sort(key=lambda event: (event["status"] not in MEASURED) + (event["status"] == "incorrect"))
    return _of_measurement(test, fits[-1], run) if fits else None


def _of_measurement(test: Question, event: Event, run: Results) -> tuple[str, str, str]:
    at = plain({axis: value for axis, value in event["case"].items() if axis not in run.settings})
    if event["status"] not in MEASURED:
        known = {"incorrect": FAILS}.get(event["status"], NOT_HERE)
        return known, f"`{test.variant}` is *{event['status']}* at {at}", str(event.get("reason") or "")
    if test.usable:
        count = sum(one["variant"] == test.variant and test.case.items() <= one["case"].items() for one in run.measurements)
        return HOLDS, f"`{test.variant}` was checked and timed in {units.several(count, 'case')}", ""
    if test.over:
        return _of_ratio(test, event, run, at)
    value, low, high = looked_up(event, test.metric)
    if test.metric in RATES and value is not None:
        turned = figures.turned(value, event["statistics"])
        low, high = turned.low, turned.high
    if value is None:
        return NOT_HERE, "", f"`{test.variant}` has no {test.metric} here"
    low, high = (float(value) if one is None else float(one) for one in (low, high))
    shown = units.digits(value, 4) + (f" [{units.digits(low, 4)}, {units.digits(high, 4)}]" if low != high else "")
    over = f" over `{run.baseline}`" if test.metric == "speedup" else ""
    bounds = (value, value) if test.exact else (low, high)
    return _held(test, *bounds), f"{test.metric} of `{test.variant}`{over} is {shown} at {at}", ""


def _of_ratio(test: Question, event: Event, run: Results, at: str) -> tuple[str, str, str]:
    other = run.by_key().get((case_key(event["case"]), test.over))
    found, why = speedup(other, event, run.confidence) if other else (None, f"`{test.over}` was not measured there")
    if found is None:
        return NOT_HERE, "", why
    shown = units.ratio(found.value, found.low, found.high)
    return _held(test, found.low, found.high), f"`{test.variant}` over `{test.over}` is {shown} at {at}", ""


def _of_threshold(test: Question, run: Results) -> tuple[str, str, str] | None:
    for one in thresholds.derive_all(run):
        if one.spec.key == test.threshold:
            if one.decision == "undecided":
                return OPEN, f"`{test.threshold}` is undecided", one.reason
            return _held(test, one.runtime, one.runtime), f"`{test.threshold}` is {one.runtime}", one.reason
    return None


def _of_decision(test: Question, run: Results) -> tuple[str, str, str] | None:
    for one in decisions.derive_all(run):
        if one.key == test.decision:
            verdict = OPEN if one.answer == "undecided" else HOLDS if one.answer == test.answer else FAILS
            return verdict, f"`{test.decision}`: {one.answer}", one.reason
    return None


def _held(test: Question, low: float, high: float) -> str:
    """Say whether an interval is within the bounds, outside of them, or across."""
    least = -math.inf if test.at_least is None else test.at_least
    most = math.inf if test.at_most is None else test.at_most
    if test.about is not None:
        least, most = sorted((test.about * (1 - test.within), test.about * (1 + test.within)))
    return HOLDS if least <= low and high <= most else FAILS if high < least or low > most else OPEN


def _check(claim: Claim, key: str) -> None:
    """Check what types can't say of a claim. Raises RequestError."""
    test = claim.test
    if (test is None) != bool(claim.instead):
        raise RequestError(f"{key}: expected a test, or instead: why there is none")
    if test is None:
        return
    kinds = [bool(test.metric), bool(test.threshold), bool(test.decision), test.usable]
    bounds = [test.at_least is not None, test.at_most is not None, test.about is not None]
    if sum(kinds) != 1:
        raise RequestError(f"{key}.test: expected one of metric, threshold, decision and usable")
    if any(bounds) != (bool(test.metric) or bool(test.threshold)) or bool(test.answer) != bool(test.decision):
        raise RequestError(f"{key}.test: a metric or threshold needs at_least, at_most or about; a decision needs answer")
    if (sum(bounds) > 1 and test.about is not None) or (test.over and test.metric != "speedup"):
        raise RequestError(f"{key}.test: about goes with no other bound, and over only with the metric speedup")
    if (test.metric or test.usable) and not test.variant:
        raise RequestError(f"{key}.test.variant is missing")


def _readable(pattern: str) -> str:
    return pattern.strip("^$").replace("\\", "")


def judge_all(reports: Iterable[Report], runs: Sequence[Results]) -> Mapping[str, list[Verdict]]:
    """Judge the claims of every report, by its title."""
    return {report.title: [judge(claim, runs) for claim in report.claims] for report in reports}
