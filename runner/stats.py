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
    reached = min(len(baseline_ms), len(candidate_ms))
    if reached < enough(confidence):
        return None
    kept = [index for index in range(reached) if index not in leave_out]
    kept = kept if len(kept) >= enough(confidence) else list(range(reached))
    logs = np.log(np.asarray(baseline_ms, dtype=np.float64)[kept] / np.asarray(candidate_ms, dtype=np.float64)[kept])
    pairs = len(kept)
    size = max(2, min(MAX_BLOCK, pairs // MIN_BLOCKS // 2 * 2)) if pairs >= 2 * enough(confidence) else 1
    blocks = logs[: pairs // size * size].reshape(-1, size).mean(axis=1)
    interval = median_interval(blocks, confidence)
    return Interval(math.exp(interval.value), math.exp(interval.low), math.exp(interval.high))


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
