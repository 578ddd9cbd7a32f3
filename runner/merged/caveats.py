"""What a reader must know before trusting a merge: what is not complete or not ok, how its machines differ, what was left out."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from runner.merged.facts import Run
from runner.merged.studies import Study
from runner.results import MEASURED
from runner.units import several

MOST = 8
"""Lines of a kind, and names in a line; comparison.csv and the runs' own reports have the rest."""


def section(runs: Sequence[Run], superseded: int, studies: Sequence[Study], drawn: Sequence[Study]) -> str:
    """Return the section, "" where there is nothing to know."""
    lines = [
        *_unfinished(runs),
        *_alarms(runs),
        *_unfit(runs),
        *_noisy(runs),
        *_warnings(runs),
        *_machines(runs),
        *_repeated(superseded),
        *_undrawn(studies, drawn),
    ]
    return "\n".join(["## What to know before trusting this", "", *(f"- {line}" for line in lines)]) if lines else ""


def _unfinished(runs: Sequence[Run]) -> Iterator[str]:
    """Say which jobs are not complete, equal reasons together."""
    found: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if run.status != "complete":
            found.setdefault((run.status, run.reason or "no reason given"), []).append(run)
    for (status, reason), same in list(found.items())[:MOST]:
        yield f"{_jobs(same)} **{status}**: {reason}"
    if len(found) > MOST:
        yield f"and {several(sum(map(len, list(found.values())[MOST:])), 'job')} that did not complete for other reasons"


def _alarms(runs: Sequence[Run]) -> Iterator[str]:
    """Say what runs say of themselves, and where the GPU is not the one that was asked for."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        wrong = [one.reason for one in run.answers if one.key == "hardware" and one.answer == "mismatch"]
        for line in [*run.alarms, *(f"not the hardware that was asked for: {one}" for one in wrong)]:
            found.setdefault(line, []).append(run)
    for line, same in _first(found):
        yield f"{_jobs(same)}: {line}"


def _unfit(runs: Sequence[Run]) -> Iterator[str]:
    """Say what could not be timed, by variant and status; reasons that differ in numbers alone are one."""
    found: dict[tuple[str, str, str], Counter[str]] = {}
    reasons: dict[tuple[str, str, str], str] = {}
    for run in runs:
        for (variant, status, reason), count in run.unfit.items():
            what = (variant, status, re.sub(r"\d+", "#", reason))
            found.setdefault(what, Counter())[run.name] += count
            reasons.setdefault(what, reason)
    for what, devices in _first(found):
        variant, status, _ = what
        yield f"`{variant}` is **{status}** {several(sum(devices.values()), 'time')} on {_names(devices, runs)}: {reasons[what]}"


def _noisy(runs: Sequence[Run]) -> Iterator[str]:
    """Say what part of the timed measurements is noisy, and what launch bound, by GPU."""
    timed: Counter[str] = Counter()
    noisy: Counter[str] = Counter()
    bound: Counter[str] = Counter()
    for run in runs:
        timed[run.name] += sum(run.counts[status] for status in MEASURED)
        noisy[run.name] += run.counts["noisy"]
        bound[run.name] += sum(run.launch_bound.values())
    for found, what in (
        (noisy, "noisy, so no evidence, and hollow in the pictures"),
        (bound, "launch bound, the host takes over 1.5 times as long as the device"),
    ):
        parts = [
            f"{count} of {timed[name]} timed measurements on {name} ({count / timed[name]:.1%})"
            for name, count in found.items()
            if count
        ]
        if parts:
            more = f" and {len(parts) - MOST} more" if len(parts) > MOST else ""
            yield f"{what}: {', '.join(parts[:MOST])}{more}"


def _warnings(runs: Sequence[Run]) -> Iterator[str]:
    """Say each kind of warning once, with how many measurements have it."""
    found: dict[str, Counter[str]] = {}
    for run in runs:
        for kind, count in run.warnings.items():
            found.setdefault(kind, Counter())[run.name] += count
    for kind, devices in _first(found):
        yield f"{kind}: {several(sum(devices.values()), 'measurement')} on {_names(devices, runs)}; each run's report says which"


def _machines(runs: Sequence[Run]) -> Iterator[str]:
    """Say where the machines or the code of the runs differ: what is compared may not be the GPUs alone."""
    own = [run for run in runs if run.measured]
    for what, name in (("torch", "torch"), ("cuda", "CUDA"), ("triton", "Triton"), ("driver", "drivers")):
        found: dict[Any, Counter[str]] = {}
        for run in own:
            found.setdefault(run.software.get(what), Counter())[run.name] += 1
        if len(found) > 1:
            yield f"{name} differ: " + "; ".join(
                f"{value or 'none'} on {_names(devices, runs)}" for value, devices in _first(found)
            )
    for device in dict.fromkeys(run.name for run in own):
        cards = {run.device.get("uuid") for run in own if run.name == device and run.device.get("uuid")}
        if len(cards) > 1:
            yield f"{device}: {len(cards)} cards of this name; each ratio is from one of them, a curve may be from several"
        limits = {run.device.get("power_limit_w") for run in own if run.name == device}
        if len(limits) > 1:
            yield f"{device}: power limits differ, " + ", ".join(sorted(f"{limit} W" for limit in limits))
    codes = {run.setup.get("code") for run in own}
    for workload in dict.fromkeys(run.workload for run in own):
        same = {run.setup.get("code") for run in own if run.workload == workload}
        if len(codes) > 1 and len(same) > 1:
            yield f"{workload}: {len(same)} versions of the measuring code; thresholds are derived from each alone"


def _repeated(superseded: int) -> Iterator[str]:
    if superseded:
        yield (
            f"{several(superseded, 'measurement')} of a GPU, case and variant that a later run measured again: only the latest "
            "counts here; comparison.csv has all, `latest` is false for the others"
        )


def _undrawn(studies: Sequence[Study], drawn: Sequence[Study]) -> Iterator[str]:
    if len(drawn) < len(studies):
        yield f"{len(studies) - len(drawn)} of {len(studies)} studies are not drawn, those with fewest measurements"


def _first(found: dict[Any, Any]) -> list[tuple[Any, Any]]:
    """Return the most frequent of some kinds."""
    return sorted(found.items(), key=lambda one: -(sum(one[1].values()) if isinstance(one[1], Counter) else len(one[1])))[:MOST]


def _jobs(runs: Sequence[Run]) -> str:
    """Name some jobs: `job 3 is`, `jobs 3, 4 and 2 more are`."""
    names = ", ".join(f"{run.source.index}" for run in runs[:MOST])
    more = f" and {len(runs) - MOST} more" if len(runs) > MOST else ""
    return f"job{'s' if len(runs) > 1 else ''} {names}{more}"


def _names(devices: Iterable[str], runs: Sequence[Run]) -> str:
    names = [name or "an unknown device" for name in devices]
    if len(names) > 2 and set(names) >= {run.name for run in runs if run.measured}:
        return f"all {len(names)}"
    return ", ".join(names[:MOST]) + (f" and {len(names) - MOST} more" if len(names) > MOST else "")
