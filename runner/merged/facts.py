"""What is kept of each run when its journal has been read: small enough for ten thousand of them at once, without raw samples."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner.merged.sources import Source
from runner.rental import Rental
from runner.spec import GpuSpec, ThresholdSpec
from runner.thresholds import Row
from runner.units import several

Case = Mapping[str, Any]
"""Axis -> value. Equal cases are one object in a whole merge, so that they can be told by identity."""


@dataclass(frozen=True)
class Price:
    """What a GPU costs, in USD per hour, and where that is from: `rented`, or what whoever gave it says."""

    usd_per_hour: float
    source: str


@dataclass(slots=True)
class Cell:
    """One measurement: latencies in ms, throughput in TFLOPS (TOPS for int8), energy in mJ a call; None where there is none.

    `device` is the GPU's name as measured. `latest` is False where a later run measured the same on a GPU of this name.
    """

    run: int
    device: str
    case: Case
    x: str
    variant: str
    dtype: str
    status: str
    time: str
    latency_ms: float | None
    latency_low_ms: float | None
    latency_high_ms: float | None
    speedup: float | None
    speedup_low: float | None
    speedup_high: float | None
    tflops: float | None
    ops: float | None
    bytes: float | None
    energy_mj: float | None
    latest: bool = True


@dataclass(frozen=True, slots=True)
class Point:
    """One case of one run as a threshold sees it; `both` is whether both its variants have a measurement, taken until `time`."""

    case: Case
    row: Row
    both: bool
    time: str


@dataclass(frozen=True)
class Declared:
    """A threshold that a run declares, with the run's cases of it."""

    spec: ThresholdSpec
    points: list[Point]


@dataclass(frozen=True)
class Answered:
    """A decision of one run."""

    key: str
    question: str
    answer: str
    reason: str


@dataclass
class Run:
    """One run. `status` is the journal's, else `missing` (never started) or `unreadable`.

    `study` is what must be equal for two measurements to belong into one picture, `setup` what must be for two runs to give one
    threshold together, and `asked` the same without what only the machine can say. `comparable` are the variants that do the
    whole task, and not a stage of it. `datasheet` is the GPU's, None where the device is not the one that was asked for.
    """

    source: Source
    status: str
    reason: str = ""
    workload: str = ""
    hash: str = ""
    session: str = ""
    overrides: list[str] = field(default_factory=list)
    git_sha: str | None = None
    git_dirty: bool | None = None
    device: Mapping[str, Any] = field(default_factory=dict)
    software: Mapping[str, Any] = field(default_factory=dict)
    datasheet: GpuSpec | None = None
    started_at: str = ""
    ended_at: str = ""
    measure_s: float = 0.0
    study: Mapping[str, Any] = field(default_factory=dict)
    setup: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    units: Mapping[str, str] = field(default_factory=dict)
    confidence: float = 0.95
    same_within: float = 0.01
    baseline: str | None = None
    variants: tuple[str, ...] = ()
    comparable: frozenset[str] = frozenset()
    cases: int = 0
    missing: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    unfit: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    launch_bound: Counter[str] = field(default_factory=Counter)
    warnings: Counter[str] = field(default_factory=Counter)
    alarms: list[str] = field(default_factory=list)
    declared: list[Declared] = field(default_factory=list)
    answers: list[Answered] = field(default_factory=list)
    rental: Rental | None = None
    price: Price | None = None
    cloud: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """The device's name as measured, "" where no worker started."""
        return str(self.device.get("name") or "")

    @property
    def measured(self) -> bool:
        """Whether the journal has any measurement."""
        return bool(self.counts)


def machines(runs: Iterable[Run], count: int) -> str:
    """Write a count of machines, `3 GPUs`; `3 devices` where some of the runs were on a CPU."""
    return several(count, "device" if any(run.device.get("type") == "cpu" for run in runs) else "GPU")


@dataclass(frozen=True)
class Drawn:
    """A picture that was written, its study, its title, and a sentence that says what is on it."""

    path: Path
    study: str
    title: str
    caption: str


@dataclass
class Read:
    """Everything that was read: the runs in their order, and every measurement of theirs."""

    runs: list[Run] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
