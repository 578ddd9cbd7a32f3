"""What types can't say of a config: bounds, names that must fit each other, what can't be together. Each fault is one line."""

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from runner import projection
from runner.errors import RequestError, nearest
from runner.fields import COLUMNS
from runner.grid import NOT_AXES
from runner.masking import mask
from runner.reported import check as check_reported
from runner.spec import AxisSpec, DecisionSpec, GpuSpec, ThresholdSpec

if TYPE_CHECKING:
    from runner.config import CloudConfig, LaunchConfig, MeasureConfig, RunConfig, SweepConfig, WorkloadConfig

AUTO, LINEUP = "auto", "lineup"
"""The grids that stand for others: by the device, and the short one for a page over all workloads."""
DISPLAYS = ("auto", "rich", "plain", "quiet", "jsonl")
LAUNCH_MODES = ("auto", "local", "sky")
OPTIMIZE = ("bill", "hourly")
TIMINGS = ("cold", "warm", "wall")
OTHER_PROCESSES = ("refuse", "mark")
ISOLATION = ("sweep", "job")
METRICS = ("tflops", "bandwidth_gbps", "pct_of_peak", "pct_of_bandwidth", "speedup", "share", "headroom")
DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
MAX_SEED = 2**63 - 1  # what torch.Generator takes


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


def check_run(config: "RunConfig") -> None:
    """Check everything but the workload and the measure policy. Raises RequestError."""
    _choice("display", config.display, DISPLAYS)
    _within("seed", config.seed, 0, MAX_SEED, exclusive=False)
    for key, path in (("out", config.out), ("run_dir", config.run_dir), ("launch.write_job", config.launch.write_job)):
        if path is not None and (not path.strip() or "\0" in path):
            raise RequestError(f"{key}={path!r}: expected a path")
    for name, value in config.tags.items():
        if isinstance(value, dict | list):
            raise RequestError(f"tags.{name}: expected a single value, as in tags.{name}=text")
    _check_launch(config.launch)
    _check_sweep(config.sweep)
    check_cloud(config.cloud, "cloud")
    if config.gpu:
        check_gpu(config.gpu, "gpu")
    if config.reported:
        check_reported(config.reported)


def _check_sweep(sweep: "SweepConfig") -> None:
    _within("sweep.max_jobs", sweep.max_jobs, 1, exclusive=False)
    for key in ("name", "resume"):
        name = getattr(sweep, key)
        if name is not None and not re.fullmatch(r"[A-Za-z0-9][\w.+-]{0,99}", name):
            raise RequestError(f"sweep.{key}={name}: expected a folder's name: letters, digits and _.+- only")
    if sweep.name is not None and sweep.resume is not None and sweep.name != sweep.resume:
        raise RequestError("sweep.name begins a new sweep and sweep.resume goes on with an old one; leave one of them out")


def _check_launch(launch: "LaunchConfig") -> None:
    _choice("launch.mode", launch.mode, LAUNCH_MODES)
    _choice("launch.optimize", launch.optimize, OPTIMIZE)
    _within("launch.max_usd", launch.max_usd, 0, exclusive=False)  # 0: only what costs nothing, as an own cluster
    _within("launch.max_usd_per_hour", launch.max_usd_per_hour, 0, exclusive=False)
    _within("launch.retries", launch.retries, 0, 10, exclusive=False)
    _within("launch.disk_gb", launch.disk_gb, 1, 65536, exclusive=False)
    _within("launch.idle_minutes", launch.idle_minutes, 1, 1440, exclusive=False)
    _within("launch.max_clusters", launch.max_clusters, 1, 100, exclusive=False)
    _within("launch.max_minutes", launch.max_minutes, 0, 100000)
    for key in ("image", "python", "setup", "region"):
        if (value := getattr(launch, key)) is not None and not value.strip():
            raise RequestError(f"launch.{key} is empty; expected text, or null")
    for key, values, example in (("fallback", launch.fallback, "[4090,a100]"), ("include", launch.include, "[data,notes.txt]")):
        if len(set(values)) < len(values) or not all(one.strip() for one in values):
            raise RequestError(f"launch.{key}: expected each name once, as in launch.{key}={example}")


def check_cloud(cloud: "CloudConfig", key: str) -> None:
    """Check what types can't say of a cloud; `key` is where it stands, for messages. Raises RequestError."""
    if cloud.billing:
        _within(f"{key}.billing.increment_s", cloud.billing.increment_s, 0)
        _within(f"{key}.billing.minimum_s", cloud.billing.minimum_s, 0, exclusive=False)
    for gpu, price in cloud.prices.items():
        _within(f"{key}.prices.{gpu}.usd_per_hour", price.usd_per_hour, 0, exclusive=False)
        _within(f"{key}.prices.{gpu}.spot_usd_per_hour", price.spot_usd_per_hour, 0, exclusive=False)
        if not re.fullmatch(r"\d{4}-\d\d-\d\d", price.as_of):
            raise RequestError(f"{key}.prices.{gpu}.as_of={price.as_of}: expected the day of the price, as in '2026-02-04'")
        if not price.source.strip():
            raise RequestError(f"{key}.prices.{gpu}.source is empty; expected where the price is from")


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


def check_measure(policy: "MeasureConfig") -> None:
    """Check how numbers are to be taken. Raises RequestError."""
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
    _choice("measure.isolation", policy.isolation, ISOLATION)
    if policy.timings is not None:
        if not policy.timings:
            raise RequestError("measure.timings is empty; expected some of cold, warm, wall, or null for all that the device has")
        for timing in policy.timings:
            _choice("measure.timings", timing, TIMINGS)


def check_workload(workload: "WorkloadConfig", declared: set[str]) -> "WorkloadConfig":
    """Check a workload; return it with the thresholds and decisions that its variants can answer. Raises RequestError.

    `declared` are the variants of the workload's own file.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", workload.name):
        raise RequestError(
            f"workload.name={workload.name}: expected letters, digits, '-', '_' and '.'; it names folders and MLflow runs"
        )
    _choice("workload.mode", workload.mode, ("grid", "search", projection.MODE))
    if (workload.mode == projection.MODE) != (workload.module == projection.MODULE):
        raise RequestError(
            f"workload.mode={workload.mode}: the module {projection.MODULE} and mode={projection.MODE} need each other; "
            "leave workload.mode as it is, or choose workload=roofline"
        )
    _choice("workload.grid", workload.grid, (AUTO, LINEUP, *(name for name in workload.grids if name != LINEUP)))
    for needed in ("full", "small"):
        if workload.grid in (AUTO, LINEUP) and needed not in workload.grids:
            raise RequestError(
                f"workload.grids.{needed} is missing; workload.grid={workload.grid} needs full and small; add it or name a grid"
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
    for name in workload.figures:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in (*METRICS, *COLUMNS) or name.endswith(("_low", "_high")):
            raise RequestError(
                f"workload.figures.{name}: expected a name of its own in small letters, digits and '_', without _low or _high "
                "behind it, as in accuracy"
            )
    _within("workload.search.budget_s", workload.search.budget_s, 0, 1e6)
    _within("workload.search.finalists", workload.search.finalists, 1, 1000, exclusive=False)
    for index, threshold in enumerate(workload.thresholds):
        _check_threshold(threshold, f"workload.thresholds[{index}]", workload.axes, known)
    for index, decision in enumerate(workload.decisions):
        _check_decision(decision, f"workload.decisions[{index}]", workload.axes, known, workload.figures)
    for whole, stages in workload.compositions.items():
        _check_composition(whole, stages, known)
    for form in workload.forms:
        _known("workload.forms", form, known)
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


def _check_decision(
    decision: DecisionSpec, key: str, axes: Mapping[str, AxisSpec], variants: set[str], figures: Iterable[str]
) -> None:
    metrics = (*METRICS, *figures)
    _choice(f"{key}.metric", decision.metric, metrics)
    _choice(f"{key}.over", decision.over, ("every", "any", "largest"))
    _known(f"{key}.variant", decision.variant, variants)
    for axis in decision.where:
        _known(f"{key}.where", axis, axes)
    for metric in decision.also:
        _choice(f"{key}.also", metric, [one for one in metrics if one != decision.metric])
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
