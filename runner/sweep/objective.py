"""What a job returns to a sweeper that searches: one number, from the metric that its workload names."""

import math
from pathlib import Path
from statistics import geometric_mean

from runner import results
from runner.config import ObjectiveConfig
from runner.errors import JobError, RequestError, nearest
from runner.report.table import COLUMNS, flat


def value(folder: Path, objective: ObjectiveConfig | None) -> float:
    """Return the geometric mean over the measured cases of the run in `folder`. Raises JobError when there is none."""
    if objective is None:
        raise JobError("the workload names no objective; add workload.objective={metric: latency_ms, variant: NAME}")
    measured = [one for one in results.read(folder).measurements if one["variant"] == objective.variant]
    found = [flat(one)[objective.metric] for one in measured if one["status"] in results.MEASURED]
    numbers = [float(one) for one in found if one is not None and one > 0 and math.isfinite(one)]
    if not numbers:
        raise JobError(f"nothing was measured of {objective.metric} of {objective.variant}")
    return geometric_mean(numbers)


def check(objective: ObjectiveConfig | None, variants: list[str]) -> None:
    """Check it against the variants of a job. Raises RequestError."""
    if objective is None:
        raise RequestError("workload.objective: this workload names none; add {metric: latency_ms, variant: NAME}")
    if objective.metric not in COLUMNS:
        raise RequestError(f"workload.objective.metric={objective.metric}: no such figure; {nearest(objective.metric, COLUMNS)}")
    if objective.variant not in variants:
        raise RequestError(
            f"workload.objective.variant={objective.variant}: not measured here; {nearest(objective.variant, variants)}"
        )
