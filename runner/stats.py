"""Medians, ratios and their confidence intervals: the only statistics in the project, shared by both planes.

Intervals of a median are order statistics of the sample (distribution-free). Consecutive timings are not independent:
clocks and neighbours drift. So the interval is computed for the *effective* sample size, n (1 - r) / (1 + r) with r the
lag-1 autocorrelation of the ranks, which widens it when samples move together.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr

MIN_BLOCKS, MAX_BLOCK = 16, 8
"""A ratio is averaged over blocks of at most MAX_BLOCK rounds, so short that there are at least MIN_BLOCKS where possible."""

Samples = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A point estimate and its confidence interval, in the unit of the samples (or a plain ratio)."""

    value: float
    low: float
    high: float

    @property
    def relative_half_width(self) -> float:
        """Half the interval's width over the value: the precision that the stop rule looks at."""
        return (self.high - self.low) / (2 * self.value) if self.value else math.inf


@dataclass(frozen=True)
class Summary:
    """What is said of one variant's samples; times in milliseconds."""

    median_ms: float
    ci_low_ms: float
    ci_high_ms: float
    confidence: float
    precision: float
    n: int
    n_effective: float
    mean_ms: float
    stdev_ms: float
    min_ms: float
    p95_ms: float
    max_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for the journal."""
        return asdict(self)


def enough(confidence: float) -> int:
    """Return how many samples an interval of a median needs for this confidence: 6 for 95%, 8 for 99%."""
    return math.ceil(1 - math.log2(1 - confidence))


def effective_size(samples: Samples) -> float:
    """Return the number of independent samples that carry as much as these do (between 2 and n)."""
    values = np.asarray(samples, dtype=np.float64)
    n = len(values)
    if n < 8:
        return float(n)
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse] - (n + 1) / 2  # equal samples share their mean rank
    variance = float(ranks @ ranks)
    r = max(0.0, float(ranks[1:] @ ranks[:-1]) / variance) if variance else 0.0
    return max(2.0, n * (1 - r) / (1 + r))


def median_interval(samples: Samples, confidence: float = 0.95) -> Interval:
    """Return the median and its distribution-free confidence interval.

    With n samples the interval runs between the order statistics whose binomial(n, 1/2) ranks hold `confidence`; for an
    effective size below n the ranks move apart by sqrt(n / n_effective). Fewer samples than `enough` have the whole range.

    Raises ValueError on an empty sample or a value that is not finite.
    """
    values = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(values)
    if n == 0 or not np.isfinite(values).all():
        raise ValueError(f"an interval needs finite samples, got {n} of them")
    half_ranks = _median_half_ranks(n, confidence) * math.sqrt(n / effective_size(samples))
    low = math.floor(round((n - 1) / 2 - half_ranks, 9))
    high = math.ceil(round((n - 1) / 2 + half_ranks, 9))
    return Interval(float(np.median(values)), float(values[max(low, 0)]), float(values[min(high, n - 1)]))


def _median_half_ranks(n: int, confidence: float) -> float:
    """Half the distance, in ranks, of the order statistics that enclose the median with `confidence`."""
    cumulative = bdtr(np.arange(n, dtype=np.float64), n, 0.5)  # P(X <= i) for X ~ binomial(n, 1/2)
    first_over = int(np.searchsorted(cumulative, (1 - confidence) / 2, side="right"))
    return (n - 1) / 2 - max(first_over - 1, 0)


def summarize(samples_ms: Samples, confidence: float = 0.95) -> Summary:
    """Summarize the times of one variant on one case (milliseconds); nothing is trimmed."""
    values = np.asarray(samples_ms, dtype=np.float64)
    interval = median_interval(values, confidence)
    return Summary(
        median_ms=interval.value,
        ci_low_ms=interval.low,
        ci_high_ms=interval.high,
        confidence=confidence,
        precision=interval.relative_half_width,
        n=len(values),
        n_effective=round(effective_size(values), 1),
        mean_ms=float(values.mean()),
        stdev_ms=float(values.std(ddof=1)) if len(values) > 1 else 0.0,
        min_ms=float(values.min()),
        p95_ms=float(np.percentile(values, 95)),
        max_ms=float(values.max()),
    )


def speedup_interval(
    baseline_ms: Samples, candidate_ms: Samples, confidence: float = 0.95, leave_out: Collection[int] = ()
) -> Interval | None:
    """Return baseline time over candidate time (above 1: the candidate is faster) with its interval.

    Sample i of both was taken in the same round, so the ratio is formed round by round and drift cancels; rounds that only
    one of them reached are left out. The order within a round is reversed in every other one, so logarithms are averaged over
    blocks of an even number of rounds, which cancels what the order does; the interval is that of the median block.

    Rounds in `leave_out` (throttled ones) don't count where enough others are left. None when there are too few rounds for
    an interval of this confidence.
    """
    rounds = _rounds([baseline_ms, candidate_ms], confidence, leave_out)
    if rounds is None:
        return None
    interval = median_interval(_blocks(np.log(rounds[0] / rounds[1]), confidence), confidence)
    return Interval(math.exp(interval.value), math.exp(interval.low), math.exp(interval.high))


def share_interval(
    parts_ms: Sequence[Samples], whole_ms: Samples, confidence: float = 0.95, leave_out: Collection[int] = ()
) -> Interval | None:
    """Return the sum of the parts' times over the whole's, as a fraction, with its interval; formed as a speedup is.

    It may exceed 1: parts that are timed alone pay for what they share within the whole. None when there are too few rounds.
    """
    rounds = _rounds([*parts_ms, whole_ms], confidence, leave_out)
    return None if rounds is None else speedup_interval(rounds[:-1].sum(axis=0), rounds[-1], confidence)


def headroom_interval(
    parts_ms: Sequence[Samples], whole_ms: Samples, limit_ms: float, confidence: float = 0.95, leave_out: Collection[int] = ()
) -> Interval | None:
    """Return how much faster the whole would be if its parts took `limit_ms` together, with its interval.

    That is 1 / (rest + limit / whole), the rest being 1 - share: what the parts don't explain. Share and whole are averaged over
    blocks first, since near a share of 1 the quotient of single rounds would be all noise.

    Where the parts together exceed the whole there are two readings, and the interval spans both: the excess is the price of
    timing parts alone, so nothing is left beside them (the upper bound, at most whole / limit); or it shows how wrong the split
    is, so as much is held against them (the value and the lower bound, with a rest of share - 1).

    None when there are too few rounds. Raises ValueError unless `limit_ms` is positive.
    """
    if not limit_ms > 0:
        raise ValueError(f"a headroom needs a limit above 0 ms, got {limit_ms}")
    rounds = _rounds([*parts_ms, whole_ms], confidence, leave_out)
    if rounds is None:
        return None
    whole = rounds[-1]
    rest = 1 - np.exp(_blocks(np.log(rounds[:-1].sum(axis=0) / whole), confidence))
    limit = limit_ms / np.exp(_blocks(np.log(whole), confidence))
    held_against = median_interval(1 / (np.abs(rest) + limit), confidence)
    in_favour = median_interval(1 / (np.maximum(rest, 0) + limit), confidence)
    return Interval(held_against.value, held_against.low, in_favour.high)


def _rounds(variants_ms: Sequence[Samples], confidence: float, leave_out: Collection[int]) -> NDArray[np.float64] | None:
    """Return the rounds that every variant reached, a row per variant; None when there are too few.

    Those to leave out are left out where enough others are left.
    """
    reached = min(len(samples) for samples in variants_ms)
    if reached < enough(confidence):
        return None
    kept = [index for index in range(reached) if index not in leave_out]
    kept = kept if len(kept) >= enough(confidence) else list(range(reached))
    return np.stack([np.asarray(samples, dtype=np.float64)[kept] for samples in variants_ms])


def _blocks(values: NDArray[np.float64], confidence: float) -> NDArray[np.float64]:
    """Average over blocks of consecutive rounds, of an even number where there are enough."""
    count = len(values)
    size = max(2, min(MAX_BLOCK, count // MIN_BLOCKS // 2 * 2)) if count >= 2 * enough(confidence) else 1
    means: NDArray[np.float64] = values[: count // size * size].reshape(-1, size).mean(axis=1)
    return means


def verdict(speedup: Interval, same_within: float) -> str:
    """Say `same`, `faster`, `slower` or `unclear` of a candidate.

    `same` needs the whole interval inside 1 +- `same_within`; `faster` and `slower` need it on one side of 1.
    """
    if 1 - same_within <= speedup.low and speedup.high <= 1 + same_within:
        return "same"
    if speedup.low > 1:
        return "faster"
    if speedup.high < 1:
        return "slower"
    return "unclear"
