"""The typed pieces that configs, job files and the worker share: plain dataclasses, no library behind them.

The control plane hands these to OmegaConf as schemas (unknown keys and wrong types become errors there); the worker builds
the same classes from the job's JSON. Units are in the names.
"""

import re
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class GpuSpec:
    """One GPU as its datasheet has it; every `conf/gpu/*.yaml` is one of these.

    `match` is a regular expression on the device name that the driver reports, `match_memory_gb` the inclusive range of
    its total memory in GiB. `peak_tflops` holds dense peaks (TOPS for int8) at `boost_clock_mhz`, None where the GPU has no
    such unit; `peak_clock_mhz` names the clock of those peaks that are stated at another one.
    """

    name: str
    match: str
    match_memory_gb: list[float]
    sm: str
    sm_count: int
    cuda_cores: int
    memory_gb: float
    bandwidth_gbps: float
    l2_mb: float
    boost_clock_mhz: float
    power_w: float
    peak_tflops: dict[str, float | None]
    sky_accelerator: str
    peak_clock_mhz: dict[str, float] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    variants: str = ""

    def is_this(self, device_name: str, memory_bytes: int) -> bool:
        """Whether a device that the driver calls `device_name`, with this much memory, is this GPU."""
        low, high = self.match_memory_gb
        return re.search(self.match, device_name) is not None and low <= memory_bytes / 2**30 <= high


@dataclass(frozen=True)
class Warmup:
    """When a variant counts as warm: the median of the last `window` calls is within `drift` of the window before."""

    window: int = 8
    drift: float = 0.02
    max_s: float = 1.0


@dataclass(frozen=True)
class Gate:
    """How far from the float64 reference an output may be, per dtype.

    `rel_l2` bounds ||out - ref|| / ||ref||. The worst element may be off by `worst_factor` times that bound, relative to its own
    size plus the root mean square of its row; a row (the last dimension) by `row_factor` times it, relative to its own norm. In
    attention the norms of rows fall with their length, so that late rows hardly count in the sum over all.
    """

    rel_l2: dict[str, float] = field(default_factory=dict)
    worst_factor: float = 10.0
    row_factor: float = 4.0


@dataclass(frozen=True)
class MeasurePolicy:
    """How numbers are taken: `conf/measure/*.yaml`. Times in seconds, ratios as fractions."""

    confidence: float = 0.95
    target: float = 0.01
    min_samples: int = 30
    min_time_s: float = 0.1
    max_time_s: float = 2.0
    same_within: float = 0.01
    timings: list[str] | None = None
    warmup: Warmup = field(default_factory=Warmup)
    gate: Gate = field(default_factory=Gate)
    aa_control: bool = False
    energy_window_s: float = 0.5
    variant_timeout_s: float = 120.0
    throttle_retries: int = 2
    other_processes: str = "refuse"
    cpu_threads: int | None = None
    max_cases: int = 500


@dataclass(frozen=True)
class AxisSpec:
    """What a value of a workload's axis may be: bounds for numbers, `choices` for names.

    `multiple_of` and `at_least` name another axis, and hold in every case that has both; `multiple_of` may be a number too.
    A `setting` is part of the shape, but normally fixed: where all of a job agrees on it, it is said once and in no label.
    """

    unit: str = ""
    min: float | None = None
    max: float | None = None
    choices: list[str] | None = None
    multiple_of: str | None = None
    at_least: str | None = None
    setting: bool = False

    @property
    def whole(self) -> bool:
        """Whether its values are whole numbers: its bounds are, or there are none."""
        return all(bound is None or float(bound).is_integer() for bound in (self.min, self.max))


@dataclass(frozen=True)
class ThresholdSpec:
    """A declared threshold: from which value of `axis` (`from`), or up to which (`upto`), `candidate` beats `baseline`.

    It must hold at every measured value of every other axis. `where` keeps only the cases with these axis values. Beside this
    one value, each combination of the values of the axes in `per` gets a value of its own. `operation` is what a consumer asks
    for, as in `sliding`. On a device whose SM version is in `off_on_sm` a runtime is told `never`, whatever was measured.
    """

    key: str
    axis: str
    baseline: str
    candidate: str
    unit: str = ""
    direction: str = "from"
    margin: float = 1.2
    where: dict[str, Any] = field(default_factory=dict)
    never: int = 999999
    per: list[str] = field(default_factory=list)
    operation: str = ""
    off_on_sm: list[str] = field(default_factory=list)

    def misleading_never(self, xs: list[float]) -> str | None:
        """Say what is wrong with a `never` that a runtime would read as a real threshold among `xs`, None when it is fine."""
        if self.direction == "from" and xs and self.never <= max(xs):
            return f"never={self.never} is not above the largest {self.axis}, {max(xs)}; declare a larger one"
        if self.direction == "upto" and self.never >= (min(xs) if xs else 1):
            smallest = f", {min(xs)}" if xs else ""
            return f"never={self.never} is not below the smallest {self.axis}{smallest}; declare a smaller one, as in 0"
        return None


@dataclass(frozen=True)
class DecisionSpec:
    """A declared yes/no gate: `metric` of `variant` reaches `at_least` at `every` case, at `any`, or at the `largest`.

    `parts` are the variants that the metrics `share` and `headroom` take for parts of `variant`. `also` holds further metrics and
    what each must reach at the same case.
    """

    key: str
    question: str
    metric: str
    variant: str
    at_least: float
    over: str = "every"
    where: dict[str, Any] = field(default_factory=dict)
    parts: list[str] = field(default_factory=list)
    also: dict[str, float] = field(default_factory=dict)

    @property
    def bounds(self) -> dict[str, float]:
        """What a case must reach to be a yes, by metric, the main one first."""
        return {self.metric: self.at_least} | self.also


@dataclass(frozen=True)
class SearchSpec:
    """How `mode: search` looks for the case with the highest TFLOPS: quick looks for `budget_s`, then `finalists` in full."""

    budget_s: float = 45.0
    finalists: int = 3


@dataclass(frozen=True)
class Case:
    """One point of a workload's grid: the values of its axes, and which axis is the x-axis of its curves.

    `variants` are those measured on it; none named are all of the job's.
    """

    axes: dict[str, Any]
    x: str
    variants: list[str] = field(default_factory=list)

    @property
    def series(self) -> dict[str, Any]:
        """The axes other than x: what tells one curve of this workload from another."""
        return {axis: value for axis, value in self.axes.items() if axis != self.x}
