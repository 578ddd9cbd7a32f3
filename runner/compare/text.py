"""A comparison as a person reads it, on a terminal or as plain text: what A and B are, the table, what it comes to."""

from typing import TextIO

from runner import units
from runner.compare import table, verdicts
from runner.compare.comparison import Comparison
from runner.compare.metrics import METRICS
from runner.compare.verdicts import Judged
from runner.errors import one_line

MAX_ROWS = 40


def opening(found: Comparison) -> list[str]:
    """Say what A and B are and in what they differ, then how the table is to be read; what a reader must know begins with `!`."""
    lines = [f"A  {found.old}", f"B  {found.new}"]
    lines += [f"!  {one}" for one in found.differences if one.loud]
    lines += [f"!  {one_line(warning)}" for warning in found.warnings]
    if elsewhere := sum(not one.pair.same_device for one in found.judged):
        some = f"{elsewhere} of {units.several(len(found.judged), 'pair')}" if elsewhere < len(found.judged) else "all pairs"
        calls = "it counts all the same (--across-devices)" if found.asked.across_devices else "none is called a regression"
        lines.append(f"!  not known to be the same physical device in {some}: a difference may be the hardware's, {calls}")
    within = [one for one in found.evidence if one.ratio and one.ratio.low is not None and not one.ratio.between]
    if any(not one.pair.old[-1].run.published and not one.pair.new[-1].run.published for one in within):
        lines.append(
            "!  one run of each: the intervals know the spread within a run, not the drift from run to run; "
            "name several, as in A1,A2,A3 B1,B2,B3"
        )
    lines += [f"   {one}" for one in found.differences if not one.loud]
    fixed = {workload: units.listed(axes) for workload, axes in table.shared(found).items() if axes}
    lines += [f"   all{f' of {workload}' if len(fixed) > 1 else ''} at {axes}" for workload, axes in fixed.items()]
    return [*lines, _reading(found)]


def closing(found: Comparison, everything: bool) -> list[str]:
    """Say how many cases came out how, the mean of each variant, how far the ratios are from 1, and what it comes to."""
    counts = ", ".join(f"{count} {verdict}" for verdict, count in found.counts.items())
    parts = [f"{units.several(len(found.judged), 'pair')}: {counts}" if counts else "nothing to compare"]
    for count, what in ((found.as_before, "failed in B as in A"), (found.no_figure, f"without {found.metrics[0]}")):
        parts += [f"{count} {what}"] if count else []
    alone = [f"{len(only)} only in {name}" for name, only in (("A", found.only_old), ("B", found.only_new)) if only]
    parts += [" and ".join(alone) + ("" if everything else " (--all lists them)")] if alone else []
    lines = ["; ".join(parts)]
    means = [f"{_name(*key, found)} {mean:.3f} ({count})" for key, (mean, count) in found.geometric_means().items()]
    lines += [f"geometric mean of B / A: {', '.join(means)}"] if means else []
    if moved := found.moved():
        half, most, farthest = (f"{100 * one:.1f}%" if one < 1 else f"{units.digits(1 + one)}x" for one in moved)
        lines.append(f"distance from 1: half of the ratios within {half}, 95% within {most}, all within {farthest}")
    return [*lines, conclusion(found)]


def conclusion(found: Comparison) -> str:
    """Say in one line what the exit code says."""
    broken = sum(one.broken for one in found.regressions)
    more = METRICS[found.metrics[0]].worse
    slower = len(found.regressions) - broken
    parts = [f"{units.several(slower, 'case')} {more} by over {100 * found.asked.tolerance:g}%"] if slower else []
    parts += [f"{units.several(broken, 'case')} of A with no figure in B any more"] if broken else []
    if parts:
        return f"REGRESSION: {', '.join(parts)}"
    if not any(one.ratio and one.ratio.low is not None for one in found.evidence):
        return (
            "no regression shown, but nothing could be judged: no pair has figures with a spread on both sides that are not noisy"
        )
    unclear = [_worst(one) for one in found.evidence if one.verdict == verdicts.UNCLEAR]
    open_to = f"; what is unclear may be {more} by up to {100 * max(unclear):.0f}%" if unclear else ""
    excused = f"; {units.several(len(found.excused), 'case')} would be one on the same device" if found.excused else ""
    return f"no regression: nothing {more} by over {100 * found.asked.tolerance:g}% with confidence{open_to}{excused}"


def lines(found: Comparison, terminal: TextIO | None, everything: bool) -> list[str]:
    """Return all of it as lines, with colours for a `terminal`; `everything` is every pair, and what only one side has."""
    shown = found.judged if everything else found.judged[:MAX_ROWS]
    cells = table.rows(found, shown)
    drawn = table.lines(cells, shown, terminal)
    left = len(found.judged) - len(shown)
    more = [f"and {units.several(left, 'pair')} more; --all lists them"] if left else []
    return [*opening(found), "", *drawn, *more, *(_alone(found) if everything else []), "", *closing(found, everything)]


def _reading(found: Comparison) -> str:
    """Say what the ratio means, from where on it counts, and how sure the intervals are."""
    metric, tolerance = METRICS[found.metrics[0]], f"{100 * found.asked.tolerance:g}%"
    rates = {METRICS[name].rate for name in found.metrics}
    means = f"B / A of {'1.10' if False in rates else '0.90'} is 10% {metric.worse}"
    means += f", of a rate 10% {metric.better}" if len(rates) == 2 else ""
    known = sum(one.ratio is not None and one.ratio.low is not None for one in found.evidence)
    sure = f"; the interval holds with {_percent(found.each)} confidence" if known else ""
    if known > 1:
        together = f"{100 * found.asked.confidence:g}% confidence"
        sure = f"; all {known} intervals hold together with {together}, each with {_percent(found.each)}"
    return f"   {means}; `{metric.worse}` and `{metric.better}` need the whole interval beyond {tolerance}{sure}"


def _worst(one: Judged) -> float:
    """Return by what fraction a pair may be worse, as far as its interval goes; 0 where it can only be better."""
    assert one.ratio is not None
    assert one.ratio.low is not None
    assert one.ratio.high is not None
    return max(0.0, 1 - one.ratio.low if METRICS[one.pair.here.metric].rate else one.ratio.high - 1)


def _percent(confidence: float) -> str:
    """Write a confidence with as many nines as it has and one digit more."""
    missing = 100 * (1 - confidence)
    return f"{100 - float(f'{missing:.1g}'):.10g}%" if missing < 1 else f"{100 * confidence:.3g}%"


def _name(workload: str, variant: str, metric: str, found: Comparison) -> str:
    several = len({run.workload for run in found.new_runs}) > 1
    return " ".join(filter(None, [workload if several else "", variant, metric if len(found.metrics) > 1 else ""]))


def _alone(found: Comparison) -> list[str]:
    axes = table.shared(found)
    return [
        f"only in {name}: {table.label(one, axes)} {one.variant}" + (f" on {one.run.model}" if not one.run.published else "")
        for name, only in (("A", found.only_old), ("B", found.only_new))
        for one in only
    ]
