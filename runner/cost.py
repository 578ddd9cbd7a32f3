"""What renting costs: a price per hour and a lifetime, under the cloud's billing rule.

A rule (runner.config.Billing) bills whole increments and a minimum, both in seconds; no rule means by the second, or finer. Six
minutes at $0.37/h with one hour at least are $0.37; at $0.59/h by the second they are $0.06.
"""

import math

from runner.config import Billing

HOUR_S = 3600.0


def billed_s(seconds: float, billing: Billing | None) -> float:
    """Return the seconds that are billed for an instance that lived for `seconds`: none for one that never lived.

    >>> billed_s(360, Billing(3600, 3600, "", ""))
    3600.0
    """
    if seconds <= 0:
        return 0.0
    if billing is None:
        return float(seconds)
    return max(float(billing.minimum_s), _at_least(seconds, billing.increment_s))


def bill_usd(usd_per_hour: float, seconds: float, billing: Billing | None) -> float:
    """Return the bill, in USD, of an instance that lived for `seconds`."""
    return usd_per_hour * billed_s(seconds, billing) / HOUR_S


def longest_s(max_usd: float, usd_per_hour: float, billing: Billing | None) -> float:
    """Return how many seconds an instance may live so that its bill stays within `max_usd`: infinity for one that is free.

    0 when even the shortest life costs more.
    """
    if usd_per_hour <= 0:
        return math.inf
    affordable = max_usd * HOUR_S / usd_per_hour
    if billing is None:
        longest = affordable
        while longest > 0 and bill_usd(usd_per_hour, longest, None) > max_usd:  # the division rounds
            longest = math.nextafter(longest, 0.0)
        return longest
    if usd_per_hour * billing.minimum_s / HOUR_S > max_usd:
        return 0.0
    count = math.floor(affordable / billing.increment_s) + 1  # one too many, unless the division rounds down
    while count > 0 and bill_usd(usd_per_hour, count * billing.increment_s, billing) > max_usd:
        count -= 1
    return float(count * billing.increment_s)


def usd(amount: float) -> str:
    """Write an amount for a person: cents, and a digit more where cents say too little.

    >>> usd(2.694), usd(0.059), usd(0.05), usd(0.0042), usd(0)
    ('$2.69', '$0.059', '$0.05', '$0.0042', '$0.00')
    """
    if amount >= 0.0995 or amount == 0:
        return f"${amount:.2f}"
    text = f"{amount:.{1 - math.floor(math.log10(amount))}f}"
    return f"${text.rstrip('0'):0<4}"


def rule(billing: Billing | None) -> str:
    """Say a billing rule in words: `per minute`, `per second, at least 1 min`."""
    if billing is None:
        return "per second"
    step = _unit(billing.increment_s)
    if billing.minimum_s <= billing.increment_s:  # the first increment is billed anyway
        return f"per {step}"
    return f"per {step}, at least {_length(billing.minimum_s)}"


def _at_least(seconds: float, increment: float) -> float:
    """Round up to whole increments; a multiple stays what it is, whatever the division rounds to."""
    count = math.ceil(seconds / increment)
    if count > 1 and (count - 1) * increment >= seconds:
        count -= 1
    return float((count if count * increment >= seconds else count + 1) * increment)


def _unit(seconds: float) -> str:
    return {1.0: "second", 60.0: "minute", 3600.0: "hour"}.get(seconds) or _length(seconds)


def _length(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size and seconds % size == 0:
            return f"{seconds / size:g} {unit}"
    return f"{seconds:g} s"
