"""What is said of each pair (slower, faster, same, unclear, or why nothing can be said), and whether it is a regression."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from runner.compare import ratio as ratios
from runner.compare.match import Pair
from runner.compare.metrics import METRICS
from runner.compare.ratio import Ratio
from runner.compare.records import Found

AS_BEFORE = "failed as before"
FIXED = "fixed"
NOISY = "noisy"
NO_INTERVAL = "no interval"
NO_FIGURE = "no figure"
SAME, UNCLEAR = "same", "unclear"


@dataclass(frozen=True)
class Judged:
    """A pair with its ratio (B over A) and its verdict; `regression` tells that it fails the comparison.

    `broken` are those that had a figure in A and fail in B; `excused` would be regressions on the same physical device.
    """

    pair: Pair
    verdict: str
    ratio: Ratio | None = None
    reason: str = ""
    worse: bool = False
    better: bool = False
    broken: bool = False
    regression: bool = False

    @property
    def excused(self) -> bool:
        """Whether only the other device keeps it from being a regression."""
        return (self.worse or self.broken) and not self.regression

    @property
    def elsewhere(self) -> bool:
        """Whether it tells two devices apart that may not be the same one: what the mark `*` says."""
        return not self.pair.same_device and (self.worse or self.broken or self.better)

    @property
    def judged(self) -> bool:
        """Whether the ratio is evidence: both sides `ok`, timed alike."""
        return self.ratio is not None and self.verdict != NOISY


def judge(pairs: Sequence[Pair], tolerance: float, confidence: float, across_devices: bool) -> tuple[list[Judged], float]:
    """Return a verdict on every pair, the biggest regressions first, and the confidence of each interval on its own.

    The intervals of all pairs that can be judged hold together with `confidence`. `slower` needs the whole interval above
    1 + `tolerance`, `faster` below 1 - `tolerance` (of rates the other way), `same` within. What is noisy is no evidence.
    """
    found = [_failing(pair) or _apart(pair) for pair in pairs]
    known = [[evidence(pair.old), evidence(pair.new)] for pair in pairs]
    measured = [index for index, one in enumerate(found) if one is None and all(known[index])]
    noisy = {index for index in measured if any(one.status == NOISY for side in known[index] for one in side)}
    each = ratios.together(confidence, len(measured) - len(noisy))
    estimates = [tuple([one.estimate for one in side if one.estimate] for side in known[index]) for index in measured]
    of = dict(zip(measured, ratios.ratios([(old, new) for old, new in estimates], each), strict=True))
    judged = []
    for index, pair in enumerate(pairs):
        one = found[index] or (
            Judged(pair, NO_FIGURE) if index not in of else _judged(pair, of[index], tolerance, index in noisy)
        )
        counts = (one.worse or one.broken) and (across_devices or pair.same_device)
        judged.append(Judged(**vars(one) | {"regression": counts}))
    return sorted(judged, key=_order), each


def _failing(pair: Pair) -> Judged | None:
    """Say so where one side has no figure: B fails what A could do, in all its runs or where A never did; or the other way."""
    old, new = [one for one in pair.old if not one.measured], [one for one in pair.new if not one.measured]
    if new and len(old) < len(pair.old) and (not old or len(new) == len(pair.new)):
        some = f" in {len(new)} of {len(pair.new)} runs" if len(new) < len(pair.new) else ""
        return Judged(pair, new[-1].status + some, reason=new[-1].reason, broken=True)
    if len(old) == len(pair.old):
        fails = len(new) == len(pair.new)
        return Judged(pair, AS_BEFORE if fails else FIXED, reason=(new if fails else old)[-1].reason)
    return None


def _apart(pair: Pair) -> Judged | None:
    """Say so where the two were not measured in the same way."""
    old, new = pair.old[-1], pair.new[-1]
    for what, before, now in (("timing", old.timing, new.timing), ("dtype", old.dtype, new.dtype)):
        if before is not None and now is not None and before != now:
            return Judged(pair, f"other {what}", reason=f"{before} in A, {now} in B")
    return None


def evidence(side: Sequence[Found]) -> list[Found]:
    """Return the runs of a side that have a figure: those that are `ok`, only where there are none the noisy ones."""
    known = [one for one in side if one.measured and one.estimate]
    return [one for one in known if one.status != NOISY] or known


def _judged(pair: Pair, found: Ratio, tolerance: float, noisy: bool) -> Judged:
    if noisy:
        reasons = [one.reason for one in (*pair.old, *pair.new) if one.status == NOISY]
        return Judged(pair, NOISY, found, reason=reasons[-1])
    if found.low is None or found.high is None:
        return Judged(pair, NO_INTERVAL, found)
    metric, more, less = METRICS[pair.here.metric], found.low > 1 + tolerance, found.high < 1 - tolerance
    if less if metric.rate else more:
        return Judged(pair, metric.worse, found, worse=True)
    if more if metric.rate else less:
        return Judged(pair, metric.better, found, better=True)
    return Judged(pair, SAME if 1 - tolerance <= found.low and found.high <= 1 + tolerance else UNCLEAR, found)


def _order(one: Judged) -> tuple[bool, bool, bool, float]:
    """Sort what is broken before what is worse, that before the rest; within these by how much worse it is."""
    worse = 0.0 if one.ratio is None else math.log(one.ratio.value) * (-1 if METRICS[one.pair.here.metric].rate else 1)
    return not (one.regression or one.excused), not one.broken, one.ratio is None, -worse
