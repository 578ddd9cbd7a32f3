"""What the GPUs cost: the price of a run's machine, what a call costs at it, and the bill of everything that was rented."""

from collections.abc import Iterable
from dataclasses import dataclass

from runner.cost import HOUR_S
from runner.merged.facts import Price
from runner.rental import Attempt, Rental
from runner.report.rented import measured

RENTED = "rented"
MS_PER_HOUR = 1e3 * HOUR_S


@dataclass(frozen=True)
class Bill:
    """What was rented: clusters that came up, their cost in USD (None where no price is known), those of unknown price."""

    clusters: int
    usd: float | None
    unknown: int
    clouds: list[str]


def of_rental(rental: Rental | None) -> tuple[Price | None, str]:
    """Return the price of the machine that a run was measured on, and its cloud; None and "" where it was not rented."""
    found = measured(rental) if rental else None
    if found is None:
        return None, ""
    return (None if found.usd_per_hour is None else Price(found.usd_per_hour, RENTED)), found.cloud


def bill(runs: Iterable[Rental], whole: Iterable[Rental]) -> Bill:
    """Add up what every cluster cost, each once.

    Jobs that shared a cluster have their part of its cost in `runs`; `whole` are the records of such clusters, where known.
    """
    clusters = {one.cluster: [one] for rental in whole for one in rental.attempts}
    parts: dict[str, list[Attempt]] = {}
    for rental in runs:
        for one in rental.attempts:
            parts.setdefault(one.cluster, []).append(one)
    up = [same for same in (parts | clusters).values() if any(one.up_at is not None or one.cost_usd for one in same)]
    costs = [one.cost_usd for same in up for one in same if one.cost_usd is not None]
    unknown = sum(all(one.cost_usd is None for one in same) for same in up)
    return Bill(len(up), sum(costs) if costs else None, unknown, sorted({one.cloud for same in up for one in same}))


def usd_per_million_calls(latency_ms: float | None, price: Price | None) -> float | None:
    """Return what a million calls cost, one after the other on a machine at this price."""
    return None if latency_ms is None or price is None else 1e6 * latency_ms / MS_PER_HOUR * price.usd_per_hour


def tflops_per_usd_hour(tflops: float | None, price: Price | None) -> float | None:
    """Return the TFLOPS (TOPS for int8) for each USD per hour; times 3.6 it is 10^15 operations for a USD."""
    return None if tflops is None or price is None or not price.usd_per_hour else tflops / price.usd_per_hour


def gflops_per_watt(ops: float | None, energy_mj: float | None) -> float | None:
    """Return 10^9 operations per joule, which is GFLOPS per watt; `energy_mj` is a call's, idle power included."""
    return ops / energy_mj * 1e-6 if ops and energy_mj else None
