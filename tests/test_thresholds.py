"""The rule for thresholds, as a specification: what enables, what blocks, and that noise never invents a crossover."""

import math
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import results, thresholds
from runner.spec import ThresholdSpec
from runner.thresholds import Evidence
from tests.journals import Fabricated, grid

XS = [64, 128, 256, 512, 1024]
SPEC = ThresholdSpec(key="flash_min_len", axis="n", baseline="masked", candidate="flash", unit="tokens", margin=1.2)


def run(speedups: Mapping[Any, float] | Any, **changes: Any) -> Fabricated:
    """Fabricate a run whose candidate is `speedups` (by x, or a function of the case) times as fast as the baseline."""
    ratio = speedups if callable(speedups) else lambda case: speedups[case["n"]]
    curves = {"masked": lambda case: 0.01 * case["n"], "flash": lambda case: 0.01 * case["n"] / ratio(case)}
    defaults: dict[str, Any] = {"curves": curves, "cases": grid("n", XS), "baseline": "masked", "workload": "attention"}
    return Fabricated(**(defaults | changes))


def derive(fabricated: Fabricated, spec: ThresholdSpec = SPEC, keep: Any = lambda event: True) -> Evidence:
    return thresholds.derive(spec, results.from_events([event for event in fabricated.events() if keep(event)]))


def status(of: Mapping[tuple[str, int], str]) -> Any:
    return lambda case, variant: (of[variant, case["n"]], "because") if (variant, case["n"]) in of else None


def test_the_smallest_x_from_which_every_x_wins() -> None:
    found = derive(run({64: 0.5, 128: 0.9, 256: 1.5, 512: 2.0, 1024: 3.0}))
    assert (found.decision, found.value, found.runtime) == ("enabled", 256, 256)
    assert found.reason == "lower bound of the speedup is at least 1.2 at every measured n >= 256"
    assert thresholds.in_words(found) == "flash beats masked by 1.2x from n = 256 on"


def test_an_early_win_followed_by_a_loss_does_not_enable() -> None:
    found = derive(run({64: 3.0, 128: 3.0, 256: 3.0, 512: 3.0, 1024: 0.8}))
    assert (found.decision, found.runtime) == ("disabled", 999999)
    assert "at the largest n, 1024, the speedup is 0.80" in found.reason


def test_a_loss_in_the_middle_moves_the_threshold_behind_it() -> None:
    assert derive(run({64: 3.0, 128: 3.0, 256: 0.9, 512: 2.0, 1024: 2.0})).value == 512


def test_faster_but_below_the_margin_is_disabled() -> None:
    found = derive(run(dict.fromkeys(XS, 1.1)))
    assert found.decision == "disabled"
    assert [row.verdict for row in found.rows] == ["faster"] * 5


def test_upto_mirrors_the_rule() -> None:
    spec = ThresholdSpec("dense_max_len", "n", "flash", "masked", direction="upto", never=0)
    found = derive(run({64: 0.5, 128: 0.6, 256: 0.95, 512: 2.0, 1024: 0.5}), spec)
    assert (found.decision, found.value) == ("enabled", 128)
    assert thresholds.in_words(found) == "masked beats flash by 1.2x up to n = 128"


@pytest.mark.parametrize("what", ["noisy", "error", "timeout"])
def test_what_is_not_ok_at_the_largest_x_leaves_it_undecided(what: str) -> None:
    found = derive(run(dict.fromkeys(XS, 3.0), statuses=status({("flash", 1024): what})))
    assert (found.decision, found.runtime) == ("undecided", 999999)


@pytest.mark.parametrize("what", ["oom", "incorrect", "unsupported"])
def test_a_candidate_that_cannot_be_used_at_the_largest_x_is_disabled(what: str) -> None:
    found = derive(run(dict.fromkeys(XS, 3.0), statuses=status({("flash", 1024): what})))
    assert (found.decision, found.runtime) == ("disabled", 999999)


def test_a_baseline_that_runs_out_of_memory_is_no_win() -> None:
    found = derive(run(dict.fromkeys(XS, 3.0), statuses=status({("masked", 1024): "oom"})))
    assert (found.decision, found.reason) == ("undecided", "at the largest n, 1024, masked out of memory (because)")


def test_a_gap_in_the_middle_blocks_only_what_is_below() -> None:
    assert derive(run(dict.fromkeys(XS, 3.0), statuses=status({("flash", 256): "noisy"}))).value == 512


def test_a_planned_case_that_was_never_reached_is_no_win() -> None:
    found = derive(run(dict.fromkeys(XS, 3.0)), keep=lambda event: event.get("case") != {"n": 1024})
    assert (found.decision, found.reason) == ("undecided", "at the largest n, 1024, flash was not measured")


def test_an_interval_across_the_margin_at_the_largest_x_is_undecided() -> None:
    found = derive(run(dict.fromkeys(XS, 1.2), noise=0.05, seed=3))
    assert found.decision == "undecided"
    assert "on both sides of 1.2" in found.reason


def test_one_x_is_too_little() -> None:
    found = derive(run(dict.fromkeys(XS, 3.0), cases=grid("n", [256])))
    assert found.decision == "undecided"
    assert "could be compared at 1 value of n only" in found.reason


def test_a_candidate_unsupported_everywhere_is_undecided_and_says_why() -> None:
    found = derive(
        run(dict.fromkeys(XS, 3.0), statuses=lambda case, variant: ("unsupported", "no fp8") if variant == "flash" else None)
    )
    assert (found.decision, found.runtime) == ("undecided", 999999)
    assert found.reason == "flash unsupported (no fp8) at every case"


def test_no_measurement_at_all_is_undecided() -> None:
    assert derive(run(dict.fromkeys(XS, 3.0)), keep=lambda event: event["event"] == "job_started").decision == "undecided"


def test_every_held_value_must_win() -> None:
    cases = grid("n", XS, window=[128, 512])
    slow_at_512 = run(lambda case: 2.0 if case["window"] == 128 or case["n"] >= 512 else 0.8, cases=cases)
    found = derive(slow_at_512)
    assert found.value == 512
    assert found.rows[0].as_dict()["held"] == {"window": 128}


def test_where_keeps_only_its_cases_and_single_values_become_the_scope() -> None:
    cases = grid("n", XS, window=[128, 512])
    spec = ThresholdSpec("k", "n", "masked", "flash", where={"window": 128})
    found = derive(run(lambda case: 2.0 if case["window"] == 128 else 0.8, cases=cases), spec)
    assert (found.value, found.scope) == (64, {"window": 128})
    assert thresholds.in_words(found).endswith("(window = 128)")


def test_an_axis_of_names_has_no_threshold() -> None:
    cases = grid("layer", ["a", "b", "c"])
    found = derive(
        Fabricated({"masked": lambda c: 2.0, "flash": lambda c: 1.0}, cases, "masked"),
        ThresholdSpec("k", "layer", "masked", "flash"),
    )
    assert (found.decision, found.reason) == ("undecided", "the values of layer are names and have no order")


@pytest.mark.parametrize(("direction", "never"), [("from", 1024), ("from", 0), ("upto", 999999), ("upto", 64)])
def test_a_never_that_a_runtime_would_take_for_a_threshold_is_named(direction: str, never: int) -> None:
    spec = ThresholdSpec("k", "n", "masked", "flash", direction=direction, never=never)
    assert "never=" in str(spec.misleading_never(list(XS)))
    fabricated = run(dict.fromkeys(XS, 3.0), derive={"thresholds": [spec.__dict__]})
    data = thresholds.thresholds(fabricated.events())
    assert data["runtime"] == {}
    assert data["evidence"]["k"]["decision"] == "undecided"


def test_the_file_has_the_parts_of_the_contract() -> None:
    fabricated = run(dict.fromkeys(XS, 3.0), derive={"thresholds": [SPEC.__dict__]})
    data = thresholds.thresholds(fabricated.events(), run_id="abc")
    assert list(data) == ["schema", "device", "software", "source", "policy", "runtime", "evidence"]
    assert data["schema"] == 1
    assert data["device"] == {"name": "NVIDIA H200", "uuid": fabricated.device["uuid"], "sm": "9.0", "driver": "580.65.06"}
    assert data["source"]["run_id"] == "abc"
    assert data["source"]["job_hash"] == fabricated.job().hash
    assert data["policy"] == {"margin": 1.2, "confidence": 0.95}
    assert data["runtime"] == {"flash_min_len": 64}
    evidence = data["evidence"]["flash_min_len"]
    assert {"decision", "axis", "unit", "baseline", "candidate", "scope", "table", "reason"} <= set(evidence)
    assert set(evidence["table"][0]) == {"x", "ratio", "ci", "verdict"}


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), crossover=st.integers(0, 5), noise=st.floats(0.002, 0.05), drift=st.floats(0, 0.3))
def test_a_planted_crossover_is_found_whatever_the_noise_and_drift(seed: int, crossover: int, noise: float, drift: float) -> None:
    fabricated = run(lambda case: 1.6 if XS.index(case["n"]) >= crossover else 0.9, seed=seed, noise=noise, drift=drift)
    found = derive(fabricated)
    assert found.runtime == (XS[crossover] if crossover < len(XS) else 999999)
    assert found.decision == ("enabled" if crossover < len(XS) else "disabled")


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    ratios=st.lists(st.floats(0.3, 4.0), min_size=5, max_size=5),
    statuses=st.dictionaries(
        st.tuples(st.sampled_from(["masked", "flash"]), st.sampled_from(XS)), st.sampled_from(["noisy", "oom", "error"])
    ),
    noise=st.floats(0.001, 0.2),
)
def test_enabled_means_a_proven_win_at_every_x_from_there_on(seed: int, ratios: list[float], statuses: Any, noise: float) -> None:
    found = derive(run(dict(zip(XS, ratios, strict=True)), seed=seed, noise=noise, statuses=status(statuses)))
    wins = {row.x: row.speedup is not None and row.speedup.low >= 1.2 and row.verdict != "noisy" for row in found.rows}
    assert [row.x for row in found.rows] == XS
    if found.decision == "enabled":
        assert all(won for x, won in wins.items() if x >= found.value)
        below = [x for x in XS if x < found.value]
        assert not below or not wins[below[-1]]
    else:
        assert found.runtime == 999999
        assert not wins[XS[-1]] or len([row for row in found.rows if row.speedup and row.verdict != "noisy"]) < 2


def test_a_true_speedup_at_the_margin_is_enabled_as_rarely_as_the_confidence_says() -> None:
    """With a true ratio of exactly the margin at the largest x, a false win is a one-sided error: 2.5% of 200 runs by chance."""
    cases = grid("n", [512, 1024])
    enabled = sum(
        derive(run({512: 3.0, 1024: 1.2}, cases=cases, seed=seed, noise=0.02, samples=60)).decision == "enabled"
        for seed in range(200)
    )
    assert enabled <= 5 + 3 * math.sqrt(5)


def test_noise_that_hides_a_small_win_leaves_it_undecided_and_never_enables() -> None:
    decisions = [derive(run(dict.fromkeys(XS, 1.21), seed=seed, noise=0.15)).decision for seed in range(30)]
    assert decisions.count("undecided") >= 25
