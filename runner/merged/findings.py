"""What the runs found together, as sections of the page: thresholds, decisions, what is fastest, what it costs."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from runner import thresholds, units
from runner.cost import usd
from runner.merged import panels, prices
from runner.merged.facts import Cell, Read, Run
from runner.merged.studies import Study
from runner.merged.union import Union, runtime
from runner.report.table import as_markdown
from runner.results import plain
from runner.thresholds import Evidence, Scoped
from runner.thresholds.evidence import is_number

MAX_ROWS = 60
MAX_GPUS = 12
MAX_CASES = 6
"""Cases of one study that the fastest is named for."""

MAX_BEST = 12
"""GPUs, or variants, of one case that have a row with what they cost."""

RANKS = ("fastest", "second", "third")


@dataclass
class Contest:
    """The best of each GPU at one case, or of each variant where there is one GPU; the fastest first.

    `place` is that of its series among those with the same x-axis.
    """

    study: Study
    x: str
    case: str
    best: list[Cell]
    place: int = 0


def of_thresholds(unions: Sequence[Union]) -> str:
    """Return the section: a row per threshold and GPU in words, then those whose value depends on more."""
    found = [(one, union) for union in unions for one in union.evidence]
    if not found:
        return ""
    keys = list(dict.fromkeys(one.spec.key for one, _ in found))
    found.sort(key=lambda one: keys.index(one[0].spec.key))  # the GPUs of one threshold stand together
    equal: dict[tuple[str, ...], list[str]] = {}
    for one, union in found:
        said = (_value(one), one.decision, _sentence(thresholds.in_words(one)))
        equal.setdefault((f"`{one.spec.key}`", *said), []).append(_of(union, unions))
    gpus = {union.device for union in unions}
    rows = [
        [key, f"all {len(gpus)}" if len(gpus) > 2 and gpus <= {*devices} else _some(devices, MAX_GPUS), *said]
        for (key, *said), devices in equal.items()
    ]
    parts = ["## Thresholds", "\n".join(as_markdown(["key", "on", "value", "found", "in words"], rows[:MAX_ROWS]))]
    if len(rows) > MAX_ROWS:
        parts.append(f"{len(rows) - MAX_ROWS} more are in [thresholds.yaml](thresholds.yaml).")
    several = [f"{one.device} ({one.label}): {len(one.runs)} jobs" for one in unions if len(one.runs) > 1]
    if several:
        parts.append(
            f"Derived over the cases of several jobs: {_some(several, 6)}. A job that measured nothing leaves its cases open."
        )
    for key in dict.fromkeys(one.spec.key for union in unions for one in union.evidence):
        parts += _by(key, unions)
    return "\n\n".join(parts)


def of_decisions(runs: Sequence[Run]) -> str:
    """Return the section: what the runs of each GPU answer, each from its own cases."""
    found: dict[tuple[str, str], list[tuple[Run, str, str]]] = {}
    for run in runs:
        for one in run.answers:
            if run.measured and one.key != "hardware":
                found.setdefault((one.question, run.name), []).append((run, one.answer, one.reason))
    if not found:
        return ""
    parts = ["## Decisions"]
    if any(len(one) > 1 for one in found.values()):
        parts.append("Each run answers from its own cases alone.")
    for question in dict.fromkeys(question for question, _ in found):
        rows = [[device, *_answered(answers)] for (asked, device), answers in found.items() if asked == question]
        parts += [f"**{question}**", "\n".join(as_markdown(["on", "answer", "because"], rows[:MAX_ROWS]))]
    return "\n\n".join(parts)


def contests(studies: Sequence[Study]) -> list[Contest]:
    """Return, for a few cases of each study, who is how fast there: at the largest x that most GPUs have, in each series."""
    found = []
    for study in studies:
        cells = {
            (cell.device, cell.variant, id(cell.case)): cell
            for cell in study.cells
            if cell.variant in study.comparable and cell.status == "ok" and cell.latency_ms
        }
        readings = panels.readings(cells.values(), lambda cell: (cell.latency_ms or 0.0, None, None))
        own: list[Contest] = []
        for x, every in panels.build(readings, study.settings).items():
            for _, group in groupby(every, key=lambda panel: repr(panel.series)):
                own.append(_contest(study, x, list(group), cells))
                own[-1].place = sum(one.x == x for one in own)
        own.sort(key=lambda one: (-len(one.best), one.place))  # the first series of each x before the second of any
        found += own[:MAX_CASES]
    return found


def of_contests(found: Sequence[Contest]) -> str:
    """Return the section: the fastest variants, at one case of each series."""
    found = [one for one in found if len(one.best) > 1]
    if not found:
        return ""
    several = any(len(one.study.devices) > 1 for one in found)
    ranks = max(min(len(one.best), len(RANKS)) for one in found)
    rows = [[one.study.label, one.case, *(_ranked(one, place) for place in range(ranks))] for one in found[:MAX_ROWS]]
    about = (
        "Each machine with its fastest variant. Different ones were not timed side by side: there is no ratio with an interval."
        if several
        else "Of the variants that do the whole task."
    )
    table = as_markdown(["workload", "at", *RANKS[:ranks]], rows)
    return "\n\n".join(["## What is fastest", about, "\n".join(table)])


def of_costs(found: Sequence[Contest], read: Read) -> str:
    """Return the section: what a call costs in money and energy on each GPU, at the first case of each study; "" if unknown."""
    rows = []
    for _, group in groupby(found, key=lambda one: id(one.study)):
        contest = next(group)
        for cell in contest.best[:MAX_BEST]:
            price = read.runs[cell.run].price
            cost = prices.usd_per_million_calls(cell.latency_ms, price)
            rate = prices.gflops_per_watt(cell.ops, cell.energy_mj)
            if cost is None and cell.energy_mj is None:
                continue
            rows.append(
                [
                    contest.study.label,
                    contest.case,
                    f"`{cell.variant}` on {cell.device}",
                    units.latency(cell.latency_ms or 0.0),
                    _energy(cell.energy_mj) if cell.energy_mj is not None else "",
                    units.digits(rate) if rate is not None else "",
                    usd(cost) if cost is not None else "",
                    f"{usd(price.usd_per_hour)}, {price.source}" if price else "",
                ]
            )
    if not rows:
        return ""
    columns = ["workload", "at", "what", "latency", "energy a call", "GFLOPS/W", "a million calls", "$/h"]
    used = [index for index in range(len(columns)) if any(row[index] for row in rows)]
    table = as_markdown([columns[i] for i in used], [[row[i] for i in used] for row in rows[:MAX_ROWS]])
    about = "One call after the other. Energy is by the GPU's counter, idle power included."
    return "\n\n".join(["## Cost and energy", about, "\n".join(table)])


def _contest(study: Study, x: str, group: Sequence[panels.Panel], cells: dict[tuple[str, str, int], Cell]) -> Contest:
    every = [one for panel in group for curve in panel.curves.values() for one in curve]
    devices: dict[Any, set[str]] = {}
    for one in every:
        devices.setdefault(one.case.get(x), set()).add(one.device)
    at = max(devices, key=lambda value: (len(devices[value]), value if is_number(value) else 0))
    there = [cells[one.device, one.variant, id(one.case)] for one in every if one.case.get(x) == at]
    there.sort(key=lambda cell: cell.latency_ms or 0.0)
    best: dict[str, Cell] = {}
    for cell in there:
        best.setdefault(cell.device if len(study.devices) > 1 else cell.variant, cell)
    return Contest(study, x, plain({x: at} | group[0].named), list(best.values()))


def _answered(answers: Sequence[tuple[Run, str, str]]) -> list[str]:
    """Return what some runs answer, and why: of each answer the first one's reason."""
    first: dict[str, tuple[Run, str]] = {}
    for run, answer, reason in answers:
        first.setdefault(answer, (run, reason))
    if len(answers) == 1:
        return [f"**{answers[0][1]}**", answers[0][2]]
    counts = Counter(answer for _, answer, _ in answers)
    said = ", ".join(f"**{answer}** in {counts[answer]} of {len(answers)}" for answer in first)
    return [said, "; ".join(f"{reason} (job {run.source.index})" for run, reason in first.values())]


def _ranked(contest: Contest, place: int) -> str:
    if place >= len(contest.best):
        return ""
    cell = contest.best[place]
    low, high = cell.latency_low_ms, cell.latency_high_ms
    time = units.interval(cell.latency_ms or 0.0, low or 0.0, high or 0.0)
    return f"`{cell.variant}`" + (f" on {cell.device}" if len(contest.study.devices) > 1 else "") + f": {time}"


def _by(key: str, unions: Sequence[Union]) -> list[str]:
    """Return a table of one threshold's values by scope, a column per GPU, where any of them is not the one for all."""
    own = [(union, one) for union in unions for one in union.evidence if one.spec.key == key]
    if not any(runtime(one, scope.value) != one.runtime for union, one in own for scope in union.by.get(key) or []):
        return []
    axes = list(dict.fromkeys(axis for union, _ in own for scope in union.by.get(key) or [] for axis in scope.scope))
    heads = [_of(union, [other for other, _ in own]) for union, _ in own][:MAX_GPUS]
    rows: dict[str, tuple[Scoped, dict[int, str]]] = {}
    for place, (union, one) in enumerate(own):
        for scope in union.by.get(key) or []:
            rows.setdefault(repr(scope.scope), (scope, {}))[1][place] = _scoped(one, scope)
    cells = [
        [*(f"{scope.scope.get(axis, 'all')}" for axis in axes), *(values.get(place, "") for place in range(len(heads)))]
        for scope, values in rows.values()
    ]
    table = as_markdown([*axes, *heads], cells[:MAX_ROWS])
    all_shown = len(cells) <= MAX_ROWS and len(own) <= MAX_GPUS
    more = [] if all_shown else ["More scopes or machines are in [thresholds.yaml](thresholds.yaml)."]
    return [f"`{key}` by {', '.join(axes)}:", "\n".join(table), *more]


def _of(union: Union, every: Sequence[Union]) -> str:
    """Name the GPU of a union, and what it differs in where its GPU has several of one workload."""
    workload = union.runs[0].workload
    twice = sum((one.device, one.runs[0].workload) == (union.device, workload) for one in every) > 1
    return union.device + (union.label.removeprefix(workload) if twice else "")


def _value(one: Evidence) -> str:
    return f"{one.runtime}" if one.decision == "enabled" and not one.off else f"{one.spec.never} (never)"


def _scoped(one: Evidence, scope: Scoped) -> str:
    if scope.decision == "enabled":
        return f"{runtime(one, scope.value)}"
    return {"disabled": "never"}.get(scope.decision, scope.decision)


def _energy(millijoules: float) -> str:
    return f"{units.digits(millijoules)} mJ" if millijoules < 1e3 else f"{units.digits(millijoules / 1e3)} J"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] if text.startswith("undecided") else text


def _some(names: Sequence[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
