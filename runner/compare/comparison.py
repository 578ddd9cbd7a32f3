"""A against B, from what was typed to what is to be said: everything that the outputs show, and the exit code."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from runner import units
from runner.compare import facts, published, sources
from runner.compare.facts import Difference
from runner.compare.match import match
from runner.compare.metrics import DEFAULT, metric
from runner.compare.records import Found, Run
from runner.compare.sources import Side
from runner.compare.verdicts import AS_BEFORE, NO_FIGURE, Judged, judge
from runner.errors import EXIT_DONE, EXIT_FAILED, RequestError


@dataclass(frozen=True)
class Asked:
    """What the user asked for. `tolerance` is a fraction; `metric` of None is the latency, or all that a published table has."""

    old: str
    new: str
    out: Path = Path("outputs")
    uri: str | None = None
    metric: str | None = None
    tolerance: float = 0.05
    confidence: float = 0.95
    across_devices: bool = False


@dataclass
class Comparison:
    """What was found. `each` is the confidence of every interval on its own; `judged` has the biggest regressions first."""

    asked: Asked
    metrics: list[str]
    old: str
    new: str
    old_runs: list[Run]
    new_runs: list[Run]
    differences: list[Difference]
    judged: list[Judged]
    each: float
    only_old: list[Found]
    only_new: list[Found]
    as_before: int
    no_figure: int
    warnings: list[str] = field(default_factory=list)

    @property
    def regressions(self) -> list[Judged]:
        """The pairs that fail the comparison."""
        return [one for one in self.judged if one.regression]

    @property
    def excused(self) -> list[Judged]:
        """The pairs that would, had both run on the same physical device."""
        return [one for one in self.judged if one.excused]

    @property
    def evidence(self) -> list[Judged]:
        """The pairs whose ratio may be relied on."""
        return [one for one in self.judged if one.judged]

    @property
    def exit_code(self) -> int:
        """0: no regression; 1: at least one."""
        return EXIT_FAILED if self.regressions else EXIT_DONE

    @property
    def counts(self) -> dict[str, int]:
        """How many pairs have which verdict, in the order of the table."""
        found: dict[str, int] = {}
        for one in self.judged:
            found[one.verdict] = found.get(one.verdict, 0) + 1
        return found

    def geometric_means(self) -> dict[tuple[str, str, str], tuple[float, int]]:
        """Return (workload, variant, metric) -> (geometric mean of B over A, over how many cases), of the evidence."""
        logs: dict[tuple[str, str, str], list[float]] = {}
        for one in self.evidence:
            here = one.pair.here
            assert one.ratio is not None
            logs.setdefault((here.run.workload, here.variant, here.metric), []).append(float(np.log(one.ratio.value)))
        return {key: (float(np.exp(np.mean(values))), len(values)) for key, values in logs.items()}

    def moved(self) -> tuple[float, float, float] | None:
        """Return by what fraction half of the ratios, 95% of them and the farthest are away from 1; None without any."""
        away = [max(one.ratio.value, 1 / one.ratio.value) - 1 for one in self.evidence if one.ratio]
        return (float(np.median(away)), float(np.quantile(away, 0.95)), max(away)) if away else None


def compare(asked: Asked) -> Comparison:
    """Compare A with B.

    Raises RequestError when one of them can't be read, they have nothing in common, or an option is out of bounds.
    """
    _check(asked)
    old, new = sources.side(asked.old), sources.side(asked.new)
    metrics = [asked.metric] if asked.metric else published.metrics_of([*old.tables, *new.tables]) or [DEFAULT]
    for side in (old, new):
        sources.read_into(side, asked.out, asked.uri, metrics)
    _set_beside(old, new, metrics)
    matched = match(old.found, new.found)
    if not matched.pairs:
        raise RequestError(
            f"A and B have no case in common: A has {_content(old.found)}, B has {_content(new.found)}{_unlike(old, new)}; "
            "compare runs of the same workload, with the same settings and variants"
        )
    judged, each = judge(matched.pairs, asked.tolerance, asked.confidence, asked.across_devices)
    if all(one.verdict == NO_FIGURE for one in judged):
        raise RequestError(f"no case has {' or '.join(metrics)} in both A and B; name another --metric")
    runs = [list(dict.fromkeys(one.run for one in side.found)) for side in (old, new)]
    return Comparison(
        asked=asked,
        metrics=metrics,
        old=facts.described(asked.old, runs[0]),
        new=facts.described(asked.new, runs[1]),
        old_runs=runs[0],
        new_runs=runs[1],
        differences=facts.differences(*runs),
        judged=[one for one in judged if one.verdict not in (AS_BEFORE, NO_FIGURE)],
        each=each,
        only_old=matched.only_old,
        only_new=matched.only_new,
        as_before=sum(one.verdict == AS_BEFORE for one in judged),
        no_figure=sum(one.verdict == NO_FIGURE for one in judged),
        warnings=[*_warnings(old, new, runs), *_passed_over(matched.passed_over)],
    )


def _check(asked: Asked) -> None:
    if asked.metric is not None:
        metric(asked.metric)
    if not 0 <= asked.tolerance < 1:
        raise RequestError(f"--tolerance {asked.tolerance:g}: expected a fraction from 0 to less than 1, as in 0.05 for 5%")
    if not 0.5 <= asked.confidence < 1:
        raise RequestError(f"--confidence {asked.confidence:g}: expected at least 0.5 and less than 1, as in 0.95")


def _set_beside(old: Side, new: Side, metrics: Sequence[str]) -> None:
    """Lay the figures of published tables on the cases that they are held against; measured sides come first."""
    for side, other in ((old, new), (new, old)) if old.tables else ((new, old), (old, new)):
        for table in side.tables:
            found, notes = published.as_found(table, other.found, metrics)
            side.found += found
            side.notes += notes


def _warnings(old: Side, new: Side, runs: Sequence[Sequence[Run]]) -> Iterable[str]:
    """Yield what a reader should know of the sides before the table."""
    for name, side, own in (("A", old, runs[0]), ("B", new, runs[1])):
        for table in side.tables:
            yield f"{name} was published: no spread, no known machine. What is wrong with it: {table.reported.caveat}"
        yield from (f"{name}: {note}" for note in side.notes)
        incomplete = {run.session: run for run in own if run.status != "complete"}
        for run in list(incomplete.values())[: facts.MAX_NAMED]:
            yield f"{name}: {run.name} is {run.status}" + (f" ({run.reason})" if run.reason else "")
        if len(incomplete) > facts.MAX_NAMED:
            yield f"{name}: so are {len(incomplete) - facts.MAX_NAMED} more"
    if {run.session for run in runs[0]} & {run.session for run in runs[1]}:
        yield "A and B have a run in common, which is compared with itself"


def _passed_over(count: int) -> list[str]:
    if not count:
        return []
    return [f"{units.several(count, 'measurement')} of other GPUs or set-ups of the same case passed over: the latest stands"]


def _unlike(old: Side, new: Side) -> str:
    """Say which axes have no value in common, where that is why nothing matches."""
    axes = dict.fromkeys(axis for side in (old, new) for one in side.found for axis in one.case)
    for axis in axes:
        before, now = ({str(one.case.get(axis, "none")): None for one in side.found} for side in (old, new))
        if before and now and not before.keys() & now.keys():
            return f", with {axis} {facts.listed(before)} in A and {facts.listed(now)} in B"
    return ""


def _content(found: Sequence[Found]) -> str:
    """Say what a side has, for one who wonders why nothing matches."""
    if not found:
        return "no measurement"
    cases = units.several(len({(one.run.workload, one.case_key) for one in found}), "case")
    return f"{cases} of {facts.listed(one.run.workload for one in found)} ({facts.listed(one.variant for one in found)})"
