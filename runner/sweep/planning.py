"""The plan of a sweep as a person reads it: every job, on which machine, how long, for how much; refused when too dear."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    from runner.launch.choose import Candidate, Decision
    from runner.launch.offering import Offered

MOST_ROWS = 40
SPOT, LIMITS = "spot", ("over launch.max_usd", "over launch.max_usd_per_hour")
"""As runner.launch.choose has them, which takes a moment to import."""


@dataclass(frozen=True)
class Offers:
    """What the rented lanes of a sweep could be rented on, by lane."""

    lanes: list[Lane]
    by_lane: dict[str, "Offered"] = field(default_factory=dict)

    @cached_property
    def decisions(self) -> dict[str, "Decision | str"]:
        """What each lane is rented on, or why it can't be now."""
        found: dict[str, Decision | str] = {}
        for name, offered in self.by_lane.items():
            try:
                found[name] = offered.decide()
            except RequestError as error:
                found[name] = str(error)
        return found

    @property
    def bills_usd(self) -> dict[str, float]:
        """The estimated bill of each lane that can be rented now."""
        return {name: one.chosen.bill_usd for name, one in self.decisions.items() if not isinstance(one, str)}

    @property
    def refused(self) -> dict[str, str]:
        """The lanes that can't be rented now, and why."""
        return {name: one for name, one in self.decisions.items() if isinstance(one, str)}


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
        yield Offers(lanes, found)


def check(offers: Offers) -> None:
    """Refuse a sweep of which nothing can be done, or whose bills come to more than `launch.max_usd`. Raises RequestError.

    A GPU that nobody offers now does not keep the others from being measured: its jobs end as `not run`.
    """
    if not offers.by_lane:
        return
    refused = offers.refused
    dear = [name for name in refused if any(one.excluded in LIMITS for one in offers.by_lane[name].candidates)]
    if dear or len(refused) == len(offers.lanes):
        name = (dear or list(refused))[0]
        raise RequestError(f"gpu={next(lane.gpu for lane in offers.lanes if lane.name == name)}: {refused[name]}")
    launch = next(iter(offers.by_lane.values())).made.config.launch
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
        best = {name: _best(offers, name) for name in offers.by_lane}
        known = [one.bill_usd for one in best.values() if one is not None]
        unknown = f", without {units.several(len(best) - len(known), 'GPU')} of unknown price" if len(known) < len(best) else ""
        found.append(f"bill       {usd(sum(known))} for all of it{unknown}")
    return found


def _best(offers: Offers, name: str) -> "Candidate | None":
    """Return the offer that a lane would take, where nothing can be rented now the best known price; None where none is known."""
    decision, offered = offers.decisions[name], offers.by_lane[name]
    if not isinstance(decision, str):
        return decision.chosen
    asked = [one for one in offered.candidates if one.offer.cloud == offered.made.config.cloud.name]
    return next((one for one in asked or offered.candidates if one.excluded != SPOT), None)


def _lane(lane: Lane, offers: Offers) -> list[str]:
    limit = units.duration(sum(at_most_s(job.made.job.as_dict()) for job in lane.jobs))
    if not lane.rent:
        here = lane.jobs[0].made.target.here
        where = f"GPU {here.index} ({here.name})" if here else "the CPU"
        obstacles = [job.made.target.obstacle for job in lane.jobs if job.made.target.obstacle]
        what = f"here       {units.several(len(lane.jobs), 'job')} on {where}, at most {limit} of measuring"
        return [what, *obstacles[:1]]
    decision = offers.decisions[lane.name]
    what = f"rented     {units.several(len(lane.jobs), 'job')} on gpu={lane.gpu}"
    if isinstance(decision, str):
        best = _best(offers, lane.name)
        known = f"{usd(best.bill_usd)} on {best}; " if best else ""
        return [f"{what}: {known}not now: {decision}"]
    chosen = decision.chosen
    length = units.duration(chosen.estimate.total_s)
    return [f"{what}: {chosen}, some {length}, bill {usd(chosen.bill_usd)} ({decision.why})"]
