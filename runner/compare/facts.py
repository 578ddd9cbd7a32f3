"""What A and B are, and in what they differ: device, driver, torch, code, policy; the most telling difference first."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from runner import units
from runner.compare.records import Run

MAX_NAMED = 3
ABSENT = "none"


@dataclass(frozen=True)
class Difference:
    """One fact in which the sides differ, as text; `loud` ones make times differ without any change to the code."""

    what: str
    old: str
    new: str
    loud: bool

    def __str__(self) -> str:
        return f"other {self.what}: {self.old} in A, {self.new} in B"


def described(typed: str, runs: Sequence[Run]) -> str:
    """Say in a line what a side is: what was typed, how many runs, of what, where, with what, when, how precise."""
    if not runs:
        return typed
    sources = [run for run in runs if run.published]
    if len(sources) == len(runs):
        tables = listed(f"{run.name}, on {run.model}, {run.software['torch']}" for run in sources)
        return f"{typed}: published, {tables}"
    workloads = listed(run.workload for run in runs)
    sessions = units.several(len({run.session for run in runs}), "run")
    parts = [
        f"{typed}: {sessions} of {workloads} on {listed(map(_where, runs))}",
        *(f"{name} {value}" for name in ("driver", "torch") if (value := listed(_software(name, run) for run in runs)) != ABSENT),
        f"git {listed(map(_git, runs))}",
        _when(runs),
        f"target {listed(_target(run) for run in runs)}",
    ]
    return ", ".join(parts)


def differences(old: Sequence[Run], new: Sequence[Run]) -> list[Difference]:
    """Return in what the runs of A and of B differ, the loud differences first; nothing of figures that were published."""
    sides = [[run for run in runs if not run.published] for runs in (old, new)]
    gpus, cpus = ([[run for run in runs if run.device.get("type") == kind] for runs in sides] for kind in ("cuda", "cpu"))
    models = _told(sides, lambda run: run.model)
    loud = [
        ("device", models),
        ("GPU", None if models else _told(gpus, _uuid)),
        *((name, _told(sides, partial(_software, name))) for name in ("driver", "torch", "cuda", "triton")),
        ("CPU", None if models else _told(cpus, _processor)),
    ]
    asked = {run: _asked(run) for runs in sides for run in runs}
    quiet = [
        *((name, _told(sides, partial(_software, name))) for name in ("python", "platform")),
        ("measuring code", _told(sides, lambda run: str(run.job.get("code") or ABSENT)[:7])),
        ("git", _told(sides, _git)),
        *(
            (name, _told(sides, partial(_of, asked, name)))
            for name in dict.fromkeys(name for one in asked.values() for name in one)
        ),
    ]
    told = [(what, values, is_loud) for is_loud, facts in ((True, loud), (False, quiet)) for what, values in facts]
    return [Difference(what, *values, is_loud) for what, values, is_loud in told if values]


def listed(values: Iterable[str]) -> str:
    """Write distinct values in a line, of many the first few.

    >>> listed(["570", "580", "570"]), listed("abcde")
    ('570 and 580', 'a, b, c and 2 more')
    """
    distinct = list(dict.fromkeys(values))
    if len(distinct) > MAX_NAMED:
        return f"{', '.join(distinct[:MAX_NAMED])} and {len(distinct) - MAX_NAMED} more"
    return " and ".join(filter(None, [", ".join(distinct[:-1]), distinct[-1]])) if distinct else ABSENT


def _told(sides: Sequence[Sequence[Run]], fact: Callable[[Run], str]) -> tuple[str, str] | None:
    """Return the values of a fact on both sides where these differ."""
    before, now = ({fact(run): None for run in runs} for runs in sides)
    return (listed(before), listed(now)) if before and now and before.keys() != now.keys() else None


def _where(run: Run) -> str:
    return f"{run.model} ({_processor(run) if run.device.get('type') == 'cpu' else _uuid(run)})"


def _uuid(run: Run) -> str:
    """Name a physical GPU by the first part of its UUID, which is enough to tell two apart."""
    return "-".join(run.physical.split("-")[:2]) if run.physical else "which one is not known"


def _processor(run: Run) -> str:
    return f"{run.device.get('cores')} cores, {units.several(int(run.device.get('threads') or 0), 'thread')}"


def _software(name: str, run: Run) -> str:
    return str(run.software.get(name) or ABSENT)


def _git(run: Run) -> str:
    git = (run.job.get("provenance") or {}).get("git") or {}
    return f"{git['sha'][:7]}{' with changes' if git.get('dirty') else ''}" if git.get("sha") else "not known"


def _when(runs: Sequence[Run]) -> str:
    times = sorted(run.started_at[:16].replace("T", " ") for run in runs)
    last = times[-1].removeprefix(times[0][:11])  # of one day the time is enough
    return f"{times[0]} UTC" if times[0] == times[-1] else f"{times[0]} to {last} UTC"


def _target(run: Run) -> str:
    target = (run.job.get("measure") or {}).get("target")
    return f"{100 * target:g}%" if isinstance(target, int | float) else "not known"


def _asked(run: Run) -> dict[str, str]:
    """Return what was asked for beyond the cases: how to measure, the workload's parameters, the seed; flat, as text."""
    asked = {"measure": run.job.get("measure") or {}, "params": run.job.get("params") or {}, "seed": run.job.get("seed")}
    return dict(_flat("", asked))


def _of(asked: Mapping[Run, Mapping[str, str]], name: str, run: Run) -> str:
    return asked[run].get(name, ABSENT)


def _flat(prefix: str, value: Any) -> Iterable[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)
