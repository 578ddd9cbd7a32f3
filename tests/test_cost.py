"""Bills: never less than by the second, exact at whole increments, and how long a budget lasts."""

import doctest
import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from runner import cost
from runner.compose import compose
from runner.config import Billing
from runner.cost import bill_usd, billed_s, longest_s, rule, usd


def billing(increment_s: float, minimum_s: float = 0) -> Billing:
    return Billing(increment_s, minimum_s, "a test", "2026-01-01")


SECOND, MINUTE, HOUR = billing(1), billing(60, 60), billing(3600, 3600)
RULES = st.one_of(
    st.none(),
    st.builds(
        billing,
        st.one_of(st.sampled_from([1.0, 60.0, 3600.0]), st.floats(0.1, 7200)),
        st.one_of(st.sampled_from([0.0, 60.0, 3600.0]), st.floats(0, 7200)),
    ),
)
SECONDS = st.floats(0.001, 1e6)
PRICES = st.floats(0.01, 100)


def test_six_minutes_with_an_hourly_minimum_cost_more_than_a_dearer_price_by_the_second() -> None:
    assert bill_usd(0.37, 360, HOUR) == 0.37
    assert bill_usd(0.59, 360, SECOND) == pytest.approx(0.059)


def test_the_shipped_rules_say_the_same() -> None:
    rules = {name: compose([f"cloud={name}"]).config.cloud.billing for name in ("primeintellect", "runpod", "lambda", "aws")}
    assert {name: billed_s(360.5, one) for name, one in rules.items()} == {
        "primeintellect": 3600, "runpod": 361, "lambda": 420, "aws": 361,
    }  # fmt: skip
    assert {name: billed_s(5, one) for name, one in rules.items()} == {
        "primeintellect": 3600, "runpod": 5, "lambda": 60, "aws": 60,
    }  # fmt: skip


def test_what_never_lived_costs_nothing() -> None:
    assert (billed_s(0, HOUR), billed_s(-1, HOUR), bill_usd(5, 0, None)) == (0, 0, 0)


@given(RULES, SECONDS, SECONDS)
def test_living_longer_never_costs_less(one: Billing | None, first: float, second: float) -> None:
    assert billed_s(min(first, second), one) <= billed_s(max(first, second), one)


@given(RULES, SECONDS)
def test_never_less_than_by_the_second_and_never_an_increment_more(one: Billing | None, seconds: float) -> None:
    billed = billed_s(seconds, one)
    assert billed >= seconds
    if one is None:
        assert billed == seconds
    else:
        assert billed <= max(one.minimum_s, math.nextafter(seconds + one.increment_s, math.inf))


@given(st.integers(1, 10000), st.floats(0.1, 7200))
@example(3, 0.1)  # 0.30000000000000004 seconds are three increments and not four
def test_whole_increments_are_billed_as_they_are(count: int, increment: float) -> None:
    assert billed_s(count * increment, billing(increment)) == count * increment


@given(RULES, PRICES, st.floats(0, 1000))
def test_a_budget_lasts_as_long_as_the_bill_stays_within_it(one: Billing | None, price: float, budget: float) -> None:
    seconds = longest_s(budget, price, one)
    assert bill_usd(price, seconds, one) <= budget
    assert bill_usd(price, (seconds or 1e-6) * (1 + 1e-9) + 1e-6, one) > budget


def test_a_budget_below_the_minimum_buys_nothing_and_what_is_free_lasts_for_ever() -> None:
    assert longest_s(0.36, 0.37, HOUR) == 0
    assert longest_s(0.37, 0.37, HOUR) == 3600
    assert longest_s(1.0, 0.59, SECOND) == 6101
    assert longest_s(0, 0, HOUR) == math.inf
    assert longest_s(1e20, 0.01, SECOND) > 1e20


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (None, "per second"),
        (SECOND, "per second"),
        (billing(1, 60), "per second, at least 1 min"),
        (MINUTE, "per minute"),
        (HOUR, "per hour"),
        (billing(900, 5400), "per 15 min, at least 90 min"),
        (billing(0.5, 10), "per 0.5 s, at least 10 s"),
    ],
)
def test_a_rule_in_words(one: Billing | None, words: str) -> None:
    assert rule(one) == words


@given(st.floats(0, 1e4))
def test_an_amount_is_written_to_the_cent_or_finer(amount: float) -> None:
    assert float(usd(amount)[1:]) == pytest.approx(amount, abs=0.005 if amount >= 0.0995 else 0.06 * amount)


def test_the_examples_in_the_module_are_true() -> None:
    assert doctest.testmod(cost).failed == 0
