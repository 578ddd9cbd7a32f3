"""Intervals hold what they promise, also for samples that drift; verdicts follow from intervals alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import quantile_test

from runner.stats import (
    Interval,
    effective_size,
    enough,
    headroom_interval,
    median_interval,
    share_interval,
    speedup_interval,
    summarize,
    verdict,
)

times = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=300)


def coverage(draw, truth: float, trials: int = 600) -> float:
    intervals = [median_interval(draw(np.random.default_rng(seed))) for seed in range(trials)]
    return sum(one.low <= truth <= one.high for one in intervals) / trials


def autocorrelated(rng: np.random.Generator, rho: float, n: int = 200) -> np.ndarray:
    values = np.empty(n)
    values[0] = rng.normal() / math.sqrt(1 - rho**2)
    for i in range(1, n):
        values[i] = rho * values[i - 1] + rng.normal()
    return values + 100


@pytest.mark.parametrize("n", [6, 7, 20, 31, 100, 1000])
def test_independent_samples_get_the_interval_that_scipy_computes(n):
    # increasing samples would look autocorrelated: shuffle, and compare with scipy where no correction applied
    values = np.random.default_rng(n).permutation(np.arange(n) ** 1.5 + 1)
    ours = median_interval(values)
    theirs = quantile_test(np.sort(values), p=0.5).confidence_interval(0.95)
    if effective_size(values) == n:
        assert (ours.low, ours.high) == (theirs.low, theirs.high)
    else:
        assert ours.low <= theirs.low
        assert ours.high >= theirs.high


def test_a_95_percent_interval_holds_the_median_at_least_94_percent_of_the_time():
    assert coverage(lambda rng: rng.lognormal(size=60), truth=1.0) >= 0.94


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_drifting_samples_get_an_interval_as_wide_as_they_need(rho):
    assert coverage(lambda rng: autocorrelated(rng, rho), truth=100.0) >= 0.93


def test_drift_leaves_fewer_effective_samples():
    rng = np.random.default_rng(0)
    assert effective_size(rng.normal(size=500)) > 350
    assert effective_size(autocorrelated(rng, 0.9, 500)) < 100


def test_fewer_than_six_samples_give_their_whole_range():
    assert median_interval([3.0, 1.0, 2.0]) == Interval(2.0, 1.0, 3.0)


@pytest.mark.parametrize("samples", [[], [1.0, math.nan], [math.inf]])
def test_no_interval_without_finite_samples(samples):
    with pytest.raises(ValueError, match="finite"):
        median_interval(samples)


@given(times)
def test_the_median_lies_in_its_interval_and_the_interval_in_the_range(samples):
    interval = median_interval(samples)
    assert min(samples) <= interval.low <= interval.value <= interval.high <= max(samples)


@given(times, st.floats(0.01, 100))
def test_intervals_scale_with_the_unit(samples, factor):
    scaled, plain = median_interval([s * factor for s in samples]), median_interval(samples)
    assert math.isclose(scaled.low, plain.low * factor, rel_tol=1e-9)
    assert math.isclose(scaled.high, plain.high * factor, rel_tol=1e-9)


@given(times, times)
def test_swapping_baseline_and_candidate_inverts_the_speedup(a, b):
    there, back = speedup_interval(a, b), speedup_interval(b, a)
    if there is None or back is None:
        assert min(len(a), len(b)) < 6
        return
    assert math.isclose(there.value, 1 / back.value, rel_tol=1e-9)
    assert math.isclose(there.low, 1 / back.high, rel_tol=1e-9)


def test_a_drift_that_both_variants_share_cancels_in_their_ratio():
    drift = np.linspace(1.0, 3.0, 200)
    noise = np.random.default_rng(0).lognormal(sigma=0.002, size=(2, 200))
    interval = speedup_interval(2 * drift * noise[0], drift * noise[1])
    assert 1.995 < interval.low < interval.high < 2.005


def test_rounds_that_only_one_variant_reached_do_not_count():
    assert speedup_interval([2.0] * 6 + [9.0], [1.0] * 6).value == 2.0


def test_throttled_rounds_do_not_count_where_enough_others_are_left():
    baseline, candidate = [2.0] * 20 + [1.0] * 20, [1.0] * 40
    assert speedup_interval(baseline, candidate, leave_out=range(20)).value == 1.0
    assert speedup_interval(baseline[:10], candidate[:10], leave_out=range(10)).value == 2.0


@pytest.mark.parametrize(("confidence", "needed"), [(0.95, 6), (0.99, 8)])
def test_fewer_rounds_than_the_confidence_needs_give_no_interval(confidence, needed):
    assert enough(confidence) == needed
    assert speedup_interval([2.0] * (needed - 1), [1.0] * needed, confidence) is None
    assert speedup_interval([2.0] * needed, [1.0] * needed, confidence) == Interval(2.0, 2.0, 2.0)


def planted(rng: np.random.Generator, parts: list[float], whole: float = 1.0, noise: float = 0.03) -> tuple[list, np.ndarray]:
    """Return samples of parts and whole that take turns for 60 rounds, with a drift that they share."""
    drift = 1 + 0.2 * np.sin(np.linspace(0, 3, 60) + rng.uniform(0, 6))
    times = [time * drift * np.exp(noise * rng.standard_normal(60)) for time in (*parts, whole)]
    return times[:-1], times[-1]


def held(found, truth: float, trials: int = 400) -> float:
    """Return how often the interval that `found` makes of a generator holds the truth."""
    intervals = [found(np.random.default_rng(seed)) for seed in range(trials)]
    return sum(one.low <= truth <= one.high for one in intervals) / trials


@pytest.mark.parametrize("parts", [[0.25], [0.3, 0.4], [0.6, 0.7]])
def test_the_interval_of_a_share_holds_the_planted_one(parts):
    assert held(lambda rng: share_interval(*planted(rng, parts)), sum(parts)) >= 0.93


@pytest.mark.parametrize(("parts", "limit_ms"), [([0.25], 0.05), ([0.3, 0.4], 0.1), ([0.5], 0.5), ([0.4], 0.6)])
def test_the_interval_of_a_headroom_holds_the_planted_one(parts, limit_ms):
    """Without drift: the limit is the memory's, and doesn't drift with the clocks."""

    def found(rng):
        samples = [time * np.exp(0.03 * rng.standard_normal(60)) for time in (*parts, 1.0)]
        return headroom_interval(samples[:-1], samples[-1], limit_ms)

    assert held(found, 1 / (1 - sum(parts) + limit_ms)) >= 0.93


@given(st.floats(0.01, 0.9), st.floats(0.001, 2.0), st.floats(0.01, 100))
def test_without_noise_share_and_headroom_are_their_definitions_in_any_unit(part, limit, unit):
    rounds = [[part * unit / 2] * 20, [part * unit / 2] * 20], [unit] * 20
    share, headroom = share_interval(*rounds), headroom_interval(*rounds, limit * unit)
    assert math.isclose(share.value, part, rel_tol=1e-9)
    assert math.isclose(headroom.value, 1 / (1 - part + limit), rel_tol=1e-9)
    assert math.isclose(headroom.low, headroom.high, rel_tol=1e-9)


def test_parts_that_exceed_the_whole_give_a_headroom_between_both_readings():
    whole, part, limit = [1.0] * 20, [1.5] * 20, 0.1
    found = headroom_interval([part], whole, limit)
    assert (found.value, found.low) == pytest.approx((1 / 0.6, 1 / 0.6))  # the excess is held against the parts
    assert found.high == pytest.approx(10.0)  # nothing is left beside them: whole over limit, and never more


@given(st.floats(0.01, 5), st.floats(0.01, 2), st.integers(0, 100))
def test_a_headroom_is_finite_and_never_above_the_whole_at_the_memorys_speed(part, limit, seed):
    parts, whole = planted(np.random.default_rng(seed), [part])
    found = headroom_interval(parts, whole, limit)
    assert 0 < found.low <= found.value <= found.high <= max(whole) / limit


@pytest.mark.parametrize("interval", [share_interval, lambda *rounds, **more: headroom_interval(*rounds, 0.1, **more)])
def test_shares_and_headrooms_take_rounds_as_speedups_do(interval):
    parts, whole = [[0.9] * 20 + [0.5] * 20, [0.1] * 45], [1.0] * 40
    assert interval(parts, whole, leave_out=range(20)) == interval([[0.5] * 20, [0.1] * 20], whole[:20])
    assert interval([[1.0] * 5], [1.0] * 6) is None


def test_a_headroom_needs_a_limit():
    with pytest.raises(ValueError, match="above 0"):
        headroom_interval([[1.0] * 6], [1.0] * 6, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0.995, 1.005, "same"), (1.02, 1.2, "faster"), (0.8, 0.98, "slower"), (0.9, 1.1, "unclear"), (1.001, 1.004, "same")],
)
def test_a_verdict_needs_the_whole_interval_on_its_side(low, high, expected):
    assert verdict(Interval((low + high) / 2, low, high), same_within=0.01) == expected


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_equal_variants_are_rarely_called_different(seed):
    rng = np.random.default_rng(seed)
    false = 0
    for _ in range(40):
        a, b = rng.lognormal(sigma=0.05, size=(2, 60))
        false += verdict(speedup_interval(a, b), 0.01) in ("faster", "slower")
    assert false <= 8  # 40 pairs at 5%: eight or more has a chance of 1 in 1,000


def test_a_summary_keeps_every_sample():
    summary = summarize([1.0] * 9 + [100.0])
    assert (summary.n, summary.max_ms, summary.median_ms) == (10, 100.0, 1.0)
    assert summary.mean_ms == pytest.approx(10.9)
