"""The plan's offers as text: what one line holds, what is left out, and how it looks."""

import io
from collections.abc import Sequence

import pytest
from rich.text import Text

from runner.config import Billing, CloudConfig, LaunchConfig
from runner.launch.choose import Candidate, Decision, choose, rank
from runner.launch.estimate import Estimate
from runner.launch.offers import Offer
from runner.launch.table import MAX_ROWS, lines, rows, summary

CLOUDS = {
    "runpod": CloudConfig("runpod", "runpod", True, Billing(1, 0, "", "")),
    "aws": CloudConfig("aws", "aws", True, Billing(1, 60, "", "")),
    "prime": CloudConfig("prime", "prime", True, Billing(3600, 3600, "", "")),
    "modal": CloudConfig("modal", None, False, Billing(1, 0, "", "")),
}
ESTIMATE = Estimate(120, 240, 1320, "median of 3 earlier runs")
POD = "1x_RTX4090_SECURE"
OFFERS = [
    *(Offer("runpod", "4090", "RTX4090", 0.59, False, POD, region) for region in ("CA", "CZ", "US")),
    *(Offer("runpod", "4090", "RTX4090", 0.30, True, POD, region) for region in ("CA", "CZ", "US")),
    Offer("prime", "4090", "RTX4090", 0.37, snapshot="2025-08-19, a report, August"),
    Offer("modal", "4090", "RTX4090", 2.10, snapshot="2026-05-25, a list"),
    Offer("aws", "l40s", "L40S", 1.86, False, "g6e.xlarge", "us-east-1"),
]


TABLE = """\
cloud   GPU      instance           region      $/h  spot $/h  billed                        bill
runpod  RTX4090  1x_RTX4090_SECURE  CA +2      0.59      0.30  per second                  $0.059  chosen
modal   RTX4090                                2.10            per second                   $0.21  price only
prime   RTX4090                                0.37            per hour                     $0.37  snapshot of 2025-08-19
aws     L40S     g6e.xlarge         us-east-1  1.86            per second, at least 1 min   $0.19  fallback"""


def made(offers: Sequence[Offer], launch: LaunchConfig | None = None) -> tuple[list[Candidate], Decision]:
    launch, enabled = launch or LaunchConfig(), ["runpod", "aws"]
    candidates = rank(offers, CLOUDS, launch, lambda offer: ESTIMATE, enabled=enabled)
    return candidates, choose(candidates, ["4090", "l40s"], CLOUDS, launch, enabled=enabled)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_plan_is_a_neat_table() -> None:
    candidates, decision = made(OFFERS)
    assert "\n".join(lines(rows(candidates, CLOUDS, decision))) == TABLE


def test_columns_without_a_value_are_left_out() -> None:
    candidates, _ = made([*OFFERS[6:]])
    header = lines(rows(candidates[:2], CLOUDS))[0]
    assert header.split() == ["cloud", "GPU", "$/h", "billed", "bill"]


def test_the_spot_instance_that_is_chosen_gives_the_bill() -> None:
    candidates, decision = made(OFFERS[:6], LaunchConfig(spot=True))
    (row,) = rows(candidates, CLOUDS, decision)
    assert (row.usd_per_hour, row.spot_usd_per_hour, row.note) == (0.59, 0.30, "chosen, as spot instance")
    assert row.bill_usd == pytest.approx(0.03)
    assert row.regions == ("CA", "CZ", "US")


def test_regions_with_another_price_have_a_line_of_their_own() -> None:
    dearer = Offer("runpod", "4090", "RTX4090", 0.69, False, POD, "JP")
    candidates, decision = made([*OFFERS[:3], dearer])
    assert [(row.regions, row.usd_per_hour) for row in rows(candidates, CLOUDS, decision)] == [
        (("CA", "CZ", "US"), 0.59),
        (("JP",), 0.69),
    ]


def test_of_many_rows_the_best_are_shown_and_the_best_of_each_cloud() -> None:
    many = [Offer("runpod", "4090", "RTX4090", 0.4 + index / 100, False, f"pod{index}", "CA") for index in range(30)]
    candidates, decision = made([*many, *OFFERS[6:]])
    shown = lines(rows(candidates, CLOUDS, decision))
    assert len(shown) == 1 + MAX_ROWS + 1
    assert shown[-1] == "and 21 offers more"
    assert shown[1].endswith("chosen")
    for cloud in ("runpod", "modal", "prime", "aws"):
        assert any(line.startswith(cloud) for line in shown)


@pytest.mark.parametrize("columns", [60, 80, 100, 200])
def test_a_terminals_table_is_no_wider_than_the_terminal(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    candidates, decision = made(OFFERS)
    shown = [Text.from_ansi(line) for line in lines(rows(candidates, CLOUDS, decision), Terminal())]
    assert all(line.cell_len <= columns for line in shown)
    assert ("instance" in shown[0].plain) == (columns == 200)


def test_a_terminal_shows_the_chosen_one_in_colour(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.delenv("NO_COLOR", raising=False)
    candidates, decision = made(OFFERS)
    chosen = next(line for line in lines(rows(candidates, CLOUDS, decision), Terminal()) if "chosen" in line)
    assert "\x1b[1;32m" in chosen
    assert "\x1b[" not in "".join(lines(rows(candidates, CLOUDS, decision)))


def test_brackets_in_a_name_are_no_markup(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "150")
    candidates, decision = made([Offer("runpod", "4090", "RTX4090", 0.5, False, POD, "[red]lab")])
    assert "[red]lab" in "".join(lines(rows(candidates, CLOUDS, decision), Terminal()))


def test_the_summary_says_time_bill_and_choice() -> None:
    candidates, decision = made(OFFERS)
    assert summary(candidates, CLOUDS, LaunchConfig(), decision) == [
        "estimate   6 min: 2 min to set up, 4 min to measure (median of 3 earlier runs); at most 22 min",
        "bill       $0.059 on runpod RTX4090 at $0.59/h, at most $0.22",
        f"chosen     runpod RTX4090 at $0.59/h: {decision.why}",
    ]


def test_a_limit_on_the_bill_says_when_the_run_is_ended() -> None:
    launch = LaunchConfig(max_usd=0.1)
    candidates, decision = made(OFFERS, launch)
    assert "limit      launch.max_usd=0.1: the run is ended before its bill passes that, after 10 min" in summary(
        candidates, CLOUDS, launch, decision
    )
    assert not any(line.startswith("limit") for line in summary(candidates, CLOUDS, LaunchConfig(max_usd=0.5), decision))


def test_without_a_decision_the_best_offer_is_summed_up_with_the_source_of_its_price() -> None:
    candidates = rank(OFFERS[6:7], CLOUDS, LaunchConfig(), lambda offer: ESTIMATE)
    assert summary(candidates, CLOUDS, LaunchConfig())[1:] == [
        "bill       $0.37 on prime RTX4090 at $0.37/h, at most $0.37",
        "price      of 2025-08-19: a report, August",
    ]
    assert summary([], CLOUDS, LaunchConfig()) == []
    assert lines([]) == []
