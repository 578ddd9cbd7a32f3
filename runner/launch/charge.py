"""What an attempt cost: its price, and its bill from the request to the confirmed end under its cloud's rule."""

from collections.abc import Sequence

from runner import cost
from runner.config import Billing
from runner.launch.offers import Offer
from runner.launch.skypilot import Launched
from runner.rental import Attempt

NO_CAPACITY = "no capacity"
"""The outcome of an attempt for which nothing could be had."""


def price(offers: Sequence[Offer], launched: Launched) -> float | None:
    """Return the hourly price of what was launched: the offer's, else what SkyPilot's client makes of it.

    The client of a shared server doesn't know the prices that the server was given for its own hardware, and says 0.
    """
    there = [one for one in offers if (one.cloud, one.spot) == (launched.cloud, launched.spot)]
    exact = [one for one in there if one.region == launched.region and one.instance_type in (None, launched.instance_type)]
    if exact or not launched.usd_per_hour:
        return next((one.usd_per_hour for one in exact or there), launched.usd_per_hour)
    return launched.usd_per_hour


def charge(attempt: Attempt) -> None:
    """Note what an attempt that has ended was billed."""
    if attempt.requested_at is None or attempt.down_at is None:
        return
    if attempt.up_at is None:
        # SkyPilot counts while it looks for capacity, too. Otherwise something may have come up before it was called up.
        attempt.cost_usd = None if attempt.outcome == NO_CAPACITY else attempt.sky_cost_usd or None
        return
    attempt.billed_s = cost.billed_s(attempt.down_at - attempt.requested_at, _rule(attempt))
    attempt.cost_usd = bill(attempt, attempt.down_at)


def bill(attempt: Attempt, until: float) -> float | None:
    """Return what an attempt costs that ends at `until`, None where no price is known or nothing came up."""
    if attempt.usd_per_hour is None or attempt.requested_at is None or attempt.up_at is None:
        return None
    return cost.bill_usd(attempt.usd_per_hour, until - attempt.requested_at, _rule(attempt))


def _rule(attempt: Attempt) -> Billing:
    return Billing(attempt.increment_s, attempt.minimum_s, "", "")
