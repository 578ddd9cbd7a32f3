"""The plan of a sweep as a person reads it: every job, on which machine, how long, for how much; refused when too dear."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from runner import units
from runner.cost import usd
from runner.errors import RequestError
from runner.job import at_most_s, measurements
from runner.sweep import jobs
from runner.sweep.folder import Sweep
from runner.sweep.jobs import Lane, Planned

if TYPE_CHECKING:
    from runner.launch.offering import Offered
    from runner.launch.skypilot import Sky

MOST_ROWS = 40


@dataclass(frozen=True)
class Offers:
    """What the rented lanes of a sweep could be rented on, by lane."""

    lanes: list[Lane]
    by_lane: dict[str, "Offered"] = field(default_factory=dict)
    sky: "Sky | None" = None

    @property
    def bills_usd(self) -> dict[str, float]:
        """The estimated bill of each rented lane, where there is an offer."""
        found = {}
        for name, offered in self.by_lane.items():
            with contextlib.suppress(RequestError):
                found[name] = offered.decide().chosen.bill_usd
        return found


@contextlib.contextmanager
def offered(todo: Sequence[Planned], folders: Sequence[Path]) -> Iterator[Offers]:
    """Yield the lanes of the jobs, and for those to be rented what they could be rented on; SkyPilot is asked meanwhile."""
    lanes = jobs.lanes(todo)
    rented = [lane for lane in lanes if lane.rent]
    if not rented:
        yield Offers(lanes)
        return
    from runner.launch import left, offering, server

    dry = rented[0].jobs[0].made.config.launch.dry_run
    with contextlib.ExitStack() as stack:
        sky, why_not = None, ""
        try:
            sky = stack.enter_context(server.connected())
        except RequestError as error:
            if not dry:
                raise
            why_not = str(error)
        if sky and not dry:
            left.end_all()
        found = {lane.name: offering.make([job.made for job in lane.jobs], folders, sky, why_not) for lane in rented}
        yield Offers(lanes, found, sky)


def check(offers: Offers) -> None:
    """Refuse a sweep of which a part can't be rented, or whose bills come to more than `launch.max_usd`. Raises RequestError."""
    if not offers.by_lane:
        return
    for lane in offers.lanes:
        if lane.rent:
            try:
                offers.by_lane[lane.name].decide()
            except RequestError as error:
                raise RequestError(f"{len(lane.jobs)} of the sweep's jobs: {error}") from error
    launch = offers.lanes[0].jobs[0].made.config.launch
    total = sum(offers.bills_usd.values())
    if launch.max_usd is not None and total > launch.max_usd:
        raise RequestError(
            f"launch.max_usd={launch.max_usd:g}: the sweep's bills come to some {usd(total)}; raise it, or measure less"
        )


def lines(sweep: Sweep, planned: Sequence[Planned], todo: Sequence[Planned], offers: Offers) -> list[str]:
    """Return the plan: jobs, machines, times and bills."""
    count, own = len(planned), {job.index for job in todo}
    same = sum(job.entry.same_as is not None for job in planned)
    kept = count - same - len(todo)
    notes = [f"{same} the same as another" if same else "", f"{kept} complete before" if kept else ""]
    found = [f"sweep      {sweep.name}: {units.several(count, 'job')}" + "".join(f", {note}" for note in notes if note)]
    shown = [job for job in planned if job.index in own][:MOST_ROWS]
    for job in shown:
        data = job.made.job.as_dict()
        most = units.duration(at_most_s(data))
        what = f"{job.made.job.workload}, {units.several(measurements(data), 'measurement')}, at most {most}"
        found.append(f"{job.index:>8}   {job.entry.name}: {what}")
    if len(todo) > len(shown):
        found.append(f"           ... and {len(todo) - len(shown)} more")
    for lane in offers.lanes:
        found += _lane(lane, offers)
    if len(offers.by_lane) > 1:
        found.append(f"bill       {usd(sum(offers.bills_usd.values()))} for all of it")
    return found


def _lane(lane: Lane, offers: Offers) -> list[str]:
    limit = units.duration(sum(at_most_s(job.made.job.as_dict()) for job in lane.jobs))
    if not lane.rent:
        here = lane.jobs[0].made.target.here
        where = f"GPU {here.index} ({here.name})" if here else "the CPU"
        obstacles = [job.made.target.obstacle for job in lane.jobs if job.made.target.obstacle]
        what = f"here       {units.several(len(lane.jobs), 'job')} on {where}, at most {limit} of measuring"
        return [what, *obstacles[:1]]
    one = offers.by_lane[lane.name]
    what = f"rented     {units.several(len(lane.jobs), 'job')} on gpu={lane.gpu}"
    try:
        decision = one.decide()
    except RequestError as error:
        best = next((candidate for candidate in one.candidates if candidate.excluded != "spot"), None)
        known = f"{usd(best.bill_usd)} on {best}; " if best else ""
        return [f"{what}: {known}not now: {error}"]
    chosen = decision.chosen
    length = units.duration(chosen.estimate.total_s)
    return [f"{what}: {chosen}, some {length}, bill {usd(chosen.bill_usd)} ({decision.why})"]


def took(seconds: float) -> str:
    """Say how long the sweep took."""
    return f" in {units.duration(seconds)}"
