"""What MLflow is told about the machines that a run rented, and what stands for a run on which no worker ever started."""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from runner.journal import Event, measurements
from runner.rental import Attempt, Rental
from runner.report.rented import cost_usd_per_case, fallback_from, measured
from runner.tracking.content import MAX_NAME, Point, timestamp

NEVER_STARTED = "never_started"


def never_started(job: Mapping[str, Any], rental: Rental) -> Event:
    """Return what stands for the first `job_started` where no worker came to start: when a machine was asked for, and which."""
    fell_back = next((one.asked_gpu for one in rental.attempts if one.gpu != one.asked_gpu), None)
    at = next((datetime.fromtimestamp(one.requested_at, UTC) for one in rental.attempts if one.requested_at is not None), None)
    return {
        "event": NEVER_STARTED,
        "time": at.isoformat(timespec="milliseconds") if at else str(job["provenance"]["created_at"]),
        "job": job,
        "hash": job["hash"],
        "session": rental.session,
        "asked": fell_back or (job.get("gpu") or {}).get("name") or "any GPU",
    }


def label(first: Event, varied: str = "") -> str:
    """Return the name of a run in MLflow; the UI cuts it short, so what tells runs of one workload apart comes first.

    That is the time, and of the jobs of a sweep what the sweep `varied`.
    """
    never = f"{first['asked']}, never started" if first["event"] == NEVER_STARTED else ""
    device = never or (first.get("device") or {}).get("name") or "unknown device"
    return f"{varied or first['time'][5:19].replace('T', ' ')} {device}"[:MAX_NAME]


def ended_at(first: Event, events: list[Event], rental: Rental | None) -> int:
    """Return when a run was over, in milliseconds since the epoch: its last event's time, without events the last machine's."""
    if events:
        return timestamp(events[-1])
    return max([timestamp(first), *(round(1000 * one) for one in _times(rental))])


def points(events: list[Event], rental: Rental | None) -> Iterator[Point]:
    """Yield what the run cost and how long it took to get a machine; each where it is known."""
    if rental is None:
        return
    billed = [one.billed_s for one in rental.attempts if one.billed_s is not None]
    found = {
        "cost_usd": rental.cost_usd,
        "cost_usd_per_case": cost_usd_per_case(rental, measurements(events)),
        "billed_s": sum(billed) if billed else None,
        "rental_setup_s": next(
            (
                one.running_at - one.requested_at
                for one in rental.attempts
                if one.running_at is not None and one.requested_at is not None
            ),
            None,
        ),
    }
    # Of the files and not of the clock, so that MLflow drops what is sent again; a continued run's come later and stand.
    at = max([0, *(round(1000 * one) for one in _times(rental)), *(timestamp(event) for event in events[-1:])])
    for name, value in found.items():
        if value is not None:
            yield Point(name, float(value), 0, at)


def tags(rental: Rental | None) -> dict[str, Any]:
    """Return the tags of what was rented: of the attempt that was measured on, else of the last; sums over all."""
    if rental is None:
        return {}
    says = [one.sky_cost_usd for one in rental.attempts if one.sky_cost_usd is not None]
    one = measured(rental) or (rental.attempts[-1] if rental.attempts else None)
    return (machine(one) if one else {}) | {
        "cost.usd": _rounded(rental.cost_usd),
        "sky.cost_usd": _rounded(sum(says)) if says else None,
        "fallback_from": fallback_from(rental),  # nothing fell back where nothing was measured
    }


def machine(one: Attempt) -> dict[str, Any]:
    """Return the tags of one rented machine, None for what isn't known."""
    return {
        "cloud": one.cloud,
        "instance_type": one.instance_type,
        "region": one.region,
        "price.usd_per_hour": one.usd_per_hour,
        "spot": one.spot,
        "cluster": one.cluster,
        "fallback_from": one.asked_gpu if one.asked_gpu != one.gpu else None,
    }


def _times(rental: Rental | None) -> list[float]:
    """Return all times of all attempts."""
    attempts = rental.attempts if rental else []
    every = [(one.requested_at, one.up_at, one.running_at, one.ended_at, one.down_at) for one in attempts]
    return [time for times in every for time in times if time is not None]


def _rounded(usd: float | None) -> float | None:
    return round(usd, 6) if usd is not None else None
