"""The validated config: what `conf/` composes to, as dataclasses; everything wrong with it is one line and exit code 2.

Hydra composes, `resolve` checks: unknown keys and wrong types (runner.schema), then what types can't say (runner.checks).
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.checks import AUTO, LINEUP, check_measure, check_run, check_workload
from runner.checks import METRICS as METRICS
from runner.checks import check_cloud as check_cloud
from runner.checks import check_gpu as check_gpu
from runner.checks import check_tracking_uri as check_tracking_uri
from runner.errors import RequestError, nearest, one_line
from runner.reported import Reported
from runner.schema import read
from runner.spec import AxisSpec, DecisionSpec, GpuSpec, MeasurePolicy, SearchSpec, ThresholdSpec

if TYPE_CHECKING:
    from omegaconf import DictConfig


@dataclass(frozen=True)
class ObjectiveConfig:
    """What a sweeper that searches is told of a run: the geometric mean of `metric` (of measurements.csv) of `variant`."""

    metric: str
    variant: str


@dataclass(frozen=True)
class WorkloadConfig:
    """`conf/workload/*.yaml`: see docs/adding-a-workload.md.

    `any_device` lets it run on whatever GPU is here, to hold that against the one asked for; a mismatch fails the job.

    `compositions` says which variants are the stages of which whole, `forms` which are other forms of a stage, `figures` which
    figures beside times its variants have, each with its unit.

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
    forms: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    search: SearchSpec = field(default_factory=SearchSpec)
    objective: ObjectiveConfig | None = None
    overrides: dict[str, Any] = field(default_factory=dict)

    def blocks(self, device: str) -> dict[str, Any]:
        """Return the blocks of the grid that is asked for.

        `auto` is the full one on `cuda`, `lineup` that of this name or else the full one; on `cpu` both are the small one.
        """
        if self.grid not in (AUTO, LINEUP):
            return self.grids[self.grid]
        if device != "cuda":
            return self.grids["small"]
        return self.grids[LINEUP if self.grid == LINEUP and LINEUP in self.grids else "full"]


@dataclass(frozen=True)
class Billing:
    """How a cloud rounds: to whole `increment_s`, at least `minimum_s` (seconds)."""

    increment_s: float
    minimum_s: float
    source: str
    as_of: str


@dataclass(frozen=True)
class PriceConfig:
    """What one GPU cost on a cloud on the day `as_of`, in USD per hour; `spot_usd_per_hour` is None where none is known."""

    usd_per_hour: float
    as_of: str
    source: str
    spot_usd_per_hour: float | None = None


@dataclass(frozen=True)
class CloudConfig:
    """`conf/cloud/*.yaml`: SkyPilot's name of it (None: any, or not on SkyPilot), its billing rule, its names, a few prices.

    `accelerators` says by which name SkyPilot knows a GPU (a choice of `gpu/`) on this cloud, where that is not the GPU file's
    `sky_accelerator`; None: that name is another card here. `image` is what an instance starts from (as SkyPilot's `image_id`,
    `docker:NAME`) and has torch; None: SkyPilot's own, without torch. `ends_itself` is whether an instance can end itself when
    this machine is gone and no credentials are on it, `autodown` whether SkyPilot takes a request for that. `prices` are a dated
    snapshot by choice of `gpu/`, never launched from.
    """

    name: str
    sky_cloud: str | None
    launchable: bool
    billing: Billing | None
    accelerators: dict[str, str | None] = field(default_factory=dict)
    image: str | None = None
    ends_itself: bool = False
    autodown: bool = True
    prices: dict[str, PriceConfig] = field(default_factory=dict)


@dataclass(frozen=True)
class LaunchConfig:
    """`conf/launch/*.yaml`; every key is explained in `conf/launch_base.yaml`."""

    mode: str = "auto"
    dry_run: bool = False
    write_job: str | None = None
    optimize: str = "bill"
    max_usd: float | None = None
    max_usd_per_hour: float | None = None
    fallback: list[str] = field(default_factory=list)
    region: str | None = None
    spot: bool = False
    retries: int = 0
    disk_gb: int = 64
    image: str | None = None
    python: str | None = None
    setup: str | None = None
    include: list[str] = field(default_factory=list)
    idle_minutes: int = 5
    max_minutes: float | None = None
    credentials: str = "refuse"
    setup_minutes: float = 30.0
    max_clusters: int = 4


@dataclass(frozen=True)
class TrackingConfig:
    """`conf/tracking/*.yaml`; after `resolve` the URI is set and absolute, the experiment named."""

    enabled: bool = True
    required: bool = True
    uri: str | None = None
    artifact_location: str | None = None
    experiment: str | None = None


@dataclass(frozen=True)
class MeasureConfig(MeasurePolicy):
    """`conf/measure/*.yaml`: the policy that goes into the job; a process is for all of a `sweep`, or for one `job`."""

    isolation: str = "sweep"

    @property
    def policy(self) -> MeasurePolicy:
        """What can change a number by itself, which the job's hash covers."""
        return MeasurePolicy(**{one.name: getattr(self, one.name) for one in dataclasses.fields(MeasurePolicy)})


@dataclass(frozen=True)
class SweepConfig:
    """The `sweep` node of `conf/config.yaml`, where its keys are explained."""

    name: str | None = None
    resume: str | None = None
    zip: list[str] = field(default_factory=list)
    max_jobs: int = 1000
    fail_fast: bool = False


@dataclass(frozen=True)
class RunConfig:
    """One run as it was asked for. `gpu` None is whatever this machine has; `choices` names the file chosen per group."""

    workload: WorkloadConfig
    gpu: GpuSpec | None
    cloud: CloudConfig
    launch: LaunchConfig
    measure: MeasureConfig
    tracking: TrackingConfig
    reported: Reported | None = None
    sweep: SweepConfig = field(default_factory=SweepConfig)
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
    check_run(config)
    check_measure(config.measure)
    workload = check_workload(config.workload, set(declared_variants))
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
