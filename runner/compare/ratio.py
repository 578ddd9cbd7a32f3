"""The ratio of two medians that were measured one after the other, not side by side, with an interval that says so.

Two runs share no rounds, so nothing cancels: both medians' uncertainty counts. What is known of a run is an `Estimate`: the
logarithm of its figure, a standard error and the degrees of freedom that this error is known with. A ratio's interval is then

- with one run a side, Welch's: the errors within the runs add up, the degrees of freedom are Welch and Satterthwaite's;
- with three runs or more in all, Student's over the logarithms of the runs' figures, which also holds the drift from run to
  run (Kalibera and Jones, Rigorous benchmarking in reasonable time, 2013). One new run against several old ones is taken to
  scatter as those do. Where the errors within the runs ask for more, theirs is the interval.

docs/compare.md has what was checked and what these intervals can't know.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from runner import stats
from runner.stats import Samples

ORDER_CONFIDENCE = 0.95
"""Of the interval of a median whose width is turned into a standard error, as Price and Bonett (2001) do."""
Z = float(ndtri((1 + ORDER_CONFIDENCE) / 2))
BLOCKS, MIN_BLOCK = 8, 8
"""A run is cut into so many blocks of consecutive samples, where each has at least MIN_BLOCK."""
WIDEST = math.log(1000)
"""An interval that goes further than a factor of 1,000 up and down says nothing, and is none."""


@dataclass(frozen=True)
class Estimate:
    """What one run says of a figure: `log` is its natural logarithm, `error` the standard error of that, None where unknown.

    `freedom` are the degrees of freedom of `error`; infinite for a figure that is taken as it stands (a published one).
    """

    log: float
    error: float | None
    freedom: float

    @property
    def value(self) -> float:
        """The figure itself, in its unit."""
        return math.exp(self.log)

    @property
    def fixed(self) -> bool:
        """Whether the figure is no measurement with a spread, but taken as it stands."""
        return math.isinf(self.freedom)


@dataclass(frozen=True)
class Ratio:
    """B over A with its interval; `low` and `high` are None where nothing is known of the spread.

    `between` tells that the interval comes from runs that scatter, not only from samples within one run a side.
    """

    value: float
    low: float | None = None
    high: float | None = None
    between: bool = False


def of_samples(samples: Samples) -> Estimate | None:
    """Estimate the logarithm of a median from positive samples in the order taken; None where there are none.

    The error is the width of the median's 95% interval, between order statistics of the sample, over that of a normal one. The
    ranks lie as far apart as the effective number of samples asks for: that of `runner.stats`, or what consecutive blocks
    show, where that is less: a drift over the run, which neighbouring samples don't tell of. A bound that equals the median, as
    on a coarse clock, is taken at the next value that the clock has shown. Too few samples for an interval have no error.

    Raises ValueError on a sample that is not a positive, finite number.
    """
    taken = np.asarray(samples, dtype=np.float64)
    values, n = np.sort(taken), len(taken)
    if n == 0:
        return None
    if not (values[0] > 0 and np.isfinite(values).all()):
        raise ValueError("a ratio needs positive samples")
    median = float(np.median(values))
    if n < stats.enough(ORDER_CONFIDENCE):
        return Estimate(math.log(median), None, 1)
    size, blocks = stats.effective_size(taken), _effective_blocks(taken, median)
    half_ranks = Z / 2 * n / math.sqrt(min(size, blocks))
    low = values[max(0, math.floor((n - 1) / 2 - half_ranks))]
    high = values[min(n - 1, math.ceil((n - 1) / 2 + half_ranks))]
    low = low if low < median else values[max(0, int(np.searchsorted(values, median)) - 1)]
    high = high if high > median else values[min(n - 1, int(np.searchsorted(values, median, side="right")))]
    freedom = min(size, blocks, BLOCKS if blocks < size else n) - 1
    return Estimate(math.log(median), math.log(high / low) / (2 * Z), max(1.0, freedom))


def _effective_blocks(values: NDArray[np.float64], median: float) -> float:
    """Return how many independent samples would scatter like the blocks: by the share of each that lies above the median.

    That share has the variance 1/4n where samples are independent. Infinite where there are too few samples for blocks.
    """
    if len(values) < BLOCKS * MIN_BLOCK:
        return math.inf
    above = (values > median) + 0.5 * (values == median) - 0.5
    squares = float((above[len(values) % BLOCKS :].reshape(BLOCKS, -1).mean(axis=1) ** 2).mean())
    return max(2.0, BLOCKS / 4 / squares) if squares else math.inf


def as_published(value: float) -> Estimate | None:
    """Return a figure that is taken as it stands, without a spread; None unless it is positive."""
    return Estimate(math.log(value), 0.0, math.inf) if value > 0 else None


def single(value: float) -> Estimate | None:
    """Return a figure that was read once, of which no spread is known; None unless it is positive."""
    return Estimate(math.log(value), None, 1) if value > 0 else None


def together(confidence: float, count: int) -> float:
    """Return the confidence that each of `count` intervals needs so that all hold together with `confidence` (Bonferroni)."""
    return 1 - (1 - confidence) / max(count, 1)


def ratios(pairs: Sequence[tuple[Sequence[Estimate], Sequence[Estimate]]], each: float) -> list[Ratio]:
    """Return the ratio of each pair (runs of A, runs of B), its interval at confidence `each`.

    A side with several runs counts by the mean of their logarithms.
    """
    spread = [_Spread.of(old, new) for old, new in pairs]
    within = _half_widths([(one.within_variance, one.within_freedom) for one in spread], each)
    between = _half_widths([(one.between_variance, one.between_freedom) for one in spread], each)
    return [_ratio(*three) for three in zip(spread, within, between, strict=True)]


@dataclass(frozen=True)
class _Spread:
    """A difference of logarithms, and its variance by errors within the runs and by the scatter between them (NaN: unknown)."""

    difference: float
    within_variance: float
    within_freedom: float
    between_variance: float
    between_freedom: float

    @property
    def has_interval(self) -> bool:
        return not (math.isnan(self.within_variance) and math.isnan(self.between_variance))

    @classmethod
    def of(cls, old: Sequence[Estimate], new: Sequence[Estimate]) -> "_Spread":
        difference = _mean(new) - _mean(old)
        return cls(difference, *_within(old, new), *_between([one for one in (old, new) if not any(run.fixed for run in one)]))


def _mean(runs: Sequence[Estimate]) -> float:
    return math.fsum(run.log for run in runs) / len(runs)


def _within(*sides: Sequence[Estimate]) -> tuple[float, float]:
    """Return the variance that the runs' own errors give a difference of means, and Satterthwaite's degrees of freedom."""
    parts = [((run.error / len(runs)) ** 2, run.freedom) for runs in sides for run in runs if run.error is not None]
    if len(parts) < sum(map(len, sides)) or all(run.fixed for runs in sides for run in runs):
        return math.nan, math.nan
    variance = math.fsum(part for part, _ in parts)
    denominator = math.fsum(part**2 / freedom for part, freedom in parts)
    return variance, variance**2 / denominator if denominator else math.inf


def _between(sides: Sequence[Sequence[Estimate]]) -> tuple[float, float]:
    """Return the variance that the scatter of runs gives a difference of means, pooled over the sides, and its freedom."""
    freedom = sum(len(runs) - 1 for runs in sides)
    if freedom < 1:
        return math.nan, math.nan
    squares = math.fsum((run.log - _mean(runs)) ** 2 for runs in sides for run in runs)
    return squares / freedom * sum(1 / len(runs) for runs in sides), float(freedom)


def _half_widths(spreads: Sequence[tuple[float, float]], each: float) -> NDArray[np.float64]:
    """Return Student's half-width of each (variance, freedom) at confidence `each`; 0 where it is not known."""
    variance, freedom = np.asarray(spreads, dtype=np.float64).reshape(-1, 2).T
    quantile = np.where(
        np.isinf(freedom), ndtri((1 + each) / 2), stdtrit(np.where(np.isfinite(freedom), freedom, 1), (1 + each) / 2)
    )
    found: NDArray[np.float64] = np.nan_to_num(np.sqrt(variance) * quantile)
    return found


def _ratio(spread: _Spread, within: float, between: float) -> Ratio:
    value, half, several = math.exp(spread.difference), max(within, between), not math.isnan(spread.between_variance)
    if not spread.has_interval or half > WIDEST:
        return Ratio(value, between=several)
    return Ratio(value, value / math.exp(half), value * math.exp(half), several)
