"""Decisions, as a specification: what is a yes, a no and undecided, and the built-in question about the hardware."""

from dataclasses import replace
from typing import Any

import pytest

from runner import decisions, results
from runner.decisions import Answer
from runner.spec import DecisionSpec
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
