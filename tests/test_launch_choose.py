"""Which offer is taken: the smallest bill within the limits, on a cloud that is enabled; else one line that says what to type."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.config import Billing, CloudConfig, LaunchConfig
from runner.cost import bill_usd
from runner.errors import RequestError
from runner.launch.choose import HOURLY, TOTAL, Candidate, Decision, choose, rank
from runner.launch.estimate import Estimate
from runner.launch.offers import Offer


def cloud(name: str, increment_s: float = 1, minimum_s: float = 0, launchable: bool = True) -> CloudConfig:
    return CloudConfig(name, name, launchable, Billing(increment_s, minimum_s, "a test", "2026-01-01"))


CLOUDS = {
    one.name: one
    for one in (
        cloud("runpod"),
        cloud("prime", 3600, 3600),
        cloud("lambda", 60, 60),
        cloud("slurm"),
        cloud("modal", launchable=False),
    )
}
SIX_MINUTES = Estimate(120, 240, 1320, "a guess")
RUNPOD, PRIME = Offer("runpod", "4090", "RTX4090", 0.59, region="CA"), Offer("prime", "4090", "RTX4090", 0.37, region="US")
LAMBDA, SLURM = Offer("lambda", "a100", "A100", 1.99, region="us-1"), Offer("slurm", "a100", "A100", 0.0, region="lab")
MODAL = Offer("modal", "4090", "RTX4090", 0.01, snapshot="2026-05-25, a list")
OLD = Offer("prime", "4090", "RTX4090", 0.2, snapshot="2025-08-19, a report")
ALL = ["runpod", "prime", "lambda", "slurm"]


def ranked(
    offers: Sequence[Offer], launch: LaunchConfig | None = None, enabled: Sequence[str] | None = ALL, on: str = "any"
) -> list[Candidate]:
    return rank(offers, CLOUDS, launch or LaunchConfig(), lambda offer: SIX_MINUTES, cloud=on, enabled=enabled)


def decided(
    offers: Sequence[Offer],
    launch: LaunchConfig | None = None,
    enabled: Sequence[str] | None = ALL,
    on: str = "any",
    gpus: Sequence[str] = ("4090",),
    **more: Any,
) -> Decision:
    launch = launch or LaunchConfig()
    return choose(ranked(offers, launch, enabled, on), gpus, CLOUDS, launch, cloud=on, enabled=enabled, **more)


def refused(*args: Any, **keys: Any) -> str:
    with pytest.raises(RequestError) as caught:
        decided(*args, **keys)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_smallest_bill_wins_over_the_lower_hourly_price() -> None:
    decision = decided([PRIME, RUNPOD])
    assert decision.chosen.offer == RUNPOD
    assert (decision.chosen.bill_usd, decision.order[1].bill_usd) == (pytest.approx(0.059), 0.37)
    assert decision.why == (
        "the smallest bill: $0.059 for 6 min, billed per second; "
        "prime is cheaper by the hour ($0.37), but its bill is $0.37 (per hour)"
    )


def test_by_the_hour_the_lower_price_wins_and_what_the_bill_would_have_taken_is_said() -> None:
    decision = decided([RUNPOD, PRIME], LaunchConfig(optimize="hourly"))
    assert decision.chosen.offer == PRIME
    assert decision.why == (
        "the lowest price per hour: $0.37; launch.optimize=bill takes runpod, whose bill is $0.059 and not $0.37"
    )


def test_the_worst_bill_is_that_of_the_longest_estimate() -> None:
    assert ranked([RUNPOD])[0].worst_bill_usd == bill_usd(0.59, 1320, CLOUDS["runpod"].billing)


@given(st.lists(st.sampled_from([0.1, 0.2, 0.3]), min_size=2, max_size=8))
def test_offers_that_cost_the_same_stay_in_order(prices: list[float]) -> None:
    offers = [Offer("runpod", "4090", "RTX4090", price, region=f"r{index}") for index, price in enumerate(prices)]
    expected = [region for _, region in sorted((price, f"r{index}") for index, price in enumerate(prices))]
    assert [one.offer.region for one in ranked(offers)] == expected


def test_snapshots_and_prices_for_comparison_are_shown_and_never_chosen() -> None:
    candidates = ranked([RUNPOD, MODAL, OLD])
    assert [(one.offer.cloud, one.excluded) for one in candidates] == [
        ("modal", "price only"),
        ("runpod", None),
        ("prime", "snapshot of 2025-08-19"),
    ]
    assert [one.offer for one in decided([RUNPOD, MODAL, OLD]).order] == [RUNPOD]
    assert "prime (snapshot of 2025-08-19)" in decided([RUNPOD, OLD]).why


def test_a_cloud_that_is_not_enabled_or_not_asked_for_is_left_out() -> None:
    assert [one.excluded for one in ranked([RUNPOD, PRIME], enabled=["prime"])] == ["not enabled", None]
    assert [one.excluded for one in ranked([RUNPOD, PRIME], on="prime")] == ["not prime", None]
    assert decided([RUNPOD, PRIME], on="prime").chosen.offer == PRIME


def test_a_region_leaves_the_others_out() -> None:
    assert decided([RUNPOD, PRIME], LaunchConfig(region="US")).chosen.offer == PRIME
    message = refused([RUNPOD, PRIME], LaunchConfig(region="USA"))
    assert message == "launch.region=USA: no offer of RTX4090 there; did you mean US?"


def test_spot_instances_only_where_they_are_wanted() -> None:
    spot = Offer("runpod", "4090", "RTX4090", 0.2, spot=True)
    assert decided([spot, RUNPOD]).chosen.offer == RUNPOD
    assert decided([spot, RUNPOD], LaunchConfig(spot=True)).chosen.offer == spot
    assert "launch.spot=true" in refused([spot])


def test_limits_leave_out_what_would_exceed_them() -> None:
    assert [one.excluded for one in ranked([RUNPOD, PRIME], LaunchConfig(max_usd=0.1))] == [None, TOTAL]
    assert [one.excluded for one in ranked([RUNPOD, PRIME], LaunchConfig(max_usd_per_hour=0.4))] == [HOURLY, None]
    assert decided([RUNPOD], LaunchConfig(max_usd=0.059, max_usd_per_hour=0.59)).chosen.offer == RUNPOD


def test_over_the_budget_names_the_cheapest_offer_its_bill_and_two_ways_on() -> None:
    assert refused([RUNPOD, PRIME], LaunchConfig(max_usd=0.01)) == (
        "launch.max_usd=0.01: the cheapest offer, runpod RTX4090 at $0.59/h, comes to some $0.059 for 6 min; "
        "raise it, or measure less, as in measure=quick"
    )
    assert refused([RUNPOD, PRIME], LaunchConfig(max_usd_per_hour=0.2)) == (
        "launch.max_usd_per_hour=0.2: the cheapest offer is prime RTX4090 at $0.37/h; raise it"
    )


def test_an_own_cluster_fits_a_budget_of_nothing() -> None:
    assert decided([LAMBDA, SLURM], LaunchConfig(max_usd=0), gpus=["a100"]).chosen.offer == SLURM


def test_fallbacks_come_behind_the_gpu_asked_for_in_their_order() -> None:
    decision = decided([SLURM, LAMBDA, RUNPOD], gpus=["4090", "a100", "4090"])
    assert [one.offer for one in decision.order] == [RUNPOD, SLURM, LAMBDA]
    assert decision.by_gpu() == [("4090", [RUNPOD]), ("a100", [SLURM, LAMBDA])]
    assert "fallback" not in decision.why


def test_a_fallback_is_chosen_when_the_gpu_asked_for_can_not_be_had() -> None:
    why = decided([MODAL, LAMBDA, SLURM], gpus=["4090", "a100"]).why
    assert why.startswith("gpu=4090 can't be had, launch.fallback has a100: the smallest bill: $0.00 for 6 min")


@pytest.mark.parametrize("offers", [[], [OLD, MODAL]])
def test_no_enabled_cloud_is_one_line_with_the_ways_on(offers: list[Offer]) -> None:
    message = refused(offers, enabled=[])
    assert message.startswith("gpu=4090: no cloud is enabled; ")
    for part in ("sky check", "launch.dry_run=true", "gpu=local"):
        assert part in message


def test_skypilot_that_can_not_be_asked_is_said_with_the_reason() -> None:
    message = refused([OLD], enabled=None, unasked="it is not installed")
    assert message.startswith("gpu=4090: SkyPilot could not be asked which clouds are enabled (it is not installed); ")
    assert "launch.dry_run=true" in message


def test_a_cloud_that_is_not_enabled_or_has_prices_only_is_said_so() -> None:
    message = refused([RUNPOD], enabled=["runpod"], on="prime")
    assert message.startswith("cloud=prime is not enabled (enabled: runpod); sky check prime")
    message = refused([MODAL], on="modal")
    assert message.startswith("cloud=modal: only its prices are known here, SkyPilot can't rent there; choose from runpod, prime")


def test_a_gpu_that_nobody_offers_names_who_might() -> None:
    message = refused([OLD, MODAL], enabled=["runpod", "slurm"])
    assert message == (
        "gpu=4090: nothing of it is offered on the enabled clouds (runpod, slurm); by this program's price list it is on prime: "
        "sky check says what each lacks; launch.fallback=[GPU] names another GPU"
    )
    assert "price list" not in refused([], enabled=["runpod"])
    assert "gpu=4090 launch.fallback=[a100]: nothing" in refused([], gpus=["4090", "a100"])
    assert refused([], enabled=["runpod"], on="runpod").endswith("cloud=any takes any")


def test_a_cloud_without_a_file_is_never_chosen() -> None:
    assert [one.excluded for one in ranked([Offer("nimbus", "4090", "RTX4090", 0.1)], enabled=["nimbus"])] == ["unknown cloud"]
