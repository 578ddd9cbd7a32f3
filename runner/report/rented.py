"""What a run's machines cost: the section of the report, its lines at the top, and the sums that MLflow gets too."""

from collections.abc import Iterable, Iterator

from runner import units
from runner.cost import usd
from runner.errors import one_line
from runner.journal import Event, case_key
from runner.rental import Attempt, Rental
from runner.report.table import as_markdown
from runner.results import MEASURED

COLUMNS = ["cloud", "instance", "region", "GPU", "$/h", "lifetime", "billed", "cost", "says SkyPilot", "ended", "down"]
WORDS = (0, 1, 2, 3, 9, 10)
MAX_OUTCOME = 160


def measured(rental: Rental) -> Attempt | None:
    """Return the attempt that the measurements are from: the last on which a worker was started, None when there is none."""
    return next((one for one in reversed(rental.attempts) if one.running_at is not None), None)


def fallback_from(rental: Rental) -> str | None:
    """Return the GPU that was asked for, where another one was measured (choices of `gpu/`), else None."""
    found = measured(rental)
    return found.asked_gpu if found and found.gpu != found.asked_gpu else None


def cost_usd_per_case(rental: Rental, measurements: Iterable[Event]) -> float | None:
    """Return what a case cost of those with anything measured; None where there are none, or no price is known."""
    cases = {case_key(event["case"]) for event in measurements if event["status"] in MEASURED}
    return rental.cost_usd / len(cases) if rental.cost_usd is not None and cases else None


def loud(rental: Rental | None) -> Iterator[str]:
    """Yield what must stand above everything else on the page: another GPU than asked for, a machine that may still be there."""
    if rental is None:
        return
    if asked := fallback_from(rental):
        found = measured(rental)
        yield f"> **Asked for {asked}, measured on {found.gpu if found else '?'}.** No {asked} could be rented; it fell back."
    for one in rental.attempts:
        if one.requested_at is not None and not one.confirmed_down:
            ways = f"`sky status -r`, then `sky down {one.cluster}`"
            yield f"> **The end of `{one.cluster}` is not confirmed**, it may still cost money: {ways}"


def summary(rental: Rental | None, measurements: Iterable[Event]) -> str:
    """Say in a line what was rented and what it cost, "" for a run on a machine that was there."""
    if rental is None:
        return ""
    found = measured(rental) or (rental.attempts[-1] if rental.attempts else None)
    if found is None:
        return "Rented: nothing."
    where = found.cloud + (f", {found.region}" if found.region else "") + (", spot" if found.spot else "")
    price = f" at {usd(found.usd_per_hour)}/h" if found.usd_per_hour is not None else ""
    several = f" in {units.several(len(rental.attempts), 'attempt')}" if len(rental.attempts) > 1 else ""
    return f"Rented: {found.gpu} ({where}){price}{several}: {_total(rental, measurements)}."


def section(rental: Rental | None, measurements: Iterable[Event]) -> str:
    """Return the section: a row per cluster that was asked for, and what they cost together."""
    if rental is None or not rental.attempts:
        return ""
    total = _total(rental, measurements)
    says = [one.sky_cost_usd for one in rental.attempts if one.sky_cost_usd is not None]
    sums = f"{total[0].upper()}{total[1:]}." + (f" SkyPilot says {usd(sum(says))}." if says else "")
    about = "Lifetime is from the request until the cluster was gone, billed what the cloud makes of that, cost billed x price."
    return "\n".join(["## Rented", "", *as_markdown(COLUMNS, map(_row, rental.attempts), words=WORDS), "", sums, about])


def _total(rental: Rental, measurements: Iterable[Event]) -> str:
    unknown = sum(one.up_at is not None and one.cost_usd is None for one in rental.attempts)
    if rental.cost_usd is None:
        return "no price is known" if unknown else "nothing was billed"
    more = f" and {units.several(unknown, 'cluster')} of unknown price" if unknown else ""
    each = cost_usd_per_case(rental, measurements)
    return f"{usd(rental.cost_usd)} in all{more}" + (f", {usd(each)} a case" if each is not None else "")


def _row(one: Attempt) -> list[str]:
    outcome = one_line(one.outcome)
    return [
        one.cloud,
        (one.instance_type or "-") + (" (spot)" if one.spot else ""),
        one.region or "-",
        one.gpu + (f" instead of {one.asked_gpu}" if one.gpu != one.asked_gpu else ""),
        _usd(one.usd_per_hour),
        _duration(_lifetime_s(one)),
        _duration(one.billed_s),
        _usd(one.cost_usd),
        _usd(one.sky_cost_usd),
        outcome[:MAX_OUTCOME] + ("..." if len(outcome) > MAX_OUTCOME else "") or "-",
        "confirmed" if one.confirmed_down else "-" if one.requested_at is None else "**not confirmed**",
    ]


def _lifetime_s(one: Attempt) -> float | None:
    """Return the seconds from the request until the cluster was gone, None for one that never came up, or may still be there."""
    if one.up_at is None or one.down_at is None or one.requested_at is None:
        return None
    return one.down_at - one.requested_at


def _duration(seconds: float | None) -> str:
    return units.duration(seconds) if seconds is not None else "-"


def _usd(amount: float | None) -> str:
    return usd(amount) if amount is not None else "-"
