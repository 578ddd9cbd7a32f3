"""The ratio of two runs: its intervals agree with scipy's, and two runs of the same thing are hardly ever called different."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import signal, stats

from runner.compare.ratio import Estimate, as_published, of_samples, ratios, single, together

EACH = 0.99


def moving(rng, runs, samples, memory, spread=0.01):
    """Return logarithms of times of `runs` runs, a row each, whose neighbours are alike by `memory` (AR(1))."""
    noise = rng.standard_normal((runs, samples + 300)) * math.sqrt(1 - memory**2)
    return spread * signal.lfilter([1], [1, -memory], noise, axis=1)[:, 300:]


def one(logs):
    estimate = of_samples(np.exp(logs))
    assert estimate is not None
    return estimate


def found(old, new, each=EACH):
    (ratio,) = ratios([(old, new)], each)
    return ratio


def outside(logs, each):
    """Return the share of pairs of runs whose interval excludes 1."""
    estimates = [one(row) for row in logs]
    pairs = [([old], [new]) for old, new in zip(estimates[::2], estimates[1::2], strict=True)]
    return np.mean([ratio.low > 1 or ratio.high < 1 for ratio in ratios(pairs, each)])


# --- what the intervals are


def test_several_runs_a_side_have_students_interval_over_the_logarithms_of_their_figures():
    old, new = [0.10, 0.12, 0.11, 0.15], [0.21, 0.20, 0.26]
    ratio = found([single(math.exp(value)) for value in old], [single(math.exp(value)) for value in new])
    expected = stats.ttest_ind(new, old).confidence_interval(EACH)
    assert (math.log(ratio.low), math.log(ratio.high)) == pytest.approx((expected.low, expected.high))
    assert math.log(ratio.value) == pytest.approx(np.mean(new) - np.mean(old))
    assert ratio.between


def test_one_run_a_side_has_welchs_interval():
    old, new = Estimate(0.0, 0.010, 12.0), Estimate(0.5, 0.030, 5.0)
    ratio = found([old], [new])
    counts = [estimate.freedom + 1 for estimate in (old, new)]
    deviations = [estimate.error * math.sqrt(count) for estimate, count in zip((old, new), counts, strict=True)]
    shifted = [math.log(ratio.low), math.log(ratio.high)]
    for difference in shifted:  # at either bound the test of no difference is as confident as was asked for
        test = stats.ttest_ind_from_stats(0.5, deviations[1], counts[1], difference, deviations[0], counts[0], equal_var=False)
        assert test.pvalue == pytest.approx(1 - EACH)
    assert not ratio.between


def test_one_new_run_is_taken_to_scatter_as_the_old_ones_do():
    old = [0.10, 0.12, 0.11, 0.15, 0.08]
    ratio = found([single(math.exp(value)) for value in old], [single(math.exp(0.3))])
    half = stats.t.ppf((1 + EACH) / 2, 4) * np.std(old, ddof=1) * math.sqrt(1 + 1 / 5)
    assert math.log(ratio.high / ratio.value) == pytest.approx(half)


def test_runs_that_agree_by_chance_are_not_surer_than_the_samples_within_them():
    sides = [[Estimate(log, 0.1, 50.0), Estimate(log + 0.001, 0.1, 50.0)] for log in (0.0, 0.0005)]
    assert found(*sides).high > math.exp(2 * 0.1)


def test_a_published_figure_has_no_spread_and_adds_none():
    measured = [Estimate(value, 0.001, 100.0) for value in (0.10, 0.12, 0.11)]
    ratio = found([as_published(1.0)], measured)
    expected = stats.ttest_1samp([0.10, 0.12, 0.11], 0).confidence_interval(EACH)
    assert (math.log(ratio.low), math.log(ratio.high)) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("old", "new"), [(as_published(2.0), as_published(3.0)), (single(2.0), single(3.0)), (one(np.full(5, 0.1)), one(np.ones(5)))]
)
def test_figures_of_which_no_spread_is_known_have_a_ratio_without_an_interval(old, new):
    ratio = found([old], [new])
    assert (ratio.low, ratio.high) == (None, None)
    assert ratio.value == pytest.approx(new.value / old.value)


def test_an_interval_that_says_nothing_is_none():
    old, new = [single(1.0), single(3.0)], [single(2.0)]
    ratio = found(old, new, together(0.95, 10_000))
    assert (ratio.low, ratio.high, ratio.value) == (None, None, pytest.approx(2 / math.sqrt(3)))


def test_what_is_no_time_is_refused():
    for wrong in ([1.0] * 9 + [0.0], [1.0] * 9 + [-1.0], [1.0] * 9 + [math.nan]):
        with pytest.raises(ValueError, match="positive"):
            of_samples(wrong)


factors = st.floats(0.01, 100)


@given(st.lists(st.floats(0.5, 2.0), min_size=12, max_size=40), st.lists(st.floats(0.5, 2.0), min_size=12, max_size=40), factors)
def test_units_do_not_matter_and_swapping_the_sides_inverts(old, new, factor):
    ratio = found([of_samples(old)], [of_samples(new)])
    scaled = found([of_samples([factor * value for value in old])], [of_samples([factor * value for value in new])])
    swapped = found([of_samples(new)], [of_samples(old)])
    assert (scaled.value, scaled.low, scaled.high) == pytest.approx((ratio.value, ratio.low, ratio.high), rel=1e-6)
    assert (1 / swapped.value, 1 / swapped.high, 1 / swapped.low) == pytest.approx((ratio.value, ratio.low, ratio.high))


# --- how often they are wrong


@pytest.mark.parametrize(("memory", "samples"), [(0.0, 30), (0.0, 400), (0.5, 100), (0.9, 400)])
def test_two_runs_of_one_distribution_are_told_apart_no_more_often_than_stated(memory, samples):
    logs = moving(np.random.default_rng(7), 1600, samples, memory)
    assert outside(logs, 0.95) <= 0.05
    assert outside(logs, 0.999) <= 0.006  # five of 800: more has a chance below 0.1% where it is 0.1% each


def test_a_whole_table_of_equal_runs_has_a_false_regression_no_more_often_than_stated():
    rng = np.random.default_rng(11)
    tables = 0
    for _ in range(40):
        estimates = [one(row) for row in moving(rng, 60, 100, 0.6)]
        pairs = [([old], [new]) for old, new in zip(estimates[::2], estimates[1::2], strict=True)]
        tables += any(ratio.low > 1 for ratio in ratios(pairs, together(0.95, len(pairs))))
    assert tables <= 5  # 2.5% of 40 is one; six or more would come by chance once in 2,000 times


def test_a_drift_over_the_run_that_neighbours_hide_widens_the_interval():
    """Half of the variance is white, half moves over some 30 samples: neighbours are alike by 0.5 only."""
    rng = np.random.default_rng(3)
    logs = moving(rng, 400, 800, 0.97) + 0.01 * rng.standard_normal((400, 800))
    assert outside(logs, 0.999) <= 0.02  # by the neighbours' likeness alone it is over 0.2


def test_runs_that_drift_apart_are_told_apart_by_single_runs_and_not_by_several():
    rng = np.random.default_rng(5)
    wrong_single = wrong_several = 0
    for _ in range(100):
        logs = 0.002 * rng.standard_normal((8, 60)) + 0.03 * rng.standard_normal((8, 1))
        runs = [one(row) for row in logs]
        alone, several = found(runs[:1], runs[4:5], 0.95), found(runs[:4], runs[4:], 0.95)
        wrong_single += alone.low > 1 or alone.high < 1
        wrong_several += several.low > 1 or several.high < 1
    assert wrong_single > 80
    assert wrong_several <= 12  # 5 are expected


def test_what_is_ten_percent_slower_is_seen_among_fifty_cases():
    rng = np.random.default_rng(2)
    old, new = (one(row + shift) for row, shift in zip(moving(rng, 2, 200, 0.5, 0.02), (0.0, math.log(1.1)), strict=True))
    assert found([old], [new], together(0.95, 50)).low > 1.05


def test_a_clock_that_ticks_coarsely_is_no_certainty():
    ticks = one(np.log(np.repeat([9.0, 10.0, 11.0], [5, 90, 5])))
    assert ticks.error == pytest.approx(math.log(11 / 9) / (2 * 1.96), rel=1e-4)  # from the tick below to the tick above
    assert found([ticks], [one(np.log(np.repeat([10.0, 11.0, 12.0], [5, 90, 5])))], together(0.95, 1000)).low < 1.01
