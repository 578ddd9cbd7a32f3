"""The validated config: what `conf/` composes to, as dataclasses; everything wrong with it is one line and exit code 2.

Hydra composes, this module checks: unknown keys and wrong types (runner.schema), then what types can't say.
"""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runner.errors import RequestError, nearest, one_line
from runner.grid import NOT_AXES
from runner.masking import mask
from runner.reported import Reported
from runner.reported import check as check_reported
from runner.schema import read
from runner.spec import AxisSpec, DecisionSpec, GpuSpec, MeasurePolicy, SearchSpec, ThresholdSpec

if TYPE_CHECKING:
    from omegaconf import DictConfig

DISPLAYS = ("auto", "rich", "plain", "quiet", "jsonl")
LAUNCH_MODES = ("auto", "local", "sky")
TIMINGS = ("cold", "warm", "wall")
OTHER_PROCESSES = ("refuse", "mark")
METRICS = ("tflops", "bandwidth_gbps", "pct_of_peak", "pct_of_bandwidth", "speedup", "share", "headroom")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MAX_SEED = 2**63 - 1  # what torch.Generator takes


@dataclass(frozen=True)
class WorkloadConfig:
    """`conf/workload/*.yaml`: see docs/adding-a-workload.md.

    `any_device` lets it run on whatever GPU is here, to hold that against the one asked for; a mismatch fails the job.

    `compositions` says which variants are the stages of which whole.

    `overrides` is not a key of the file: it holds the keys named like an axis (`n: 4096`), which replace that axis of the grid.
    """

    name: str
    module: str
    variants: list[str]
    grids: dict[str, dict[str, Any]]
    axes: dict[str, AxisSpec]
    description: str = ""
    mode: str = "grid"
    grid: str = "auto"
    baseline: str | None = None
    any_device: bool = False
    params: dict[str, Any] = field(default_factory=dict)
    thresholds: list[ThresholdSpec] = field(default_factory=list)
    decisions: list[DecisionSpec] = field(default_factory=list)
    compositions: dict[str, list[str]] = field(default_factory=dict)
    search: SearchSpec = field(default_factory=SearchSpec)
    overrides: dict[str, Any] = field(default_factory=dict)

    def blocks(self, device: str) -> dict[str, Any]:
        """Return the blocks of the grid that is asked for; `auto` is the full one on `cuda`, the small one on `cpu`."""
        name = ("full" if device == "cuda" else "small") if self.grid == "auto" else self.grid
        return self.grids[name]


@dataclass(frozen=True)
class Billing:
    """How a cloud rounds: to whole `increment_s`, at least `minimum_s` (seconds)."""

    increment_s: float
    minimum_s: float
    source: str
    as_of: str


@dataclass(frozen=True)
class CloudConfig:
    """`conf/cloud/*.yaml`: SkyPilot's name of it (None: any, or not on SkyPilot) and its billing rule."""

    name: str
    sky_cloud: str | None
    launchable: bool
    billing: Billing | None


@dataclass(frozen=True)
class LaunchConfig:
    """`conf/launch/*.yaml`."""

    mode: str = "auto"
    dry_run: bool = False
    write_job: str | None = None


@dataclass(frozen=True)
class TrackingConfig:
    """`conf/tracking/*.yaml`; after `resolve` the URI is set and absolute, the experiment named."""

    enabled: bool = True
    required: bool = True
    uri: str | None = None
    artifact_location: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class RunConfig:
    """One run as it was asked for. `gpu` None is whatever this machine has; `choices` names the file chosen per group."""

    workload: WorkloadConfig
    gpu: GpuSpec | None
    cloud: CloudConfig
    launch: LaunchConfig
    measure: MeasurePolicy
    tracking: TrackingConfig
    reported: Reported | None = None
    seed: int = 0
    out: str = "outputs"
    run_dir: str | None = None
    display: str = "auto"
    tags: dict[str, Any] = field(default_factory=dict)
    choices: dict[str, str] = field(default_factory=dict, metadata={"derived": True})

    @property
    def gpu_choice(self) -> str:
        """What the user typed after `gpu=`, as far as it is known."""
        return self.choices.get("gpu") or (self.gpu.name if self.gpu else "local")


def resolve(cfg: "DictConfig", choices: Mapping[str, str] | None = None, declared_variants: Iterable[str] = ()) -> RunConfig:
    """Return the checked config.

    `declared_variants` are those of the workload's own file: a threshold may name one that this run leaves out; it is then
    left out too. Raises RequestError, in one line, for anything wrong.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        plain = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=True)
    except (OmegaConfBaseException, RecursionError) as error:
        key = getattr(error, "full_key", None)
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RequestError(f"{key or 'the config'}: {one_line(reason)}; give it a value with {key or 'KEY'}=VALUE") from error
    assert isinstance(plain, dict)
    data: dict[str, Any] = {str(key): value for key, value in plain.items()}
    if "experiment" in data:
        raise RequestError("experiment is no key of the config; begin the experiment's file with the line '# @package _global_'")
    if isinstance(data.get("gpu"), Mapping) and set(data["gpu"]) == {"name"} and data["gpu"]["name"] == "local":
        data["gpu"] = None
    if isinstance(data.get("workload"), Mapping):
        data["workload"] = _axis_keys(data["workload"])
    config = dataclasses.replace(read(RunConfig, data, ""), choices=dict(choices or {}))
    _check_run(config)
    _check_measure(config.measure)
    workload = _check_workload(config.workload, set(declared_variants))
    return dataclasses.replace(config, workload=workload, tracking=_tracking(config))


def _axis_keys(workload: Mapping[Any, Any]) -> dict[str, Any]:
    """Move the keys named like an axis under `overrides`, so that the schema knows every key."""
    axes = workload.get("axes")
    names = set(map(str, axes)) if isinstance(axes, Mapping) else set()
    known = {one.name for one in dataclasses.fields(WorkloadConfig)} - {"overrides"}
    for name in names & (known | {"x", "overrides"}):
        raise RequestError(
            f"workload.axes.{name}: an axis can't be named {name}, which is a key of the config; give it another name"
        )
    for name in workload:
        if str(name) not in known | names:
            raise RequestError(f"workload.{name} is no key of the config; {nearest(str(name), known | names)}")
    rest = {str(name): value for name, value in workload.items() if str(name) in known}
    return rest | {"overrides": {name: workload[name] for name in workload if str(name) in names}}


def _choice(key: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise RequestError(f"{key}={value}: expected one of {', '.join(choices)}; {nearest(value, choices)}")


def _within(key: str, value: float | None, low: float, high: float = float("inf"), exclusive: bool = True) -> None:
    """Check low < value < high (or <= with `exclusive` false); None passes."""
    if value is None or (low < value < high if exclusive else low <= value <= high):
        return
    least = f"more than {low:g}" if exclusive else f"at least {low:g}"
    most = "" if high == float("inf") else f" and {'less than' if exclusive else 'at most'} {high:g}"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    raise RequestError(f"{key}={shown}: expected {least}{most}")


def _check_run(config: RunConfig) -> None:
    _choice("display", config.display, DISPLAYS)
    _choice("launch.mode", config.launch.mode, LAUNCH_MODES)
    _within("seed", config.seed, 0, MAX_SEED, exclusive=False)
    for key, path in (("out", config.out), ("run_dir", config.run_dir), ("launch.write_job", config.launch.write_job)):
        if path is not None and (not path.strip() or "\0" in path):
            raise RequestError(f"{key}={path!r}: expected a path")
    for name, value in config.tags.items():
        if isinstance(value, dict | list):
            raise RequestError(f"tags.{name}: expected a single value, as in tags.{name}=text")
    if config.cloud.billing:
        _within("cloud.billing.increment_s", config.cloud.billing.increment_s, 0)
        _within("cloud.billing.minimum_s", config.cloud.billing.minimum_s, 0, exclusive=False)
    if config.gpu:
        check_gpu(config.gpu, "gpu")
    if config.reported:
        check_reported(config.reported)


def check_gpu(gpu: GpuSpec, key: str) -> None:
    """Check what types can't say of a GPU's datasheet; `key` is where it stands, for messages. Raises RequestError."""
    try:
        re.compile(gpu.match)
    except re.error as error:
        raise RequestError(f"{key}.match={gpu.match}: expected a regular expression ({error})") from error
    if len(gpu.match_memory_gb) != 2 or gpu.match_memory_gb[0] > gpu.match_memory_gb[1]:
        raise RequestError(f"{key}.match_memory_gb={gpu.match_memory_gb}: expected [least, most] GiB, as in [22, 25]")
    for name in ("sm_count", "cuda_cores", "memory_gb", "bandwidth_gbps", "l2_mb", "boost_clock_mhz", "power_w"):
        _within(f"{key}.{name}", getattr(gpu, name), 0)
    for dtype, peak in gpu.peak_tflops.items():
        _within(f"{key}.peak_tflops.{dtype}", peak, 0)


def _check_measure(policy: MeasurePolicy) -> None:
    for name, low, high in (("confidence", 0, 1), ("target", 0, 1), ("max_time_s", 0, 1e6), ("variant_timeout_s", 0, 1e6)):
        _within(f"measure.{name}", getattr(policy, name), low, high)
    for name, low, high in (
        ("min_samples", 1, 1e6), ("min_time_s", 0, 1e6), ("same_within", 0, 0.5), ("energy_window_s", 0, 1e6),
        ("throttle_retries", 0, 1000), ("cpu_threads", 1, 65536), ("max_cases", 1, 1e6),
    ):  # fmt: skip
        _within(f"measure.{name}", getattr(policy, name), low, high, exclusive=False)
    if policy.min_time_s > policy.max_time_s:
        raise RequestError(
            f"measure.min_time_s={policy.min_time_s:g} is more than measure.max_time_s={policy.max_time_s:g}; lower it"
        )
    _within("measure.warmup.window", policy.warmup.window, 1, 10000, exclusive=False)
    _within("measure.warmup.drift", policy.warmup.drift, 0)
    _within("measure.warmup.max_s", policy.warmup.max_s, 0, 1e6)
    _within("measure.gate.worst_factor", policy.gate.worst_factor, 0)
    _within("measure.gate.row_factor", policy.gate.row_factor, 0)
    for dtype, bound in policy.gate.rel_l2.items():
        _within(f"measure.gate.rel_l2.{dtype}", bound, 0)
    _choice("measure.other_processes", policy.other_processes, OTHER_PROCESSES)
    if policy.timings is not None:
        if not policy.timings:
            raise RequestError("measure.timings is empty; expected some of cold, warm, wall, or null for all that the device has")
        for timing in policy.timings:
            _choice("measure.timings", timing, TIMINGS)


def _check_workload(workload: WorkloadConfig, declared: set[str]) -> WorkloadConfig:
    """Return the workload with the thresholds and decisions that its variants can answer."""
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", workload.name):
        raise RequestError(
            f"workload.name={workload.name}: expected letters, digits, '-', '_' and '.'; it names folders and MLflow runs"
        )
    _choice("workload.mode", workload.mode, ("grid", "search"))
    _choice("workload.grid", workload.grid, ("auto", *workload.grids))
    for needed in ("full", "small"):
        if workload.grid == "auto" and needed not in workload.grids:
            raise RequestError(
                f"workload.grids.{needed} is missing, and workload.grid=auto needs full and small; add it or name a grid"
            )
    if not workload.variants or len(set(workload.variants)) < len(workload.variants):
        raise RequestError("workload.variants: expected at least one name, each once, as in workload.variants=[fp32,bf16]")
    if workload.baseline is not None and workload.baseline not in workload.variants:
        raise RequestError(
            f"workload.baseline={workload.baseline} is not among workload.variants; "
            f"set workload.baseline too: {nearest(workload.baseline, workload.variants)}"
        )
    known = declared | set(workload.variants)
    _check_grids(workload.grids, known)
    for axis in workload.axes:
        _check_axis(axis, workload.axes)
    _within("workload.search.budget_s", workload.search.budget_s, 0, 1e6)
    _within("workload.search.finalists", workload.search.finalists, 1, 1000, exclusive=False)
    for index, threshold in enumerate(workload.thresholds):
        _check_threshold(threshold, f"workload.thresholds[{index}]", workload.axes, known)
    for index, decision in enumerate(workload.decisions):
        _check_decision(decision, f"workload.decisions[{index}]", workload.axes, known)
    for whole, stages in workload.compositions.items():
        _check_composition(whole, stages, known)
    keys = [one.key for one in workload.thresholds] + [one.key for one in workload.decisions]
    for name in keys:
        if keys.count(name) > 1:
            raise RequestError(f"workload.thresholds and decisions: the key {name} is there twice; give one another name")
    chosen = set(workload.variants)
    return dataclasses.replace(
        workload,
        thresholds=[one for one in workload.thresholds if {one.baseline, one.candidate} <= chosen],
        decisions=[one for one in workload.decisions if {one.variant, *one.parts} <= chosen],
    )


def _check_grids(grids: Mapping[str, dict[str, Any]], variants: set[str]) -> None:
    """Check the blocks of every grid: what each is made of, and that the variants it names are there."""
    for grid, blocks in grids.items():
        if not blocks:
            raise RequestError(f"workload.grids.{grid} is empty; expected blocks, as in {{square: {{x: n, n: [256, 512]}}}}")
        for name, block in blocks.items():
            key = f"workload.grids.{grid}.{name}"
            if not isinstance(block, dict) or not isinstance(block.get("x"), str) or block["x"] not in set(block) - {*NOT_AXES}:
                raise RequestError(f"{key}: expected axes and which is the x-axis, as in {{x: n, n: [256, 512]}}")
            own = block.get("variants")
            names = isinstance(own, list) and own and all(isinstance(one, str) for one in own) and len(set(own)) == len(own)
            if own is not None and not names:
                raise RequestError(f"{key}.variants: expected at least one name, each once, as in [fp32, bf16], or null for all")
            for variant in own or []:
                _known(f"{key}.variants", variant, variants)


def _check_axis(axis: str, axes: Mapping[str, AxisSpec]) -> None:
    """Check an axis' bounds, and what it says of other axes."""
    spec = axes[axis]
    if spec.min is not None and spec.max is not None and spec.min > spec.max:
        raise RequestError(f"workload.axes.{axis}: min {spec.min:g} is more than max {spec.max:g}; swap them")
    for relation, other in (("multiple_of", spec.multiple_of), ("at_least", spec.at_least)):
        if other is None:
            continue
        key = f"workload.axes.{axis}.{relation}"
        number = relation == "multiple_of" and other.isdecimal() and int(other) > 0
        if not number:
            _known(key, other, set(axes) - {axis})
        both = [spec] if number else [spec, axes[other]]
        if any(one.choices is not None for one in both):
            raise RequestError(f"{key}={other}: names can't be held against each other; expected axes of numbers")
        if relation == "multiple_of" and not (all(one.whole for one in both) and (number or (axes[other].min or 0) >= 1)):
            raise RequestError(f"{key}={other}: expected axes of whole numbers, and {other} from 1 on (min: 1)")


def _check_threshold(threshold: ThresholdSpec, key: str, axes: Mapping[str, AxisSpec], variants: set[str]) -> None:
    _choice(f"{key}.direction", threshold.direction, ("from", "upto"))
    _within(f"{key}.margin", threshold.margin, 0)
    _known(f"{key}.axis", threshold.axis, axes)
    _known(f"{key}.baseline", threshold.baseline, variants)
    _known(f"{key}.candidate", threshold.candidate, variants)
    if threshold.baseline == threshold.candidate:
        raise RequestError(f"{key}: baseline and candidate are both {threshold.candidate}; name two variants")
    for axis in threshold.where:
        _known(f"{key}.where", axis, axes)
    for axis in threshold.per:
        _known(f"{key}.per", axis, set(axes) - {threshold.axis})
    for sm in threshold.off_on_sm:
        if not re.fullmatch(r"\d+\.\d", sm):
            raise RequestError(f"{key}.off_on_sm={sm}: expected SM versions, as in ['8.9']")


def _check_decision(decision: DecisionSpec, key: str, axes: Mapping[str, AxisSpec], variants: set[str]) -> None:
    _choice(f"{key}.metric", decision.metric, METRICS)
    _choice(f"{key}.over", decision.over, ("every", "any", "largest"))
    _known(f"{key}.variant", decision.variant, variants)
    for axis in decision.where:
        _known(f"{key}.where", axis, axes)
    for metric in decision.also:
        _choice(f"{key}.also", metric, [one for one in METRICS if one != decision.metric])
    for part in decision.parts:
        _known(f"{key}.parts", part, variants - {decision.variant})
    if len(set(decision.parts)) < len(decision.parts):
        raise RequestError(f"{key}.parts: expected each variant once")
    if bool(decision.parts) != bool({"share", "headroom"} & set(decision.bounds)):
        raise RequestError(f"{key}: parts and the metrics share and headroom need each other, as in parts: [scoring, selected]")


def _check_composition(whole: str, stages: list[str], variants: set[str]) -> None:
    _known("workload.compositions", whole, variants)
    key = f"workload.compositions.{whole}"
    for stage in stages:
        _known(key, stage, variants - {whole})
    if not stages or len(set(stages)) < len(stages):
        raise RequestError(f"{key}: expected at least one variant, each once, as in {{whole: [scoring, selected]}}")


def _known(key: str, name: str, choices: Iterable[str]) -> None:
    names = list(choices)
    if name not in names:
        raise RequestError(f"{key}={name}: no such name in the workload; {nearest(name, names)}")


def _tracking(config: RunConfig) -> TrackingConfig:
    """Return the tracking config with its URI, artifact folder and experiment filled in.

    The local store's place is absolute: MLflow resolves relative ones against whatever folder it is started in.
    """
    tracking = config.tracking
    experiment = tracking.experiment if tracking.experiment is not None else config.workload.name
    if not experiment.strip():
        raise RequestError("tracking.experiment is empty; expected a name, or null for the workload's")
    if tracking.uri is not None:
        check_tracking_uri(tracking.uri)
        return dataclasses.replace(tracking, experiment=experiment)
    out = Path(config.out).absolute()
    artifacts = tracking.artifact_location or (out / "mlartifacts").as_uri()
    return dataclasses.replace(tracking, uri=f"sqlite:///{out / 'mlflow.db'}", artifact_location=artifacts, experiment=experiment)


def check_tracking_uri(uri: str) -> None:
    """Check that MLflow can take `uri`: a server or a database (folders went with MLflow 3).

    Raises RequestError for another kind.
    """
    kinds = "http://HOST:PORT, https://HOST, sqlite:///FILE.db or postgresql://HOST/DB (mysql, mssql)"
    wrong = RequestError(f"tracking.uri={mask(uri)}: a tracking URI of a wrong kind; expected {kinds}")
    try:
        parts = urlsplit(uri)
        _ = parts.port
    except ValueError:
        raise wrong from None
    scheme = parts.scheme.partition("+")[0]
    if not uri.strip() or uri != uri.strip() or "\0" in uri or uri.startswith("databricks"):
        raise wrong
    if scheme in ("http", "https"):
        good = bool(parts.hostname)
    elif scheme in DATABASES:
        good = "://" in uri and len(uri.split("://", 1)[1]) > 1
    else:
        good = False
    if not good:
        raise wrong
