"""What a whole is made of: the time of each of its stages as a share of the whole's, from the rounds in which they took turns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runner import stats
from runner.journal import Event, case_key
from runner.results import MEASURED, Results, apart
from runner.stats import Interval, Samples


@dataclass(frozen=True)
class Composition:
    """A declared composition: the variant `whole` does what its `stages` do; `without` are stages that the run leaves out."""

    whole: str
    stages: list[str]
    without: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Time:
    """A latency in ms with its interval; None in its place where there is none, and then `why`."""

    interval: Interval | None
    why: str = ""
    noisy: bool = False


@dataclass(frozen=True)
class Share:
    """A share of the whole's time as a fraction, or `why` there is none; `noisy` where a time that it is formed from is."""

    interval: Interval | None
    why: str = ""
    noisy: bool = False


@dataclass(frozen=True)
class Row:
    """One case. `total` is the share of all stages together, formed where each has one; `timers` are the clocks, by variant."""

    axes: Mapping[str, Any]
    x: str
    whole: Time
    stages: Mapping[str, Share]
    total: Share
    timers: Mapping[str, str]


def declared(job: Mapping[str, Any]) -> list[Composition]:
    """Return the compositions of a job's plain data, in its order."""
    found = (job.get("derive") or {}).get("compositions") or {}
    return [Composition(whole, list(one["stages"]), list(one.get("without") or [])) for whole, one in found.items()]


def stages(job: Mapping[str, Any]) -> set[str]:
    """Return the variants that are a stage of some whole, or another form of one.

    How they compare with a baseline for the whole says nothing. None are where the baseline itself is one.
    """
    found = {stage for one in declared(job) for stage in one.stages} | set((job.get("derive") or {}).get("forms") or ())
    return set() if job.get("baseline") in found else found


def timings(composition: Composition, results: Results) -> list[str]:
    """Return the timings to form shares of: the primary one, and `warm`, which hides the launches, where it was taken too."""
    wholes = [one for one in results.measurements if one["variant"] == composition.whole and one["status"] in MEASURED]
    primary = list(dict.fromkeys(str(one["timing"]) for one in wholes))[:1]
    return primary + (["warm"] if primary != ["warm"] and any("warm" in (one.get("also") or {}) for one in wholes) else [])


def rows(composition: Composition, results: Results, timing: str | None = None) -> list[Row]:
    """Return a row per case that the whole and a stage were planned for; `timing` None is the primary one."""
    measured = results.by_key()
    found = []
    for axes, x in results.cases:
        planned = results.planned(axes)
        if composition.whole not in planned or not set(composition.stages) & set(planned):
            continue
        events = {name: measured.get((case_key(axes), name)) for name in planned}
        whole = events[composition.whole]
        shares = {
            stage: share([events[stage]], whole, results.confidence, timing) if stage in planned else Share(None, "not planned")
            for stage in composition.stages
        }
        lacking = any(one.interval is None for one in shares.values())
        parts = [events.get(stage) for stage in composition.stages]
        total = Share(None) if lacking else share(parts, whole, results.confidence, timing)
        taken = {name: _taken(event, timing) for name in (composition.whole, *composition.stages) if (event := events.get(name))}
        timers = {name: str(one["timer"]) for name, one in taken.items() if one}
        found.append(Row(axes, x, _time(whole, timing), shares, total, timers))
    return found


def share(parts: Sequence[Event | None], whole: Event | None, confidence: float, timing: str | None = None) -> Share:
    """Return what the parts' times together are of the whole's; without one, `why` is what a part lacks ("": the whole does).

    None in the place of a measurement is one that was not made.
    """
    found = []
    for event in (*parts, whole):
        if event is None or _taken(event, timing) is None:
            return Share(None, "" if event is whole else _why(event, timing))
        found.append(event)
    if why := apart(found):
        return Share(None, why)
    samples = [_samples(event, timing) for event in found]
    primary = timing is None or timing == found[-1]["timing"]
    throttled = {index for event in found for index in event.get("throttled") or ()} if primary else set()
    interval = stats.share_interval(samples[:-1], samples[-1], confidence, throttled)
    return Share(interval, "" if interval else "too few rounds", primary and any(one["status"] == "noisy" for one in found))


def _taken(event: Event, timing: str | None) -> Mapping[str, Any] | None:
    """Return the samples, statistics and timer of one timing of a measurement, None where it has none."""
    if event["status"] not in MEASURED:
        return None
    if timing is None or timing == event["timing"]:
        return event
    return (event.get("also") or {}).get(timing)


def _samples(event: Event, timing: str | None) -> Samples:
    values: list[float] = (_taken(event, timing) or {}).get("samples_ms") or []
    return values


def _why(event: Event | None, timing: str | None) -> str:
    if event is None:
        return "not measured"
    return f"no {timing} time" if event["status"] in MEASURED else str(event["status"])


def _time(event: Event | None, timing: str | None) -> Time:
    taken = _taken(event, timing) if event else None
    if event is None or taken is None:
        return Time(None, _why(event, timing))
    found = taken["statistics"]
    interval = Interval(found["median_ms"], found["ci_low_ms"], found["ci_high_ms"])
    return Time(interval, "", taken is event and event["status"] == "noisy")
