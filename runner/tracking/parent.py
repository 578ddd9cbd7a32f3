"""The parent run of a sweep in MLflow: its children are nested under it, what is merged over them is its artifacts."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.tracking import view
from runner.tracking.content import as_tags
from runner.tracking.store import Place, connect
from runner.tracking.upload import State, load_state

if TYPE_CHECKING:
    from mlflow import MlflowClient

ARTIFACTS = ("sweep.json", "thresholds.yaml", "decisions.yaml", "comparison.csv", "report.md", "lineup.md", "worker.log")
ENDED = {"complete": "FINISHED", "failed": "FAILED", "partial": "FAILED", "interrupted": "KILLED"}
MAX_NOTE = 4500
"""Characters of the report that are shown on the run's page; MLflow takes 5,000 in a tag."""

MAX_RUNS = 200
"""How many runs are asked which metrics there are, the newest ones."""


class Parent:
    """The parent run of the sweep in `folder`. Methods raise what MLflow raises, and may be called again after that."""

    def __init__(self, folder: Path, where: Place, name: str) -> None:
        """Take up the run that the folder remembers, or begin one at the first `open`."""
        self.folder, self.where, self._name = folder, where, name
        state = load_state(folder)
        if state is None or (state.uri, state.experiment) != (where.shown, where.experiment):
            state = State(where.shown, where.experiment, where.artifact_location)
        self.state = state
        self._client: MlflowClient | None = None

    def open(self, tags: Mapping[str, Any]) -> str:
        """Create the run, or go on with it; return its id."""
        from mlflow import MlflowException
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NAME

        client, experiment_id = connect(self.where)
        self._client = client
        run_id = self.state.run_id if self.state.experiment_id == experiment_id else None
        if run_id is not None:
            try:
                client.update_run(run_id, status="RUNNING")
            except MlflowException as error:  # the store was replaced since
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                run_id = None
        own = as_tags({"kind": "sweep", "sweep": self._name, "status": "running"} | dict(tags))
        if run_id is None:
            run = client.create_run(experiment_id, round(time.time() * 1000), own | {MLFLOW_RUN_NAME: self._name})
            run_id = str(run.info.run_id)
            self.state.experiment_id, self.state.run_id = experiment_id, run_id
            self.state.save(self.folder)
        else:
            for key, value in own.items():
                client.set_tag(run_id, key, value)
        return run_id

    def close(self, status: str, tags: Mapping[str, Any], metrics: Mapping[str, float], extra: Sequence[Path] = ()) -> None:
        """Send what was merged, and end the run; `extra` are further files of the folder, kept in their folders there."""
        from mlflow.entities import Metric, RunTag
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        assert self.state.run_id is not None
        assert self._client is not None
        client, run_id = self._client, self.state.run_id
        for path in [*(self.folder / name for name in ARTIFACTS), *extra]:
            if path.is_file():
                inside = path.parent.relative_to(self.folder).as_posix()
                client.log_artifact(run_id, str(path), None if inside == "." else inside)
        if (self.folder / "plots").is_dir():
            client.log_artifacts(run_id, str(self.folder / "plots"), "plots")
        report = self.folder / "report.md"
        own = as_tags({"status": status} | dict(tags))
        if report.is_file():
            own[MLFLOW_RUN_NOTE] = _beginning(report.read_text())
        now = round(time.time() * 1000)
        client.log_batch(
            run_id,
            metrics=[Metric(key, float(value), now, 0) for key, value in metrics.items()],
            tags=[RunTag(key, value) for key, value in own.items()],
        )
        self._arrange(client, now)
        client.set_terminated(run_id, ENDED.get(status, "FAILED"))
        self.state.status = status
        self.state.save(self.folder)

    def _arrange(self, client: "MlflowClient", at_ms: int) -> None:
        """Arrange the experiment's page for comparing GPUs, by what the jobs of its newest sweeps have measured."""
        assert self.state.experiment_id is not None
        experiment_id, metrics = self.state.experiment_id, dict[str, set[str]]()
        for run in client.search_runs([experiment_id], view.FILTER, max_results=MAX_RUNS):
            metrics.setdefault(run.data.tags.get("workload", "unknown"), set()).update(run.data.metrics)
        if metrics:
            client.set_experiment_tag(experiment_id, view.TAG, view.value(metrics, at_ms))


def totals(jobs: int, complete: int, failed: int, costs_usd: Sequence[float]) -> dict[str, float]:
    """Return the metrics of a parent run: how many jobs, how they ended, what they cost where that is known."""
    found = {"jobs": float(jobs), "jobs.complete": float(complete), "jobs.failed": float(failed)}
    return found | ({"cost_usd": sum(costs_usd)} if costs_usd else {})


def _beginning(text: str) -> str:
    """Return the sections of a report that fit, whole ones."""
    kept = ""
    for section in text.split("\n## "):
        part = section if not kept else f"\n## {section}"
        if len(kept) + len(part) > MAX_NOTE:
            break
        kept += part
    return kept or text[:MAX_NOTE]
