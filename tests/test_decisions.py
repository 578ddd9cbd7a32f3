"""Decisions, as a specification: what is a yes, a no and undecided, and the built-in question about the hardware."""

import re
from dataclasses import replace
from typing import Any

import pytest

from runner import decisions, results
from runner.decisions import Answer, metrics
from runner.spec import Case, DecisionSpec
from tests.journals import DEVICE, GPU, Fabricated, grid, matmul

XS = [256, 1024, 4096]


def run(**changes: Any) -> Fabricated:
    defaults: dict[str, Any] = {
        "curves": {"fp32": lambda case: 0.1 * case["n"], "bf16": lambda case: 0.1 * case["n"] / (1 + case["n"] / 1024)},
        "cases": grid("n", XS),
    }
    return Fabricated(**(defaults | changes))


def ask(fabricated: Fabricated, at_least: float, over: str = "every", metric: str = "speedup", **more: Any) -> Answer:
    spec = DecisionSpec("k", "Is it?", metric, more.pop("variant", "bf16"), at_least, over, **more)
    return decisions.derive(spec, results.from_events(fabricated.events()))


# The true speedups are 1.25, 2 and 5.
@pytest.mark.parametrize(
    ("at_least", "over", "answer"),
    [
        (1.1, "every", "yes"),
        (1.5, "every", "no"),
        (4.0, "any", "yes"),
        (6.0, "any", "no"),
        (4.0, "largest", "yes"),
        (6.0, "largest", "no"),
        (1.25, "every", "undecided"),
        (5.0, "any", "undecided"),
        (5.0, "largest", "undecided"),
    ],
)
def test_every_any_and_largest(at_least: float, over: str, answer: str) -> None:
    assert ask(run(noise=0.02, seed=1), at_least, over).answer == answer


def test_the_reason_names_the_case_that_decides() -> None:
    assert ask(run(), 1.5).reason.startswith("1.25x [")
    assert "at n = 256 (the lowest), below 1.5" in ask(run(), 1.5).reason


def test_the_reason_names_no_setting_and_the_table_every_axis() -> None:
    shaped = run(cases=grid("n", XS, heads=[64]), derive={"settings": {"heads": 64}})
    found = ask(shaped, 1.5)
    assert "at n = 256 (the lowest)" in found.reason
    assert found.table[0]["case"] == {"n": 256, "heads": 64}
    shaped.statuses = lambda case, variant: ("error", "gone") if variant == "bf16" else None
    assert ask(shaped, 1.5).reason == "bf16 error (gone)"
    shaped.statuses = lambda case, variant: ("oom", "large") if (variant, case["n"]) == ("bf16", 4096) else None
    assert ask(shaped, 1.1).reason == "bf16 oom (large) at n = 4096"


def test_where_keeps_only_its_cases() -> None:
    assert ask(run(), 1.5, where={"n": 1024}).answer == "yes"
    assert ask(run(), 1.5, where={"n": 7}).answer == "undecided"


def test_a_percentage_has_the_interval_of_its_latency() -> None:
    fabricated = matmul()
    found = ask(fabricated, 60, "largest", "pct_of_peak")
    event = next(
        e for e in fabricated.events() if e["event"] == "measurement" and e["variant"] == "bf16" and e["case"]["n"] == 8192
    )
    low = event["rates"]["pct_of_peak"] * event["statistics"]["median_ms"] / event["statistics"]["ci_high_ms"]
    assert found.answer == "yes"
    assert found.table[0]["ci"][0] == pytest.approx(low, rel=1e-4)


def test_without_a_datasheet_a_percentage_is_undecided() -> None:
    assert ask(matmul(gpu=None), 60, "largest", "pct_of_peak").answer == "undecided"


@pytest.mark.parametrize(
    ("status", "answer"), [("oom", "no"), ("incorrect", "no"), ("noisy", "undecided"), ("error", "undecided")]
)
def test_what_is_not_ok_is_never_a_yes(status: str, answer: str) -> None:
    broken = run(statuses=lambda case, variant: (status, "why") if variant == "bf16" and case["n"] == 1024 else None)
    assert ask(broken, 1.1).answer == answer


def test_unsupported_everywhere_is_undecided() -> None:
    found = ask(run(statuses=lambda case, variant: ("unsupported", "no unit") if variant == "bf16" else None), 1.1)
    assert (found.answer, found.reason) == ("undecided", "bf16 unsupported (no unit)")


def test_asking_whether_any_of_many_cases_reaches_the_bound_is_not_answered_by_chance() -> None:
    """Twenty cases without any speedup, 60 seeds: at 95% each one case in forty would say yes, so some run in two would."""
    same = {"fp32": lambda case: 1.0, "bf16": lambda case: 1.0}
    answers = [
        ask(run(curves=same, cases=grid("n", range(1, 21)), noise=0.05, seed=seed), 1.0, "any").answer for seed in range(60)
    ]
    assert answers.count("yes") <= 5


def hardware(**changes: Any) -> Answer | None:
    return decisions.hardware(results.from_events(matmul(**changes).events()))


def test_the_gpu_that_was_asked_for_is_a_match() -> None:
    found = hardware()
    assert found is not None
    assert found.answer == "match"


def test_another_gpu_is_a_mismatch_and_the_rows_that_differ_are_named() -> None:
    found = hardware(gpu=replace(GPU, name="NVIDIA GeForce RTX 4080", match="4080", match_memory_gb=[15, 17], sm="8.9"))
    assert found is not None
    assert found.answer == "mismatch"
    assert "SM version: expected 8.9, found 9.0" in found.reason
    assert DEVICE["name"] in found.reason


def test_nothing_is_asked_of_the_hardware_when_any_would_do() -> None:
    assert hardware(gpu=None) is None


def test_the_file_quotes_yes_and_no() -> None:
    from runner.report.files import to_yaml

    fabricated = matmul()
    found = results.from_events(fabricated.events())
    text = to_yaml(decisions.as_dict(decisions.derive_all(found), found))
    assert "answer: 'yes'" in text
    assert text.index("hardware:") < text.index("bf16_reaches_60_pct:")


# Scoring and selected take half of `whole`; at the memory's speed they would take 0.05 ms each of its 1 ms.
PARTS = {"whole": 1.0, "scoring": 0.2, "selected": 0.3}
KERNEL: dict[str, Any] = {"variant": "whole", "parts": ["scoring", "selected"]}
LIMIT_MS = 0.05


def split(times: dict[str, float] | None = None, **changes: Any) -> Fabricated:
    curves = {variant: (lambda case, time=time: time) for variant, time in (PARTS | (times or {})).items()}
    moved = lambda case: (1e9, LIMIT_MS * GPU.bandwidth_gbps * 1e6)  # noqa: E731 - what the GPU moves in LIMIT_MS
    return run(**({"curves": curves, "baseline": "whole", "work": moved} | changes))


@pytest.mark.parametrize(("at_least", "answer"), [(0.45, "yes"), (0.55, "no"), (0.5, "undecided")])
def test_the_share_of_parts_in_the_whole(at_least: float, answer: str) -> None:
    assert ask(split(seed=2), at_least, "largest", "share", **KERNEL).answer == answer


@pytest.mark.parametrize(("at_least", "answer"), [(1.6, "yes"), (1.75, "no")])
def test_the_headroom_of_the_whole_if_its_parts_ran_at_the_memorys_speed(at_least: float, answer: str) -> None:
    found = ask(split(), at_least, "largest", "headroom", **KERNEL)  # 1 / (1 - 0.5 + 2 * 0.05) = 1.67
    assert found.answer == answer
    assert found.reason.startswith("a headroom of 1.6")


@pytest.mark.parametrize(
    ("share", "headroom", "answer"),
    [(0.25, 1.2, "yes"), (0.6, 1.2, "no"), (0.25, 1.8, "no"), (0.25, 1 / 0.6, "undecided"), (0.6, 1 / 0.6, "no")],
)
def test_a_case_must_reach_every_bound(share: float, headroom: float, answer: str) -> None:
    found = ask(split(noise=0.03, seed=3), share, "largest", "share", also={"headroom": headroom}, **KERNEL)
    assert found.answer == answer
    row = found.table[0]
    assert row["ci"][0] < 0.5 < row["ci"][1]
    assert row["also"]["headroom"]["ci"][0] < 1 / 0.6 < row["also"]["headroom"]["ci"][1]
    assert found.as_dict()["parts"] == ["scoring", "selected"]


def test_the_reason_gives_what_decides() -> None:
    asked: dict[str, Any] = {**KERNEL, "also": {"headroom": 1.2}}
    yes = decisions.in_words(ask(split(), 0.25, "every", "share", **asked))
    assert re.fullmatch(r"Is it\? yes: a share of 0\.\d+ \[.*\] and a headroom of 1\.\d+x \[.*\] at n = \d+ \(the lowest\)", yes)
    no = ask(split(), 0.25, "every", "share", **{**asked, "also": {"headroom": 2.0}}).reason
    assert re.fullmatch(r"a headroom of 1\.\d+x \[.*\] at n = \d+ \(the lowest\), below 2", no)


def test_every_case_has_its_verdict_and_one_no_is_enough_for_no() -> None:
    curves = {variant: (lambda case, time=time: time) for variant, time in PARTS.items()}
    curves["scoring"] = lambda case: 0.01 if case["n"] == XS[0] else 0.2
    curves["selected"] = lambda case: 0.01 if case["n"] == XS[0] else 0.3
    found = ask(split(curves=curves), 0.25, "every", "share", also={"headroom": 1.2}, **KERNEL)
    assert [row["answer"] for row in found.table] == ["no", "yes", "yes"]
    assert found.answer == "no"
    assert found.reason.endswith(f"at n = {XS[0]} (the lowest), below 0.25 and 1.2")


def test_without_a_datasheet_there_is_a_share_and_no_headroom() -> None:
    found = ask(split(gpu=None), 0.25, "largest", "share", also={"headroom": 1.2}, **KERNEL)
    assert (found.answer, found.table[0]["answer"]) == ("undecided", "undecided")
    assert found.table[0]["value"] == pytest.approx(0.5, rel=0.02)
    assert found.table[0]["also"]["headroom"] == {"value": None, "ci": None, "answer": "undecided"}
    assert found.reason == "no datasheet figure of the memory's bandwidth at n = 4096"


def test_parts_that_take_longer_alone_than_the_whole_does_are_said_and_are_no_yes_by_themselves() -> None:
    longer = split({"scoring": 0.8, "selected": 0.9})
    found = ask(longer, 0.25, "largest", "share", also={"headroom": 1.5}, **KERNEL)
    assert found.answer == "undecided"  # between 1 / (0.7 + 0.1) and 1 / 0.1
    assert found.table[0]["note"] == "scoring and selected, timed alone, take 1.70 of the time of whole"
    assert found.reason.endswith(found.table[0]["note"])
    # Where they exceed it a little, nearly all of it is theirs under both readings.
    assert ask(split({"scoring": 0.5, "selected": 0.55}), 1.5, "largest", "headroom", **KERNEL).answer == "yes"


@pytest.mark.parametrize("status", ["unsupported", "oom", "noisy", "error"])
def test_a_part_that_has_no_time_leaves_the_case_undecided(status: str) -> None:
    broken = split(statuses=lambda case, variant: (status, "why") if variant == "scoring" else None)
    found = ask(broken, 0.25, "every", "share", **KERNEL)
    assert (found.answer, found.reason) == ("undecided", f"the part scoring is {status}")


def test_parts_are_only_held_against_the_whole_of_the_same_rounds() -> None:
    events = split().events()
    for event in events:
        if event.get("variant") == "scoring":
            event["round"] = "another"
    found = decisions.derive(DecisionSpec("k", "?", "share", "whole", 0.25, parts=["scoring"]), results.from_events(events))
    assert (found.answer, found.reason) == ("undecided", "whole and its parts were not timed side by side")


def test_rounds_in_which_any_of_them_was_throttled_do_not_count() -> None:
    events = split(noise=0.0, drift=0.0).events()
    for event in events:
        if event.get("variant") == "scoring":
            event["samples_ms"] = [5.0] * 20 + event["samples_ms"][20:]
            event["throttled"] = list(range(20))
    found = decisions.derive(DecisionSpec("k", "?", "share", "whole", 0.25, parts=["scoring"]), results.from_events(events))
    assert [row["value"] for row in found.table] == [0.2] * 3


def test_a_case_for_which_not_all_parts_are_planned_is_not_asked_about() -> None:
    cases = [*grid("n", XS), Case({"n": 9999}, "n", ["whole", "scoring"])]
    found = ask(split(cases=cases), 0.25, "every", "share", **KERNEL)
    assert [row["case"]["n"] for row in found.table] == XS
    assert found.answer == "yes"


def test_every_metric_that_a_config_may_name_can_be_answered() -> None:
    from runner.config import METRICS

    assert set(METRICS) == set(metrics.METRICS)


@pytest.mark.parametrize(
    ("metric", "answer"), [("accuracy", "yes"), ("throughput_rows_per_s", "undecided"), ("no_such", "undecided")]
)
def test_a_figure_is_as_true_for_noisy_times_as_for_steady_ones_and_a_rate_is_not(metric, answer):
    events = run().events()
    for event in events:
        if event["event"] == "measurement":
            event |= {"status": "noisy", "figures": {"accuracy": {"value": 0.9, "low": 0.85, "high": 0.95}}}
            event["rates"]["per_second"] = {"throughput_rows_per_s": 1e6}
    found = decisions.derive(DecisionSpec("k", "Is it?", metric, "bf16", 0.8), results.from_events(events))
    assert found.answer == answer
    if answer == "yes":
        assert "accuracy 0.900 [0.850, 0.950] at n = 256" in found.reason


def test_a_variant_that_is_wrong_everywhere_is_a_no_and_one_that_can_run_nowhere_is_undecided():
    for status, answer in (("incorrect", "no"), ("unsupported", "undecided")):
        broken = run(statuses=lambda case, variant, status=status: (status, "why") if variant == "bf16" else None)
        assert ask(broken, 1.1).answer == answer
