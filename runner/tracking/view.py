"""The saved view "Compare GPUs" of an experiment: which columns and charts MLflow's UI shows, as pure functions.

MLflow keeps saved views as tags of the experiment, which its UI writes under "Views". What is in them is the state of that page
as of MLflow 3.17; a UI that does not know it any more shows the runs its own way.
"""

import base64
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

KEY, NAME = "compare-gpus", "Compare GPUs"
TAG = f"mlflow.sharedViewState.{KEY}"
PATH = f"viewStateShareKey={KEY}"
"""What the address of the experiment's runs is given to open the view."""
FILTER = "tags.`sweep.index` LIKE '%'"
"""The jobs of sweeps, without the parent runs."""
TAGS = ("gpu.name", "workload", "status", "price.usd_per_hour")
FIRST = ("0", "attributes.`Run Name`", "runDateAndNestInfo", "1", "duration")
"""The ids of the columns that the table always begins with."""
TOTALS = ("cost_usd", "cost_usd_per_case", "measure_s")
MAX_CHARTS, MAX_COLUMNS = 12, 3
"""How many variants of a workload are drawn, and how many have a column."""


def value(metrics: Mapping[str, Iterable[str]], at_ms: int) -> str:
    """Return the tag that holds the view; `metrics` are by workload the names of the metrics that its runs have."""
    packed = base64.b64encode(zlib.compress(json.dumps(state(metrics)).encode())).decode()
    return json.dumps({"name": NAME, "createdAt": at_ms, "updatedAt": at_ms, "state": f"deflate;{packed}"})


def state(metrics: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """Return the page's state: columns that tell GPUs apart, curves of each workload over x, bars of what the runs cost."""
    by_workload = {workload: _latencies(names) for workload, names in sorted(metrics.items())}
    known = {name for names in metrics.values() for name in names}
    totals = [name for name in TOTALS if name in known]
    columns = [f"tags.`{name}`" for name in TAGS]
    columns += [f"metrics.`{name}`" for name in [*totals, *_each(by_workload.values(), MAX_COLUMNS)]]
    charts = [_line(workload, name) for workload, names in by_workload.items() for name in names[:MAX_CHARTS]]
    charts += [_chart("BAR", "cost", name) for name in totals]
    sections = [(workload, f"{workload}: latency in ms over x") for workload, names in by_workload.items() if names]
    sections += [("cost", "cost and time")] if totals else []
    # The UI adds a chart of every metric in the section named by its beginning; folded up, those draw nothing.
    folded = sorted({name.rpartition("/")[0] or "Model metrics" for name in known})
    return {
        "searchFilter": FILTER,
        # Any order but that of time lists the runs flat; nested ones are neither seen nor drawn until they are unfolded.
        "orderByKey": "tags.`gpu.name`",
        "orderByAsc": True,
        "selectedColumns": columns,
        "columnOrder": [*FIRST, *columns],  # else the UI puts the metrics before the tags
        "compareRunCharts": charts,
        "compareRunSections": [
            *({"uuid": uuid, "name": name, "display": True, "isReordered": True} for uuid, name in sections),
            *({"uuid": f"all {name}", "name": name, "display": False, "isReordered": False} for name in folded),
        ],
        "isAccordionReordered": True,  # else the UI sorts the sections by name
        "runsHiddenMode": "FIRST_20_RUNS",
    }


def _latencies(names: Iterable[str]) -> list[str]:
    """Return the latencies of a workload, those of few further axes first."""
    found = {name for name in names if name.startswith("latency_ms/")}
    return sorted(found, key=lambda name: (name.count("/") + name.count(":"), name))


def _each(groups: Iterable[Sequence[str]], most: int) -> list[str]:
    return list(dict.fromkeys(name for names in groups for name in names[:most]))


def _line(section: str, metric: str) -> dict[str, Any]:
    """Return a curve over the step with an axis of logarithms each: GPUs differ by factors, and so do sizes."""
    return _chart("LINE", section, metric) | {
        "xAxisKey": "step", "xAxisScaleType": "log", "useGlobalXaxisKey": False, "scaleType": "log", "selectedXAxisMetricKey": "",
        "yAxisKey": "metric", "yAxisExpressions": [], "selectedMetricKeys": [metric], "range": {}, "displayPoints": True,
        "lineSmoothness": 0, "useGlobalLineSmoothing": False, "ignoreOutliers": False, "runsCountToCompare": 20,
    }  # fmt: skip


def _chart(kind: str, section: str, metric: str) -> dict[str, Any]:
    return {
        "uuid": f"{section} {metric}", "type": kind, "metricSectionId": section, "metricKey": metric, "deleted": False,
        "isGenerated": False, "displayName": metric.removeprefix("latency_ms/"), "runsCountToCompare": 20,
    }  # fmt: skip
