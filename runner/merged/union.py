"""Thresholds over the cases of several runs: one walk along x over what all runs of one GPU and set-up have measured.

A run's rows are those that it derives alone, from its own samples: only samples of one round are ever compared. What is formed
anew is what spans runs: which row stands where two measured the same case, and the decision over all of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from runner.merged.facts import Point, Run
from runner.merged.names import SHOWN, distinguish
from runner.spec import ThresholdSpec
from runner.thresholds import Evidence, Row, Scoped
from runner.thresholds.derivation import conclude
from runner.thresholds.evidence import is_number
from runner.thresholds.rule import decide


@dataclass
class Union:
    """The thresholds of one GPU and set-up. `by` has, per key, the values by scope: finer than what a workload declares.

    `waiting` are jobs of the same request on which nothing was measured: their cases are open.
    """

    device: str
    runs: list[Run]
    waiting: list[Run] = field(default_factory=list)
    label: str = ""
    specs: dict[str, ThresholdSpec] = field(default_factory=dict)
    evidence: list[Evidence] = field(default_factory=list)
    by: dict[str, list[Scoped]] = field(default_factory=dict)

    @property
    def settings(self) -> dict[str, Any]:
        """The axes that have one value in all runs, and that each of them calls a setting."""
        first, *others = (run.settings for run in self.runs)
        return {axis: value for axis, value in first.items() if all(axis in one and one[axis] == value for one in others)}

    def agrees(self, run: Run) -> bool:
        """Whether a run declares nothing else under a key that is declared here."""
        return all(self.specs.get(one.spec.key, one.spec) == one.spec for one in run.declared)

    def add(self, run: Run) -> None:
        """Take a run in, with what it declares."""
        self.runs.append(run)
        self.specs |= {one.spec.key: one.spec for one in run.declared}


def unite(runs: Sequence[Run]) -> list[Union]:
    """Derive the thresholds of every GPU and set-up, in the order of their first runs."""
    unions: dict[tuple[str, int], list[Union]] = {}
    for run in runs:
        if run.measured and run.declared:
            # Two runs may declare different things under one key: then each has its own.
            same = unions.setdefault((run.name, id(run.setup)), [])
            union = next((one for one in same if one.agrees(run)), None)
            if union is None:
                same.append(union := Union(run.name, []))
            union.add(run)
    found = [union for same in unions.values() for union in same]
    for union in found:
        asked = {id(run.asked) for run in union.runs}  # equal requests are one object
        union.waiting = [
            run for run in runs if not run.measured and run.declared and id(run.asked) in asked and union.agrees(run)
        ]
    _name(found)
    for union in found:
        _derive(union)
    return found


def scopes(evidence: Evidence, per: Sequence[str]) -> list[Scoped]:
    """Decide each combination of the values of the axes `per` from its own rows alone."""
    if not per:
        return []
    found: dict[str, tuple[dict[str, Any], list[Row]]] = {}
    for row in evidence.rows:
        axes = {**evidence.scope, **row.held}
        if set(per) <= set(axes):
            scope = {axis: axes[axis] for axis in per}
            held = {axis: value for axis, value in row.held.items() if axis not in scope}
            found.setdefault(repr([*scope.values()]), (scope, []))[1].append(replace(row, held=held))
    names = sorted(found, key=lambda name: _sorted_as(found[name][0]))
    return [Scoped(found[name][0], *decide(evidence.spec, found[name][1])) for name in names]


def runtime(evidence: Evidence, value: Any) -> Any:
    """Return what a runtime loads for a value that was found, as `Evidence.runtime` does for the one that holds everywhere."""
    return evidence.spec.never if value is None or evidence.off else value


def _name(unions: Sequence[Union]) -> None:
    """Label unions with their workload, and with what tells them apart where one GPU has several of it."""
    for device, workload in dict.fromkeys((one.device, one.runs[0].workload) for one in unions):
        same = [one for one in unions if (one.device, one.runs[0].workload) == (device, workload)]
        differing = distinguish([one.runs[0].setup for one in same])
        if len(same) > 1 and len(set(differing)) == 1:  # only what they declare differs
            differing = [f"#{place + 1}" for place in range(len(same))]
        for union, difference in zip(same, differing, strict=True):
            union.label = workload + (f" ({difference})" if difference else "")


def _derive(union: Union) -> None:
    settings = union.settings
    sms = {run.device.get("sm") for run in union.runs}
    for key, spec in union.specs.items():
        every = [(run, one.points) for run in (*union.runs, *union.waiting) for one in run.declared if one.spec == spec]
        chosen: dict[int, Point] = {}  # equal cases are one object
        for _, points in every:
            for point in points:
                other = chosen.get(id(point.case))
                if other is None or (point.both, point.time) >= (other.both, other.time):
                    chosen[id(point.case)] = point
        evidence = conclude(
            spec, [(point.case, point.row) for point in chosen.values()], settings, off=bool(sms & {*spec.off_on_sm})
        )
        union.evidence.append(evidence)
        if evidence.usable_never:
            union.by[key] = _by(evidence, _between(spec, [points for _, points in every]))


def _between(spec: ThresholdSpec, every: Iterable[Sequence[Point]]) -> list[str]:
    """Return the axes on which each run agrees with itself and not with all others: those that the jobs were split by."""
    values: dict[str, set[str]] = {}
    inside: set[str] = set()
    for points in every:
        for axis in {axis for point in points for axis in point.case if axis != spec.axis}:
            own = {repr(point.case.get(axis)) for point in points}
            values.setdefault(axis, set()).update(own)
            if len(own) > 1:
                inside.add(axis)
    return sorted(axis for axis, found in values.items() if len(found) > 1 and axis not in inside)


def _by(evidence: Evidence, between: Sequence[str]) -> list[Scoped]:
    """Return the values by what the jobs were split by, which are the single runs', then by all that they are looked up by."""
    axes = {axis for row in evidence.rows for axis in row.held} | set(evidence.scope)
    fine = [*dict.fromkeys([*evidence.spec.per, *(axis for axis in SHOWN if axis in axes), *between])]
    fine = [axis for axis in fine if axis != evidence.spec.axis]
    coarse = scopes(evidence, between) if set(between) != set(fine) else []
    return coarse + scopes(evidence, fine)


def _sorted_as(scope: Mapping[str, Any]) -> list[tuple[bool, float, str]]:
    return [(not is_number(value), value if is_number(value) else 0.0, str(value)) for value in scope.values()]
