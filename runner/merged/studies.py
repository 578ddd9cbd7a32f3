"""A study is what may share a picture or a row: measurements of one workload with the same parameters and the same clock.

Runs of it may differ in their GPUs, cases and variants, and in how precisely they measured.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from runner.merged.facts import Cell, Read, Run
from runner.merged.names import distinguish

MAX_DRAWN = 8
"""How many studies are drawn: more pictures would be looked at by nobody."""


@dataclass(frozen=True)
class Study:
    """The measurements of one study that stand, variants that do the whole task first; `places` are the runs' in the merge."""

    label: str
    runs: Sequence[Run]
    cells: Sequence[Cell]

    @property
    def timing(self) -> str:
        """The clock of its latencies: `cold`, `warm` or `wall`."""
        return str(self.runs[0].study["timing"])

    @property
    def baseline(self) -> str | None:
        """The variant that speed-ups are relative to, None where there is none or the runs have different ones."""
        found = {run.baseline for run in self.runs} - {None}
        return found.pop() if len(found) == 1 else None

    @cached_property
    def devices(self) -> dict[str, int]:
        """The GPUs in the order in which they came, each with its place: its colour in all pictures."""
        return {name: place for place, name in enumerate(dict.fromkeys(cell.device for cell in self.cells))}

    @cached_property
    def variants(self) -> dict[str, int]:
        """The variants with their places, in the order in which the jobs name them."""
        names = [*(name for run in self.runs for name in run.variants), *(cell.variant for cell in self.cells)]
        return {name: place for place, name in enumerate(dict.fromkeys(names))}

    @cached_property
    def comparable(self) -> frozenset[str]:
        """The variants that do the whole task."""
        return frozenset().union(*(run.comparable for run in self.runs))

    @cached_property
    def units(self) -> Mapping[str, str]:
        """The units of the axes."""
        return {axis: unit for run in self.runs for axis, unit in run.units.items()}

    @cached_property
    def settings(self) -> frozenset[str]:
        """The axes that every run which has them holds fixed: not worth naming where they have one value in all."""
        return frozenset().union(*(run.settings for run in self.runs))

    def fixed(self, cases: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
        """Return the axes that are worth naming and have one value in all of these cases."""
        values: dict[str, set[str]] = {}
        first: dict[str, Any] = {}
        for case in cases:
            for axis, value in case.items():
                values.setdefault(axis, set()).add(repr(value))
                first.setdefault(axis, value)
        return {axis: first[axis] for axis, found in values.items() if len(found) == 1 and axis not in self.settings}


def of(read: Read) -> list[Study]:
    """Return the studies with anything measured, in the order in which they came."""
    runs: dict[int, list[Run]] = {}
    for run in read.runs:
        if run.measured:
            runs.setdefault(id(run.study), []).append(run)  # equal studies are one object
    cells: dict[int, list[Cell]] = {one: [] for one in runs}
    for cell in read.cells:
        if cell.latest:
            cells[id(read.runs[cell.run].study)].append(cell)
    labels = _labels([same[0] for same in runs.values()])
    return [Study(label, same, cells[one]) for label, (one, same) in zip(labels, runs.items(), strict=True)]


def drawable(studies: Sequence[Study]) -> list[Study]:
    """Return the studies that are drawn: of many those with most measurements, in their order."""
    best = sorted(studies, key=lambda study: -len(study.cells))[:MAX_DRAWN]
    return [study for study in studies if any(study is one for one in best)]


def _labels(firsts: Sequence[Run]) -> list[str]:
    """Name each study by its workload, and by what it differs in from others of the same one."""
    found: dict[int, str] = {}
    for workload in dict.fromkeys(run.workload for run in firsts):
        same = [run for run in firsts if run.workload == workload]
        for run, difference in zip(same, distinguish([run.study for run in same]), strict=True):
            found[id(run)] = workload + (f" ({difference})" if difference else "")
    return [found[id(run)] for run in firsts]
