"""What MLflow knows of runs that measured the same GPUs: looked up once, when a projection ends, and kept in `measured.json`.

The report reads that file and asks nobody, so that it is the same whenever it is made again. Looking up takes a bounded time and
never fails a run: what could not be read is said in `note`.
"""

import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner import job as jobs
from runner.errors import RequestError
from runner.paths import write_whole
from runner.projection.declared import Declared, of_job
from runner.projection.model import Model

if TYPE_CHECKING:
    from runner.tracking.store import Place

NAME = "measured.json"
READ_S = 20.0
LATEST = 20
"""How many of the latest runs of a workload on a GPU are looked through for one that has the figure."""
DECODE = "throughput_tokens_per_s/decode"
NOTHING = "no finished run of inspect, matmul or bitnet on any of these GPUs is there"

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Found:
    """One measured figure: the `bandwidth_gbps` of a GPU, its `peak_tflops` in the dtype `what`, or `tokens_per_s` of a model."""

    gpu: str
    kind: str
    what: str
    value: float
    case: dict[str, Any]
    workload: str
    metric: str
    run_id: str
    started_at: str


@dataclass(frozen=True)
class Measured:
    """What was found, and where; `note` says why there is nothing, "" where there is something."""

    store: str = ""
    note: str = "nothing was looked up: the run was not recorded in MLflow"
    found: list[Found] = field(default_factory=list)


def look_up(folder: Path, where: "Place | None") -> None:
    """Write `measured.json` into the folder of a projection; of any other run, or where nothing is recorded, do nothing.

    Raises RequestError when the job can't be read or the folder can't be written.
    """
    if where is None or not (folder / "job.json").exists():
        return
    job = jobs.load(folder / "job.json").as_dict()
    if job["mode"] != "projection":
        return
    found = _in_time(of_job(job), where)
    try:
        write_whole(folder / NAME, json.dumps(asdict(found), indent=1) + "\n")
    except OSError as error:
        raise RequestError(f"can't write {folder / NAME}: {error.strerror}") from error


def remembered(folder: Path) -> Measured:
    """Return what was looked up for the run in `folder`. Raises RequestError when the file is damaged."""
    try:
        data = json.loads((folder / NAME).read_text())
        return Measured(data["store"], data["note"], [Found(**one) for one in data["found"]])
    except FileNotFoundError:
        return Measured()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RequestError(f"{folder / NAME} is damaged ({error}); delete it") from error


def _in_time(declared: Declared, where: "Place") -> Measured:
    """Ask the store, for `READ_S` at most."""
    from runner.tracking import store

    found: list[Found] = []
    problems: list[str] = []

    def read() -> None:
        try:
            found.extend(_read(declared, where))
        except Exception as error:  # MLflow, its drivers and the network raise whatever they like
            problems.append(store.scrub(str(error).partition("\n")[0] or type(error).__name__, where.uri)[:200])

    thread = threading.Thread(target=read, name="measured", daemon=True)
    thread.start()
    thread.join(READ_S)
    if thread.is_alive():
        return Measured(where.shown, f"MLflow at {where.shown} did not answer within {READ_S:.0f} s")
    if problems:
        return Measured(where.shown, f"MLflow at {where.shown} could not be read: {problems[0]}")
    return Measured(where.shown, "" if found else NOTHING, found)


def _read(declared: Declared, where: "Place") -> Iterator[Found]:
    from runner.tracking import store

    client, _ = store.connect(where)
    experiments = [one.experiment_id for one in client.search_experiments()]

    def runs(workload: str, gpu: str) -> list[Any]:
        named = f"tags.workload = '{workload}' and tags.`gpu.name` = '{gpu}' and attributes.status = 'FINISHED'"
        return list(client.search_runs(experiments, named, max_results=LATEST, order_by=["attributes.start_time DESC"]))

    def points(run: Any, metric: str) -> Points:
        return [(one.step, one.value) for one in client.get_metric_history(run.info.run_id, metric)]

    for choice, spec in declared.gpus.items():
        inspected, multiplied = runs("inspect", spec.name), runs("matmul", spec.name)
        if run := _latest(inspected, metric := "bandwidth_gbps/copy"):
            step, value = max(points(run, metric))  # of the largest buffer: the others may be in the cache
            yield _found(choice, "bandwidth_gbps", "", value, {"mib": step}, metric, run)
        for dtype in (one for one, peak in spec.peak_tflops.items() if peak is not None):
            if run := _latest(multiplied, metric := f"throughput_tflops/{dtype}"):
                step, value = max(points(run, metric), key=lambda point: point[1])
                yield _found(choice, "peak_tflops", dtype, value, {"n": step}, metric, run)
        generated = runs("bitnet", spec.name)
        for name in declared.models:
            same = (run for run in generated if _is_same(declared.params.models[name], run))
            if run := next((run for run in same if any(_labels(one) is not None for one in run.data.metrics)), None):
                for metric in sorted(one for one in run.data.metrics if _labels(one) is not None):
                    for step, value in points(run, metric):
                        case = {**_settings(run), **(_labels(metric) or {}), _axis(run): step}
                        yield _found(choice, "tokens_per_s", name, value, case, metric, run)


def _latest(runs: list[Any], metric: str) -> Any:
    """Return the first of the runs, which are the latest first, that has the metric; None where none has."""
    return next((run for run in runs if metric in run.data.metrics), None)


def _labels(metric: str) -> dict[str, Any] | None:
    """Return the axes in the name of a decoding metric, `.../decode/batch:1`; None for another metric."""
    if metric != DECODE and not metric.startswith(f"{DECODE}/"):
        return None
    pairs = (part.split(":", 1) for part in metric.removeprefix(DECODE).strip("/").split() if ":" in part)
    return {axis: int(value) if value.isdecimal() else value for axis, value in pairs}


def _is_same(model: Model, run: Any) -> bool:
    """Whether a run generated with this model: by the parameters that it counted, else by the name that it was given."""
    counted = [value * 1e6 for metric, value in run.data.metrics.items() if metric.startswith("parameters_millions/")]
    if counted:
        return all(abs(one / model.parameters - 1) < 1e-3 for one in counted)
    return model.source.rpartition("/")[2].lower() in str(run.data.params.get("params.model", "")).lower()


def _settings(run: Any) -> dict[str, int]:
    """Return the numbers that a whole run has in common: they are params and in no metric's name."""
    given = {key.removeprefix("setting."): value for key, value in run.data.params.items() if key.startswith("setting.")}
    return {axis: int(value) for axis, value in given.items() if value.isdecimal()}


def _axis(run: Any) -> str:
    """Return the x-axis of a run whose steps are its values, as the tag `steps` says; "step" where they are not."""
    said = re.match(r"step = (\w+)", run.data.tags.get("steps", ""))
    return said[1] if said and said[1] != "place" else "step"


def _found(gpu: str, kind: str, what: str, value: float, case: Mapping[str, Any], metric: str, run: Any) -> Found:
    started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).isoformat(timespec="seconds")
    return Found(gpu, kind, what, value, dict(case), run.data.tags["workload"], metric, run.info.run_id, started)
