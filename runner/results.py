"""A journal read for what it says: the job, the machine, and the last measurement of every variant on every case.

Everything downstream of the journal (thresholds, decisions, report, MLflow, display) starts from this one view.
"""

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from runner import journal, stats
from runner.errors import RequestError
from runner.journal import Event
from runner.reported import Reported
from runner.schema import read as read_as
from runner.spec import GpuSpec
from runner.stats import Samples

MEASURED = ("ok", "noisy")
"""The statuses that carry timings; only `ok` is evidence."""

AxisValue = Any
T = TypeVar("T")


@dataclass(frozen=True)
class Results:
    """What one run found out. `job` is the job's plain data; `device` and `software` are as the worker read them."""

    job: Mapping[str, Any]
    job_hash: str
    session: str
    started_at: str
    device: Mapping[str, Any]
    software: Mapping[str, Any]
    measurements: list[Event]
    status: str
    reason: str
    searches: list[Event] = field(default_factory=list)
    finished: Event | None = None
    other_processes: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def workload(self) -> str:
        """The workload's name."""
        return str(self.job["workload"])

    @property
    def baseline(self) -> str | None:
        """The variant that speedups are relative to, or None."""
        return self.job.get("baseline")

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Where the job came from: `git`, `overrides`, `version`, ..."""
        return self.job.get("provenance") or {}

    @property
    def git(self) -> Mapping[str, Any]:
        """The checkout the job was made in: `sha` and `dirty`, each None where unknown."""
        return {"sha": None, "dirty": None} | (self.provenance.get("git") or {})

    @property
    def command(self) -> str:
        """What to type to ask for this run again, in the checkout it was asked from."""
        return shlex.join(["python", "-m", "runner", *map(str, self.provenance.get("overrides") or [])])

    def unit(self, axis: str) -> str:
        """Return the unit of an axis as the workload declares it, "" where it has none."""
        return str((self.job["derive"].get("axes") or {}).get(axis) or "")

    def declared(self, kind: str, of: type[T]) -> list[T]:
        """Return what the job declares to be derived, as in ("thresholds", ThresholdSpec), in its order.

        Raises RequestError when a declaration is not one of this version.
        """
        try:
            return [of(**one) for one in self.job["derive"].get(kind) or []]
        except TypeError as error:
            raise RequestError(
                f"the job declares a {kind.removesuffix('s')} that this version does not know ({error}); write the job anew"
            ) from error

    @property
    def confidence(self) -> float:
        """The confidence level of every interval of this run."""
        return float(self.job["measure"]["confidence"])

    @property
    def same_within(self) -> float:
        """How near to 1 a speedup counts as no difference."""
        return float(self.job["measure"]["same_within"])

    @property
    def spec(self) -> GpuSpec | None:
        """The datasheet of the GPU that was asked for, or None."""
        return GpuSpec(**self.job["gpu"]) if self.job.get("gpu") else None

    @property
    def cases(self) -> list[tuple[dict[str, AxisValue], str]]:
        """Return (axes, x-axis) of every case: the planned ones in the job's order, then others that were measured."""
        planned = [] if self.job.get("mode") == "search" else self.job.get("cases") or []
        found = {journal.case_key(case["axes"]): (dict(case["axes"]), str(case["x"])) for case in planned}
        for event in self.measurements:
            found.setdefault(journal.case_key(event["case"]), (dict(event["case"]), str(event["x"])))
        return list(found.values())

    @property
    def settings(self) -> Mapping[str, AxisValue]:
        """The axes that one value was chosen for in the whole job: said once, and left out of labels."""
        return self.job["derive"].get("settings") or {}

    @property
    def reported(self) -> Reported | None:
        """The figures of others that the run is to be seen beside, or None.

        Raises RequestError when those in the job are not of this version.
        """
        found = self.job["derive"].get("reported")
        return read_as(Reported, found, "derive.reported") if found else None

    def series(self, event: Event) -> dict[str, AxisValue]:
        """Return what tells the curve of a measurement from the run's others: `series` with the job's settings."""
        return series(event, self.settings)

    def planned(self, axes: Mapping[str, AxisValue]) -> list[str]:
        """Return the variants that are measured on the case with these axes, in the job's order."""
        return self._planned.get(journal.case_key(axes), [])

    @property
    def missing(self) -> list[tuple[dict[str, AxisValue], str]]:
        """Return (axes, variant) of everything that was planned and not measured."""
        measured = self.by_key()
        return [
            (axes, variant)
            for axes, _ in self.cases
            for variant in self.planned(axes)
            if (journal.case_key(axes), variant) not in measured
        ]

    @cached_property
    def _planned(self) -> dict[str, list[str]]:
        """Case key -> variants. A case that a search found was planned for the variants that were measured there."""
        cases = [] if self.job.get("mode") == "search" else self.job.get("cases") or []
        found = {journal.case_key(case["axes"]): list(case.get("variants") or self.job["variants"]) for case in cases}
        others: dict[str, list[str]] = {}
        for event in self.measurements:
            others.setdefault(journal.case_key(event["case"]), []).append(str(event["variant"]))
        return others | found

    def by_key(self) -> dict[tuple[str, str], Event]:
        """Return the measurements by (case key, variant)."""
        return {(journal.case_key(event["case"]), str(event["variant"])): event for event in self.measurements}


def from_events(events: list[Event]) -> Results:
    """Read a journal's events.

    Raises RequestError when no worker ever started in it: there is no job to speak of.
    """
    starts = [event for event in events if event["event"] == "job_started"]
    if not starts:
        raise RequestError("the journal has no job_started: the worker never began; run the job again in the same folder")
    first, last = starts[0], starts[-1]
    status, reason = journal.final_status(events)
    warnings = [str(line) for start in starts for line in start.get("warnings") or []]
    return Results(
        job=last["job"],
        job_hash=str(last["hash"]),
        session=str(first.get("session") or ""),
        started_at=str(first["time"]),
        device=last.get("device") or {},
        software=last.get("software") or {},
        measurements=list(journal.measurements(events)),
        status=status,
        reason=reason,
        searches=[event for event in events if event["event"] == "search_finished"],
        finished=next((event for event in reversed(events) if event["event"] == "job_finished"), None),
        other_processes=list(last.get("other_processes") or []),
        warnings=list(dict.fromkeys(warnings)),
    )


def read_events(folder: Path) -> list[Event]:
    """Return the events of the journal in `folder`.

    Raises RequestError when there is no journal, it can't be read or it is damaged.
    """
    try:
        events = journal.read(folder)
    except OSError as error:
        raise RequestError(f"can't read {folder / journal.NAME}: {error.strerror}; name a folder written by a run") from error
    if not events:
        raise RequestError(f"{folder} has no {journal.NAME} with anything in it; name a folder written by a run")
    return events


def read(folder: Path) -> Results:
    """Read the run in `folder`.

    Raises RequestError when there is no journal, it is damaged, or no worker ever started in it.
    """
    return from_events(read_events(folder))


def samples(event: Event) -> Samples:
    """Return the raw samples of a measurement in milliseconds, in the order of the interleaved rounds."""
    values: list[float] = event.get("samples_ms") or []
    return values


def speedup(baseline: Event, candidate: Event, confidence: float) -> tuple[stats.Interval | None, str]:
    """Return the interval of the candidate's speedup, or None and why two measurements can't be compared.

    Only samples of the same rounds are: a case that was interrupted and measured again may have one of each.
    """
    if why := apart([baseline, candidate]):
        return None, f"the two were {why}"
    throttled = {*(baseline.get("throttled") or ()), *(candidate.get("throttled") or ())}
    interval = stats.speedup_interval(samples(baseline), samples(candidate), confidence, throttled)
    return interval, "" if interval else "too few rounds for an interval"


def apart(events: Sequence[Event]) -> str:
    """Say why the samples of these measurements can't be set against each other round by round; "" where they can."""
    if any(event.get("timing") != events[0].get("timing") for event in events):
        return "timed in different ways"
    return "not timed side by side" if any(event.get("round") != events[0].get("round") for event in events) else ""


def labels(axes: Mapping[str, AxisValue], settings: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """Return the axes of a case that are worth naming: all but those at the job's `settings`, which are said once."""
    return {axis: value for axis, value in axes.items() if axis not in settings or settings[axis] != value}


def series(event: Event, settings: Mapping[str, AxisValue]) -> dict[str, AxisValue]:
    """Return what tells the curve of a measurement from the others of its job: its axes without x and the job's `settings`."""
    return {axis: value for axis, value in labels(event["case"], settings).items() if axis != event["x"]}


def plain(axes: Mapping[str, AxisValue]) -> str:
    """Name axis values for a reader: `head_dim = 64, layer = qkv`."""
    return ", ".join(f"{axis} = {value}" for axis, value in axes.items())
