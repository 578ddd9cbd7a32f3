"""What MLflow is told about a run: its params, tags and metrics, as pure functions of the journal's events."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from runner import composition, figures
from runner.journal import Event, case_key
from runner.report.table import flat
from runner.results import series

MAX_NAME, MAX_PARAM, MAX_TAG = 250, 6000, 5000

SAME = (
    "latency_ms", "latency_warm_ms", "latency_wall_ms", "throughput_tflops", "bandwidth_gbps", "pct_of_peak", "pct_of_bandwidth",
    "speedup", "peak_memory_mb", "energy_mj",
)  # fmt: skip
METRICS = {name: name for name in SAME} | {"latency_low_ms": "latency_ms_low", "latency_high_ms": "latency_ms_high"}
"""The figures of `runner.report.table` that become metrics, named `METRIC/VARIANT` with further axes behind.

The bounds of the interval are named so that the UI, which sorts its sections by name, shows them behind the latency.
"""


@dataclass(frozen=True)
class Point:
    """One value of one metric; `timestamp` in ms since the epoch is the event's own, so logging it twice changes nothing."""

    name: str
    value: float
    step: int
    timestamp: int


@dataclass(frozen=True)
class Steps:
    """The step of a case: its x, or its place among the sorted x where those are not distinct whole numbers.

    `settings` are the job's: axes that are params of the run and not in the names of its metrics.
    """

    note: str
    _by_x: Mapping[str, Mapping[Any, int]]
    settings: Mapping[str, Any]

    @classmethod
    def of(cls, job: Mapping[str, Any]) -> "Steps":
        """Lay down the steps of a job's cases, so that a run that goes on has the same ones."""
        values: dict[str, set[Any]] = {}
        for case in job.get("cases") or []:
            if (value := case["axes"].get(case["x"])) is not None:
                values.setdefault(case["x"], set()).add(value)
        steps: dict[str, dict[Any, int]] = {}
        notes = []
        for axis, found in values.items():
            numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in found)
            if numeric and len({round(value) for value in found}) == len(found):
                steps[axis] = {value: round(value) for value in found}
                rounded = any(round(value) != value for value in found)
                notes.append(f"step = {axis}" + (" rounded to a whole number" if rounded else ""))
            else:
                ordered = sorted(found) if numeric else sorted(found, key=str)
                steps[axis] = {value: index for index, value in enumerate(ordered)}
                notes.append(
                    f"step = place of {axis}: " + ", ".join(f"{index} is {value}" for index, value in enumerate(ordered))
                )
        return cls("; ".join(notes) or "step = x", steps, (job.get("derive") or {}).get("settings") or {})

    def step(self, axis: str, value: Any) -> int:
        """Return the step of `value` on the x-axis `axis`; 0 where it has none. Cases found by a search are not laid down."""
        known = self._by_x.get(axis, {})
        if value in known:
            return known[value]
        return round(value) if isinstance(value, int | float) else 0


def name(figure: str, variant: str, axes: Mapping[str, Any]) -> str:
    """Return a metric's name: `latency_ms/bf16/layer:llama3_8b_qkv`.

    MLflow allows letters, digits and `_-. :/` in names, no `=`, so axis and value are joined by a colon.
    """
    parts = [figure, _clean(variant)]
    if axes:
        parts.append(" ".join(f"{_clean(axis)}:{_clean(str(axes[axis]))}" for axis in sorted(axes)))
    return "/".join(parts)[:MAX_NAME].rstrip("/ ")


def points(event: Event, steps: Steps) -> Iterator[Point]:
    """Yield the metrics of one event; none for the kinds that carry no figures."""
    at = timestamp(event)
    if event["event"] == "measurement":
        axes = series(event, steps.settings)
        step = steps.step(str(event["x"]), event["case"].get(event["x"]))
        row = flat(event)
        for figure, metric in METRICS.items():
            if row[figure] is not None:
                yield Point(name(metric, str(event["variant"]), axes), float(row[figure]), step, at)
        for figure, value in figures.columns(event).items():
            if value is not None:
                yield Point(name(figure, str(event["variant"]), axes), value, step, at)
    elif event["event"] == "search_finished" and event.get("best"):
        for figure, key in (
            ("search_tflops", "tflops"),
            ("search_low_tflops", "ci_low_tflops"),
            ("search_high_tflops", "ci_high_tflops"),
        ):
            if event["best"].get(key) is not None:
                yield Point(name(figure, str(event["variant"]), {}), float(event["best"][key]), 0, at)


def shares(events: list[Event], since: int, steps: Steps) -> Iterator[Point]:
    """Yield `share/STAGE`, the share of each stage in the time of its whole, of the events from the index `since` on.

    A share is that event's which completes it: the later one of the whole's and the stage's, on the same case and in the same
    rounds. Where a job has several compositions, the whole is named too (`of:whole`).
    """
    job: Mapping[str, Any] = next((event["job"] for event in events if event["event"] == "job_started"), {})
    declared = composition.declared(job)
    if not declared:
        return
    latest: dict[tuple[str, str], Event] = {}
    for index, event in enumerate(events):
        if event["event"] != "measurement":
            continue
        case, variant = case_key(event["case"]), str(event["variant"])
        latest[case, variant] = event
        for one in declared if index >= since else ():
            axes = series(event, steps.settings) | ({"of": one.whole} if len(declared) > 1 else {})
            for stage in one.stages if variant == one.whole else [variant] if variant in one.stages else []:
                both = latest.get((case, stage)), latest.get((case, one.whole))
                share = composition.share(both[:1], both[1], float(job["measure"]["confidence"]))
                if share.interval:
                    step = steps.step(str(event["x"]), event["case"].get(event["x"]))
                    yield Point(name("share", stage, axes), share.interval.value, step, timestamp(event))


def params(job: Mapping[str, Any]) -> dict[str, str]:
    """Return the job flattened, `measure.warmup.window: 8`; long values are cut, lists become JSON, cases their axes' values."""
    rest = {key: value for key, value in job.items() if key not in ("cases", "schema", "derive")}
    cases = [case["axes"] for case in job.get("cases") or []]
    axes = list(dict.fromkeys(axis for case in cases for axis in case))
    rest["cases"] = {"count": len(cases)} | {
        axis: list(dict.fromkeys(case[axis] for case in cases if axis in case)) for axis in axes
    }
    derive = job.get("derive") or {}
    if settings := derive.get("settings"):
        rest["setting"] = settings
    rest["derive"] = {
        kind: {
            one["key"]: json.dumps({name: value for name, value in one.items() if name != "key"})
            for one in derive.get(kind) or []
        }
        for kind in ("thresholds", "decisions")
    }
    if composed := composition.declared(job):
        rest["derive"]["compositions"] = {one.whole: one.stages for one in composed}
    return {_clean(key, "/")[:MAX_NAME]: value[:MAX_PARAM] for key, value in _flatten("", rest)}


def work(events: list[Event]) -> Iterator[Point]:
    """Yield what a run took, for those who estimate the next one: `measure_s` and `measurements`, as of the last event.

    Both count work, not what stands: `measurements` are all in the journal, also those of a case that was measured again, and
    `measure_s` is the sum over all worker processes, of each what its `job_finished` says, else from its `job_started` to its
    last event (the worker was killed, or started itself anew).
    """
    starts = [index for index, event in enumerate(events) if event["event"] == "job_started"]
    if not starts:
        return
    at, seconds = timestamp(events[-1]), 0.0
    for start, stop in zip(starts, [*starts[1:], len(events)], strict=True):
        said = [one["measure_s"] for one in events[start:stop] if one["event"] == "job_finished"]
        seconds += said[-1] if said else (timestamp(events[stop - 1]) - timestamp(events[start])) / 1000
    yield Point("measure_s", round(seconds, 3), 0, at)
    yield Point("measurements", sum(event["event"] == "measurement" for event in events), 0, at)


def tags(event: Event, steps: Steps, more: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags of a run that starts with this event; `more` are the caller's (target, price, the user's)."""
    device, git = event.get("device") or {}, (event["job"].get("provenance") or {}).get("git") or {}
    found: dict[str, Any] = {
        "gpu.name": device.get("name"),
        "gpu.uuid": device.get("uuid"),
        "gpu.sm": device.get("sm"),
        "target": "local",
        "job.hash": event["hash"],
        "git.sha": git.get("sha"),
        "git.dirty": git.get("dirty"),
        "session": event.get("session"),
        "workload": event["job"]["workload"],
        "steps": steps.note,
        "status": "running",
        "kind": "projection" if event["job"].get("mode") == "projection" else None,
    }
    return as_tags(found | dict(more))


def as_tags(found: Mapping[str, Any]) -> dict[str, str]:
    """Return tags as MLflow takes them; what is None is none."""
    return {str(key)[:MAX_NAME]: as_text(value)[:MAX_TAG] for key, value in found.items() if value is not None}


def timestamp(event: Event) -> int:
    """Return an event's time in milliseconds since the epoch."""
    return round(datetime.fromisoformat(event["time"]).timestamp() * 1000)


def as_text(value: Any) -> str:
    """Write a value as MLflow's UI shows it best: lower-case booleans, no quotes around text."""
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    return value if isinstance(value, str) else json.dumps(value) if isinstance(value, list | dict) else str(value)


def _flatten(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, as_text(value)


def _clean(text: str, also: str = "") -> str:
    """Replace what MLflow allows in no name; a slash would start a new section."""
    cleaned = re.sub(rf"[^\w.\- :{also}]", "_", text)
    return "_" if cleaned.strip(". ") == "" else cleaned
