"""From a config to a plan: which machine, which device, which cases, as a job that is ready to be saved and launched.

Nothing is launched or written here but by `save`.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from runner import __version__, code, gpus, projection
from runner.config import RunConfig
from runner.errors import RequestError, one_line
from runner.gpus import DetectedGpu
from runner.grid import expand
from runner.job import Job, at_most_s, measurements
from runner.masking import mask
from runner.paths import run_folder
from runner.spec import AxisSpec, Case, GpuSpec, ThresholdSpec
from runner.units import listed


@dataclass(frozen=True)
class Target:
    """Where a job would run: `here`, this machine's GPU for it, or on one to `rent`; `obstacle` says why neither can be."""

    device: str
    gpu: GpuSpec | None
    here: DetectedGpu | None = None
    obstacle: str | None = None
    rent: bool = False


@dataclass(frozen=True)
class Plan:
    """What will happen: the job, its target and the folder that it writes to."""

    config: RunConfig
    job: Job
    target: Target
    folder: Path


def make(
    config: RunConfig,
    folders: Sequence[Path],
    overrides: Sequence[str] = (),
    detected: Sequence[DetectedGpu] | None = None,
    git: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan a run; `folders` are the config folders, `overrides` what the user typed, `detected` this machine's GPUs.

    `git` is the checkout's state, where it is known already.

    Raises RequestError when the request is wrong, or can't be done and is neither a dry run nor a written job.
    """
    place = target(config, gpus.detect() if detected is None else detected, folders)
    if place.obstacle and not (config.launch.dry_run or config.launch.write_job):
        raise RequestError(place.obstacle)
    job = build_job(config, place, folders, overrides, git)
    return Plan(config, job, place, run_folder(config.out, config.run_dir, config.workload.name, job.hash))


def target(config: RunConfig, detected: Sequence[DetectedGpu], folders: Sequence[Path]) -> Target:
    """Decide where the job runs: the GPU that was asked for, or this machine's for `gpu=local`, else its CPU."""
    if config.workload.mode == projection.MODE:  # arithmetic on datasheets: needs no GPU, and never rents one
        return Target("cpu", None)
    if config.gpu is None:
        here = detected[0] if detected else None
        known = gpus.identify(here, gpus.load_specs(folders)) if here else None
        obstacle = None
        if config.launch.mode == "sky":
            obstacle = "gpu=local means this machine, which can't be rented; name a GPU with gpu=NAME, or use launch=local"
        return Target("cuda" if here else "cpu", known[1] if known else None, here, obstacle)
    spec = config.gpu
    here = next((gpu for gpu in detected if spec.is_this(gpu.name, gpu.memory_bytes)), None)
    if here is None and config.workload.any_device and config.launch.mode != "sky" and detected:
        here = detected[0]  # what is here is the question; the worker and the report say that it is another one
    if config.launch.mode == "sky" or (here is None and config.launch.mode == "auto"):
        return rented(spec)
    obstacle = None
    if here is None:
        have = ", ".join(dict.fromkeys(one_line(gpu.name) for gpu in detected)) or "no GPU"
        obstacle = (
            f"gpu={config.gpu_choice} launch=local: no {spec.name} here (this machine has {have}); use gpu=local, or "
            "launch.dry_run=true"
        )
    return Target("cuda", spec, here, obstacle)


def rented(spec: GpuSpec) -> Target:
    """Return a rented target; a datasheet without an SM version stands for a processor."""
    return Target("cuda" if spec.sm else "cpu", spec, rent=True)


def build_job(
    config: RunConfig,
    place: Target,
    folders: Sequence[Path],
    overrides: Sequence[str] = (),
    git: Mapping[str, Any] | None = None,
) -> Job:
    """Resolve the config for a target into a job.

    Raises RequestError for a bad grid or a module that is not there.
    """
    workload = config.workload
    path = code.locate(workload.module, folders)
    is_file = workload.module.endswith(".py")
    if place.device == "cpu" and workload.mode != projection.MODE and config.measure.timings not in (None, ["wall"]):
        raise RequestError("measure.timings: a CPU has no device clock; expected null or [wall]")
    variants = workload.variants
    cases = expand(workload.blocks(place.device), workload.axes, workload.overrides, config.measure.max_cases, variants)
    thresholds = [one for one in workload.thresholds if any(_bears_on(one, case) for case in cases)]
    _check_never(thresholds, cases)
    projected = _projected(config, cases, folders) if workload.mode == projection.MODE else None
    if workload.mode in ("search", projection.MODE):
        cases = []
    elif all(case.variants for case in cases):
        variants = [one for one in variants if any(one in case.variants for case in cases)]
    composed = _compositions(workload.compositions, variants) if workload.mode == "grid" else {}
    forms = [one for one in workload.forms if one in variants] if composed else []
    return Job(
        workload=workload.name,
        module=path.name if is_file else workload.module,
        params=workload.params,
        variants=variants,
        baseline=workload.baseline if workload.baseline in variants else None,
        cases=cases,
        device=place.device,
        gpu=place.gpu,
        measure=config.measure.policy,
        seed=config.seed,
        code=code.digest(workload.module, path),
        mode=workload.mode,
        search=workload.search,
        derive={
            "axes": {name: spec.unit for name, spec in workload.axes.items()},
            "settings": _settings(cases, workload.axes),
            "thresholds": [asdict(one) for one in thresholds],
            "decisions": [asdict(one) for one in workload.decisions if one.variant in variants],
            **({"compositions": composed} if composed else {}),
            **({"forms": forms} if forms else {}),
            **({"figures": workload.figures} if workload.figures else {}),
            **({"reported": asdict(config.reported)} if config.reported else {}),
            **({"projection": projected} if projected else {}),
        },
        provenance={
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "overrides": [mask(one) for one in overrides],
            "choices": config.choices,
            "version": __version__,
            "git": dict(git) if git is not None else code.git_state(),
            "lock_sha256": code.lock_digest(),
            "module_file": str(path) if is_file else None,
        },
    )


def _projected(config: RunConfig, cases: Sequence[Case], folders: Sequence[Path]) -> dict[str, Any]:
    """Return what is to be projected: these cases on the GPU that was asked for, on all that there are for `gpu=local`."""
    from runner.projection import declared

    sheets = {config.gpu_choice: config.gpu} if config.gpu else gpus.load_specs(folders)
    return declared.derive(config.workload.params, cases, config.workload.variants, sheets)


def _compositions(compositions: Mapping[str, list[str]], variants: Sequence[str]) -> dict[str, Any]:
    """Return what this run has of the declared compositions, by whole: `stages`, and `without`, those that it leaves out.

    One whose whole or whose every stage is left out is none. A search times no stage beside its whole.
    """
    found = {}
    for whole, declared in compositions.items():
        stages = [one for one in declared if one in variants]
        without = [one for one in declared if one not in variants]
        if whole in variants and stages:
            found[whole] = {"stages": stages} | ({"without": without} if without else {})
    return found


def _settings(cases: Sequence[Case], specs: Mapping[str, AxisSpec]) -> dict[str, Any]:
    """Return the declared settings on which all cases that have them agree: axis -> value, to be said once.

    An axis that is some block's x is none of them, nor is one without which two curves of the job would have one name.
    """
    found: dict[str, Any] = {}
    for axis, spec in specs.items():
        values = {case.axes[axis] for case in cases if axis in case.axes}
        if not spec.setting or len(values) != 1 or any(case.x == axis for case in cases):
            continue
        if len(_curves(cases, {*found, axis})) == len(_curves(cases, {*found})):
            found[axis] = values.pop()
    return found


def _curves(cases: Sequence[Case], hidden: set[str]) -> set[tuple[Any, ...]]:
    """Return the names that the curves of a job have without the `hidden` axes."""
    return {(case.x, *sorted((axis, value) for axis, value in case.series.items() if axis not in hidden)) for case in cases}


def _bears_on(threshold: ThresholdSpec, case: Case) -> bool:
    """Whether both variants of a threshold are measured on a case that has its axis."""
    return threshold.axis in case.axes and (not case.variants or {threshold.baseline, threshold.candidate} <= {*case.variants})


def _check_never(thresholds: Sequence[ThresholdSpec], cases: Sequence[Case]) -> None:
    """Refuse a `never` within the values that will be measured: a runtime would take it for a threshold."""
    for threshold in thresholds:
        xs = [case.axes[threshold.axis] for case in cases if isinstance(case.axes.get(threshold.axis), int | float)]
        problem = threshold.misleading_never(xs)
        if xs and problem:
            raise RequestError(f"threshold {threshold.key}: {problem}")


def save(job: Job, path: Path) -> None:
    """Write the job file, and beside it the workload's module where that is a `.py` file.

    Raises RequestError when the folder can't be written.
    """
    job.save(path)
    source = job.provenance.get("module_file")
    if source and Path(source) != path.parent.resolve() / job.module:
        try:
            shutil.copyfile(source, path.parent / job.module)
        except OSError as error:
            raise RequestError(f"can't copy {source} to {path.parent}: {error.strerror}") from error


def describe(plan: Plan) -> list[str]:
    """Return the lines that a dry run prints: what would be measured, where, and for how long at most."""
    job, place = plan.job, plan.target
    minutes, seconds = divmod(round(at_most_s(job.as_dict())), 60)
    gpu = place.gpu.name if place.gpu else (place.here.name if place.here else None)
    here = f"here, on GPU {place.here.index} ({place.here.name})" if place.here else "here, on the CPU"
    verdict = place.obstacle or ("rented, through SkyPilot" if place.rent else here)
    count = measurements(job.as_dict())
    own = "" if count == len(job.cases) * len(job.variants) else f", {count} measurements"
    settings = listed(job.derive["settings"])
    lines = [
        f"workload   {job.workload}: {plan.config.workload.description or job.module}",
        f"cases      {len(job.cases)} ({_axes(job)}){own}"
        if job.mode == "grid"
        else f"projects   from the datasheets of {', '.join(job.derive['projection']['gpus'])}; measures nothing"
        if job.mode == projection.MODE
        else f"search     {job.search.budget_s:g} s a variant",
        *([f"fixed      {settings}"] if settings else []),
        f"variants   {', '.join(job.variants)}" + (f"; baseline {job.baseline}" if job.baseline else ""),
        f"device     {gpu or job.device}",
        f"job        {job.hash[:12]}",
        f"at most    {minutes} min {seconds} s of measuring",
        f"target     {verdict}",
    ]
    keys = [str(one["key"]) for kind in ("thresholds", "decisions") for one in job.derive[kind]]
    return [*lines, f"answers    {', '.join(keys)}"] if keys else lines


def _axes(job: Job) -> str:
    """Sum up the cases: each axis that is no setting with its first and last value, or its only one."""
    values: dict[str, list[object]] = {}
    for case in job.cases:
        for axis, value in case.axes.items():
            if axis in job.derive["settings"]:
                continue
            seen = values.setdefault(axis, [])
            if value not in seen:
                seen.append(value)
    return ", ".join(f"{axis} {seen[0]}" if len(seen) == 1 else f"{axis} {seen[0]}..{seen[-1]}" for axis, seen in values.items())
