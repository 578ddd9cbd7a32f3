"""What a journal is read for: which variants were planned where, what is missing, and what tells one curve from another."""

from typing import Any

from runner.results import from_events
from runner.spec import Case
from tests.journals import Fabricated, grid, matmul

SETTINGS = {"heads": 64, "head_dim": 128}
SHAPED = {
    "cases": grid("n", [128, 256], heads=[64], head_dim=[128], layer=["up", "down"]),
    "derive": {"settings": SETTINGS},
}


def blocks(**changes: Any) -> Fabricated:
    """Return a run of two blocks: one of fp32 and bf16, one of all four variants."""
    cases = [Case({"n": 128, "layer": "up"}, "n", ["fp32", "bf16"]), Case({"n": 128}, "n")]
    return matmul(**{"cases": cases, "derive": {}} | changes)


def test_a_series_is_named_by_what_differs_and_not_by_settings() -> None:
    results = from_events(matmul(**SHAPED).events())
    assert [results.series(event) for event in results.measurements[::8]] == [{"layer": "up"}, {"layer": "down"}]


def test_a_case_at_another_value_than_the_setting_is_named() -> None:
    results = from_events(matmul(**SHAPED | {"derive": {"settings": {"heads": 32}}}).events())
    assert results.series(results.measurements[0]) == {"heads": 64, "head_dim": 128, "layer": "up"}


def test_a_journal_of_before_has_no_settings_and_plans_every_variant() -> None:
    events = matmul().events()
    events[0]["job"]["derive"].pop("settings", None)
    for case in events[0]["job"]["cases"]:
        del case["variants"]
    results = from_events(events)
    assert (results.settings, results.missing) == ({}, [])
    assert results.planned({"n": 128}) == ["fp32", "tf32", "bf16", "fp8"]


def test_planned_are_the_variants_of_the_case_else_all_of_the_job() -> None:
    results = from_events(blocks().events())
    assert results.planned({"layer": "up", "n": 128}) == ["fp32", "bf16"]
    assert results.planned({"n": 128}) == ["fp32", "tf32", "bf16", "fp8"]
    assert results.planned({"n": 129}) == []
    assert results.missing == []


def test_missing_is_what_was_planned_and_not_measured() -> None:
    events = [event for event in blocks().events() if event.get("variant") not in ("bf16", "fp8")]
    assert from_events(events).missing == [
        ({"n": 128, "layer": "up"}, "bf16"), ({"n": 128}, "bf16"), ({"n": 128}, "fp8"),
    ]  # fmt: skip


def test_what_a_search_found_was_planned_for_the_variant_that_found_it() -> None:
    events = [event for event in blocks().events() if event.get("variant") in (None, "bf16")]
    events[0]["job"] |= {"mode": "search", "cases": []}
    results = from_events(events)
    assert results.planned({"n": 128}) == ["bf16"]
    assert results.missing == []
