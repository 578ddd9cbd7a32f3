"""The rule for thresholds, as a specification: what enables, what blocks, and that noise never invents a crossover."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runner import results, thresholds
from runner.spec import Case, ThresholdSpec
from runner.thresholds import Evidence
from tests.journals import DEVICE, Fabricated, grid

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


SCOPED = replace(SPEC, key="scoped", per=["dtype", "head_dim"], operation="sliding")
DTYPES = {"bf16": 128, "fp16": 512}  # flash is faster from there on with a head of 64, and never with one of 128


def by_dtype(case: Mapping[str, Any]) -> float:
    return 2.0 if case["head_dim"] == 64 and case["n"] >= DTYPES[case["dtype"]] else 0.8


def test_each_scope_has_its_own_value_and_the_key_holds_what_holds_everywhere() -> None:
    found = derive(run(by_dtype, cases=grid("n", XS, dtype=list(DTYPES), head_dim=[64, 128])), SCOPED)
    assert (found.decision, found.runtime) == ("disabled", 999999)
    assert {tuple(one.scope.values()): (one.decision, one.value) for one in found.scopes} == {
        ("bf16", 64): ("enabled", 128),
        ("bf16", 128): ("disabled", None),
        ("fp16", 64): ("enabled", 512),
        ("fp16", 128): ("disabled", None),
    }
    assert thresholds.in_words(found).endswith(
        "; per dtype/head_dim: from n = 128 on for bf16/64, disabled for bf16/128 and fp16/128, from n = 512 on for fp16/64"
    )


def test_a_scope_must_win_at_every_value_of_the_axes_that_are_not_in_it() -> None:
    cases = grid("n", XS, dtype=["bf16"], batch=[1, 8])
    found = derive(
        run(lambda case: 2.0 if case["batch"] == 1 or case["n"] >= 512 else 0.8, cases=cases), replace(SPEC, per=["dtype"])
    )
    assert [(one.scope, one.value) for one in found.scopes] == [({"dtype": "bf16"}, 512)]


def test_one_scope_that_says_what_holds_everywhere_is_not_repeated() -> None:
    faster = run(lambda case: 2.0 if case["n"] >= 512 else 0.8, cases=grid("n", XS, dtype=["bf16"]))
    found = derive(faster, replace(SPEC, per=["dtype"]))
    assert len(found.scopes) == 1
    assert thresholds.in_words(found) == "flash beats masked by 1.2x from n = 512 on (dtype = bf16)"


def test_the_file_names_the_scopes_and_what_a_runtime_loads_for_each() -> None:
    cases = grid("n", XS, dtype=list(DTYPES), head_dim=[64])
    data = thresholds.thresholds(run(by_dtype, cases=cases, derive={"thresholds": [SCOPED.__dict__]}).events())
    evidence = data["evidence"]["scoped"]
    assert data["runtime"] == {"scoped": 512}
    assert (evidence["operation"], evidence["value"], evidence["never"]) == ("sliding", 512, 999999)
    assert evidence["scopes"][0] == {
        "scope": {"dtype": "bf16", "head_dim": 64},
        "decision": "enabled",
        "value": 128,
        "runtime": 128,
        "reason": "lower bound of the speedup is at least 1.2 at every measured n >= 128",
    }


def test_a_scope_that_shows_nothing_is_undecided_by_itself() -> None:
    cases = grid("n", XS, dtype=["bf16", "fp16"])
    unsupported = run(lambda case: 3.0, cases=cases, statuses=lambda case, variant: (
        ("unsupported", "no fp16") if (variant, case["dtype"]) == ("flash", "fp16") else None
    ))  # fmt: skip
    bf16, fp16 = derive(unsupported, replace(SPEC, per=["dtype"])).scopes
    assert (bf16.decision, fp16.decision) == ("enabled", "undecided")
    assert fp16.reason == "flash unsupported (no fp16) at every case"


def test_a_case_for_which_not_both_variants_are_planned_is_none_of_the_threshold() -> None:
    both = grid("n", XS)
    alone = [Case({"n": 4096}, "n", ["masked"])]
    assert derive(run(lambda case: 3.0, cases=[*both, *alone])).value == 64
    assert derive(run(lambda case: 3.0, cases=alone)).decision == "undecided"


def test_axes_that_are_fixed_in_the_whole_job_are_in_the_scope_but_in_no_sentence() -> None:
    fabricated = run(dict.fromkeys(XS, 3.0), cases=grid("n", XS, heads=[64], dtype=["bf16"]), derive={"settings": {"heads": 64}})
    found = derive(fabricated)
    assert found.scope == {"heads": 64, "dtype": "bf16"}
    assert thresholds.in_words(found) == "flash beats masked by 1.2x from n = 64 on (dtype = bf16)"


@pytest.mark.parametrize(("sm", "runtime"), [("8.9", 999999), ("9.0", 64)])
def test_policy_turns_a_key_off_on_an_sm_version_and_leaves_the_evidence_alone(sm: str, runtime: int) -> None:
    spec = replace(SPEC, off_on_sm=["8.9"], per=["dtype"])
    fabricated = run(
        dict.fromkeys(XS, 3.0), cases=grid("n", XS, dtype=["bf16"]), device={**DEVICE, "sm": sm},
        derive={"thresholds": [spec.__dict__]},
    )  # fmt: skip
    data = thresholds.thresholds(fabricated.events())
    evidence = data["evidence"]["flash_min_len"]
    assert data["runtime"] == {"flash_min_len": runtime}
    assert data["policy"]["guards"] == {"flash_min_len": {"off_on_sm": ["8.9"], "applied": sm == "8.9"}}
    assert (evidence["decision"], evidence["value"]) == ("enabled", 64)
    assert [(one["value"], one["runtime"]) for one in evidence["scopes"]] == [(64, runtime)]
    said = thresholds.in_words(derive(fabricated, spec))
    assert said.endswith("it is off on SM 8.9 by policy") == (sm == "8.9")
