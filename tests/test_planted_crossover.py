"""Crossovers that are known because they were planted: how often the rule finds them, misses them, or invents one.

Two variants cost what two formulas say; samples have a drift that both share and log-normal noise of their own. Each rate is
over 200 seeds and is printed: `python -m pytest tests/test_planted_crossover.py -s`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from runner import results, thresholds
from runner.spec import ThresholdSpec
from runner.thresholds import Evidence
from tests.journals import Curve, Fabricated, grid

SEEDS = 200
WINDOWS = [128, 256, 512, 1024, 2048, 4096]
SPEC = ThresholdSpec("fa2_min_len_win", "window", "masked", "flash", unit="tokens", margin=1.2)
MISTAKES = 0.025
"""What a two-sided 95% interval lets through at a case whose true speedup is exactly the margin."""


class Samples(Fabricated):
    """A run of which only the samples were kept: what a threshold is derived from."""

    def _timed(self, variant: str, times: dict[str, Any], ops: float, least: float) -> dict[str, Any]:
        return {"timing": "cold", "samples_ms": times[variant].tolist(), "throttled": []}


def masked(case: Mapping[str, Any]) -> float:
    """Cost a launch and all keys up to the window, in ms."""
    return 0.004 + 1e-4 * float(case["window"])


def flash(at: float, gain: float = 3.0) -> Curve:
    """Return the curve of a kernel with a dear start and `gain` times as cheap keys: 1.2 times as fast from window = `at` on."""
    start = masked({"window": at}) / 1.2 - 1e-4 * at / gain
    return lambda case: start + 1e-4 * float(case["window"]) / gain


def true_value(curve: Curve) -> int | None:
    """Return the smallest measured window from which on the true speedup is at least 1.2, None where there is none."""
    won = [masked({"window": window}) / curve({"window": window}) >= SPEC.margin for window in WINDOWS]
    return next((window for place, window in enumerate(WINDOWS) if all(won[place:])), None)


def derived(curve: Curve, seed: int, noise: float, **changes: Any) -> Evidence:
    run = Samples({"masked": masked, "flash": curve}, grid("window", WINDOWS), "masked", noise=noise, seed=seed, **changes)
    return thresholds.derive(SPEC, results.from_events(run.events()))


def outcomes(name: str, found: Callable[[int], object]) -> Counter[object]:
    """Count what comes of every seed, and say it."""
    counted = Counter(found(seed) for seed in range(SEEDS))
    print(f"\n{name}: " + ", ".join(f"{what} {count / SEEDS:.1%}" for what, count in counted.most_common()))
    return counted


def at_most(rate: float) -> float:
    """Return how many of the seeds may do what each does with this probability: three standard deviations above the mean."""
    return SEEDS * rate + 3 * math.sqrt(SEEDS * rate * (1 - rate))


def judged(evidence: Evidence, truth: int | None) -> str:
    if evidence.value == truth:
        return "right"
    early = truth is None or (evidence.value is not None and evidence.value < truth)
    return "too early" if early else "too late or undecided"


@pytest.mark.parametrize(("noise", "right"), [(0.01, 0.99), (0.05, 0.99), (0.2, 0.9)])
def test_a_planted_crossover_is_found(noise: float, right: float) -> None:
    """Planted between two windows, each in turn: the true speedup there is 15% below the margin and 18% above it or more."""

    def found(seed: int) -> str:
        curve = flash(math.sqrt(2) * WINDOWS[seed % (len(WINDOWS) - 1)])
        return judged(derived(curve, seed, noise), true_value(curve))

    counted = outcomes(f"crossover between two windows, noise {noise:.0%}", found)
    assert counted["too early"] <= at_most(0.005)
    assert counted["right"] >= SEEDS * right


def test_a_crossover_at_a_window_is_taken_for_an_earlier_one_as_rarely_as_the_confidence_says() -> None:
    """The worst place: the true speedup at 512 is exactly the margin, so nothing but chance enables it."""

    def found(seed: int) -> object:
        return derived(flash(512), seed, 0.05).value

    counted = outcomes("crossover exactly at 512, noise 5%: value", found)
    assert counted[512] <= at_most(MISTAKES)
    assert counted[1024] >= SEEDS - at_most(MISTAKES) - 1
    assert set(counted) <= {512, 1024}


@pytest.mark.parametrize("noise", [0.01, 0.05])
def test_without_a_crossover_it_is_disabled(noise: float) -> None:
    """Faster at every window, and nowhere by the margin: 1.12 times in the end."""
    curve: Curve = lambda case: masked(case) / 1.12  # noqa: E731 - a curve like the others
    counted = outcomes(f"no crossover, noise {noise:.0%}", lambda seed: derived(curve, seed, noise).decision)
    assert counted["enabled"] == 0
    assert counted["disabled"] >= SEEDS * 0.97


def test_what_noise_hides_is_undecided() -> None:
    """1.21 times as fast, with noise that spreads the speedup by 13% to either side: no one could tell."""
    curve: Curve = lambda case: masked(case) / 1.21  # noqa: E731 - a curve like the others
    counted = outcomes("1.21 times as fast, noise 30%", lambda seed: derived(curve, seed, 0.3).decision)
    assert counted["undecided"] >= SEEDS * 0.9
    assert counted["enabled"] <= at_most(2 * MISTAKES)


@pytest.mark.parametrize("window", WINDOWS[:-1])
def test_one_bad_reading_never_enables(window: int) -> None:
    """Flash loses everywhere, and at one window a bad reading has it win three times over."""

    def bad(case: Mapping[str, Any]) -> float:
        return masked(case) / (3.0 if case["window"] == window else 0.8)

    counted = outcomes(f"one bad reading at {window}", lambda seed: derived(bad, seed, 0.05, samples=30).decision)
    assert counted == {"disabled": SEEDS}


def test_each_scope_has_its_own_planted_crossover() -> None:
    curves = {64: flash(180), 128: flash(720)}

    def found(seed: int) -> object:
        run = Samples(
            {"masked": masked, "flash": lambda case: curves[case["head_dim"]](case)},
            grid("window", WINDOWS, head_dim=list(curves)), "masked", noise=0.03, seed=seed,
        )  # fmt: skip
        spec = ThresholdSpec("k", "window", "masked", "flash", per=["head_dim"])
        evidence = thresholds.derive(spec, results.from_events(run.events()))
        return (evidence.value, *(one.value for one in evidence.scopes))

    counted = outcomes("crossovers at 180 and 720 per scope: everywhere, first, second", found)
    assert counted[1024, 256, 1024] >= SEEDS * 0.97
