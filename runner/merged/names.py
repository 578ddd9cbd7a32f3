"""Short names for things that differ in few of many keys: what tells one job, study or set of thresholds from the others."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

SHOWN = ("dtype", "head_dim")
"""Axes by which thresholds are looked up, whether or not a workload declares them in `per`; named rather than others."""

MOST_NAMED = 3
MAX_VALUE = 24
DIGEST = re.compile(r"[0-9a-f]{32,}")
ELSEWHERE = ("launch.", "launch=", "tracking.", "tracking=", "display=", "out=", "run_dir=", "sweep.", "hydra.")
"""How overrides begin that say where a run goes, and not what it measures."""


def distinguish(keys: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say in what each of some nested mappings differs from the others; "" for all where they don't.

    >>> distinguish([{"measure": {"target": 0.01, "seed": 0}}, {"measure": {"target": 0.05, "seed": 0}}])
    ['measure.target=0.01', 'measure.target=0.05']
    """
    flat = [dict(_leaves(key)) for key in keys]
    paths = dict.fromkeys(path for one in flat for path in one)
    differing = [path for path in paths if len({one.get(path) for one in flat}) > 1]
    names = [", ".join(f"{path}={_short(one.get(path, 'none'))}" for path in differing[:MOST_NAMED]) for one in flat]
    if differing and len(set(names)) < len(names):
        return [f"{name}, #{place + 1}" for place, name in enumerate(names)]
    return names


def varied(overrides: Sequence[Sequence[str]]) -> list[str]:
    """Return of each job's overrides those that not all of the jobs have, in a line; all of them where there is one job.

    Those that only say where a run goes are left out.
    """
    shared = set.intersection(*map(set, overrides)) if len(overrides) > 1 else set()
    return [" ".join(one for one in job if one not in shared and not one.startswith(ELSEWHERE)) for job in overrides]


def _short(value: str) -> str:
    return value[:8] if DIGEST.fullmatch(value) else value[:MAX_VALUE]


def _leaves(value: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for key, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(item, f"{path}{key}.")
        else:
            yield f"{path}{key}", item if isinstance(item, str) else json.dumps(item, separators=(",", ":"))
