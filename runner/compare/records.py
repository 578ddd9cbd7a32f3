"""A journal read for a comparison: of every measurement what identifies it and one estimate per metric; samples are let go."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

from runner import journal, results
from runner.compare.metrics import METRICS
from runner.compare.ratio import Estimate
from runner.errors import RequestError
from runner.journal import Event
from runner.results import MEASURED

PUBLISHED = "published"
"""The device type of what others measured: which one it was is not known."""
MISSING = "not measured"
"""The status of what a job planned and its journal does not have."""

Key = tuple[str, str, str, str]


@dataclass(frozen=True, eq=False)
class Run:
    """One worker process on one machine: `job` is the job's plain data, `device` and `software` as the worker read them.

    `name` is what the user finds it by, `session` tells runs apart. A journal that was continued elsewhere has several.
    """

    name: str
    session: str
    started_at: str
    job: Mapping[str, Any]
    device: Mapping[str, Any]
    software: Mapping[str, Any]
    status: str = "complete"
    reason: str = ""

    @property
    def workload(self) -> str:
        """The workload's name."""
        return str(self.job.get("workload") or "")

    @property
    def settings(self) -> Mapping[str, Any]:
        """The axes that one value was chosen for in the whole job: said once, and left out of labels."""
        return (self.job.get("derive") or {}).get("settings") or {}

    @property
    def published(self) -> bool:
        """Whether these are figures of others and no run of this program."""
        return self.device.get("type") == PUBLISHED

    @cached_property
    def model(self) -> str:
        """What kind of device it ran on."""
        return str(self.device.get("name") or "an unknown device")

    @cached_property
    def physical(self) -> str | None:
        """Which device it ran on, None where that is not known: a GPU's UUID; of a CPU its name and cores, all there is."""
        if self.device.get("type") == "cpu":
            return f"{self.model}, {self.device.get('cores')} cores"
        uuid = self.device.get("uuid")
        return str(uuid) if uuid else None

    @cached_property
    def setup(self) -> str:
        """All that must be equal for two runs to be repeats of each other, but for the device: what, how and with what."""
        software = {name: self.software.get(name) for name in ("torch", "cuda", "driver", "triton", "python")}
        job = {name: self.job.get(name) for name in ("params", "measure", "mode", "code")}
        return json.dumps([software, job, self.device.get("threads")], sort_keys=True, default=str)


@dataclass(frozen=True, eq=False)
class Found:
    """One figure of one variant on one case, as one run has it; `estimate` is None where it has none."""

    run: Run
    case: Mapping[str, Any]
    x: str
    variant: str
    metric: str
    status: str
    reason: str = ""
    dtype: str | None = None
    timing: str | None = None
    at: str = ""
    estimate: Estimate | None = None
    case_key: str = field(default="")

    @property
    def key(self) -> Key:
        """What the same figure has in another run: workload, case, variant, metric."""
        return self.run.workload, self.case_key, self.variant, self.metric

    @property
    def measured(self) -> bool:
        """Whether it has a time, `ok` or `noisy`."""
        return self.status in MEASURED


def read(name: str, events: list[Event], metrics: Sequence[str]) -> Iterator[Found]:
    """Yield what the journal called `name` says of `metrics`, the last word on every case; then what it planned and lacks.

    Raises RequestError when no worker ever started in it, or a measurement is not as docs/journal.md says.
    """
    try:
        whole = results.from_events(events)
        last: dict[tuple[str, str], tuple[Run, Event]] = {}
        for run, event in _by_run(name, whole, events):
            last[journal.case_key(event["case"]), str(event["variant"])] = run, event
        found = [_found(run, event, metric) for run, event in last.values() for metric in metrics]
    except RequestError as error:
        raise RequestError(f"{name}: {error}") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RequestError(f"{name}: a measurement in it can't be read ({error!r}); name a journal of this program") from error
    yield from found
    run = _run(name, whole, next(event for event in reversed(events) if event["event"] == "job_started"))
    for axes, variant in whole.missing:
        for metric in metrics:
            yield Found(run, axes, "", variant, metric, MISSING, whole.reason, case_key=journal.case_key(axes))


def _by_run(name: str, whole: results.Results, events: Iterable[Event]) -> Iterator[tuple[Run, Event]]:
    """Yield every measurement with the process that took it: a continued run may be on another machine."""
    run: Run | None = None
    for event in events:
        if event["event"] == "job_started":
            run = _run(name, whole, event)
        elif event["event"] == "measurement" and run is not None:
            yield run, event


def _run(name: str, whole: results.Results, start: Event) -> Run:
    return Run(
        name=name,
        session=whole.session or name,
        started_at=str(start["time"]),
        job=_kept(start["job"]),
        device=_shared(start.get("device") or {}),
        software=_shared(start.get("software") or {}),
        status=whole.status,
        reason=whole.reason,
    )


def _kept(job: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what a comparison reads of a job: of thousands of jobs, all of each is a gigabyte."""
    parts = {name: _shared(job.get(name)) for name in ("params", "measure")}
    git = (job.get("provenance") or {}).get("git")
    settings = (job.get("derive") or {}).get("settings")
    plain = {name: job.get(name) for name in ("workload", "mode", "code", "seed", "hash")}
    return plain | parts | {"provenance": {"git": _shared(git)}, "derive": {"settings": _shared(settings)}}


def _shared(data: Any) -> Any:
    """Return equal plain data as one and the same object, which nobody changes: the jobs of a sweep agree in most of it."""
    return _parsed(json.dumps(data))


@lru_cache(maxsize=4096)
def _parsed(text: str) -> Any:
    return json.loads(text)


def _found(run: Run, event: Event, metric: str) -> Found:
    measured = event["status"] in MEASURED
    return Found(
        run=run,
        case=event["case"],
        x=str(event["x"]),
        variant=str(event["variant"]),
        metric=metric,
        status=str(event["status"]),
        reason=str(event.get("reason") or ""),
        dtype=event.get("dtype"),
        timing=event.get("timing") if metric == "latency_ms" else None,
        at=str(event["time"]),
        estimate=METRICS[metric].read(event) if measured else None,
        case_key=journal.case_key(event["case"]),
    )
