"""Brings MLflow up to a run's journal: what is new is sent, what was sent before is not, and nothing is sent twice.

Live recording and `python -m runner.tracking DIR` are this one piece of code. How far it got is in `DIR/mlflow.json`; the
run is found again by its `session`; metrics carry their event's own time, so MLflow drops one that is sent again.
"""

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runner.errors import RequestError
from runner.journal import Event, measurements
from runner.tracking.content import MAX_TAG, Point, Steps, params, points, shares, tags, timestamp
from runner.tracking.store import Place, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME, LOCK = "mlflow.json", ".mlflow.lock"
ARTIFACTS = (
    "job.json", "journal.jsonl", "thresholds.yaml", "decisions.yaml", "measurements.csv", "environment.json", "reported.yaml",
    "report.md", "worker.log",
)  # fmt: skip
BATCH_METRICS, BATCH_OTHERS = 1000, 100
ENDED = {"complete": "FINISHED", "failed": "FAILED", "partial": "FAILED", "interrupted": "KILLED"}

T = TypeVar("T")


@dataclass
class State:
    """What `mlflow.json` remembers. `logged` counts journal events; `status` is the run's end as its launcher saw it.

    `ended` is the (status, number of events) up to which the run in MLflow was closed.
    """

    uri: str
    experiment: str
    artifact_location: str | None = None
    experiment_id: str | None = None
    run_id: str | None = None
    logged: int = 0
    status: str | None = None
    reason: str = ""
    ended: list[Any] = field(default_factory=list)
    tags: dict[str, Any] = field(default_factory=dict)
    parent_run_id: str | None = None

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all."""
        beside = folder / f".{NAME}.{os.getpid()}.{threading.get_ident()}"
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n")
        os.replace(beside, folder / NAME)


def load_state(folder: Path) -> State | None:
    """Return what is remembered of this folder, None when nothing is.

    Raises RequestError when the file is damaged.
    """
    path = folder / NAME
    try:
        return State(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise RequestError(f"{path} is damaged ({error}); delete it and name the store with --uri") from error


@contextlib.contextmanager
def locked(folder: Path, wait_s: float) -> Iterator[None]:
    """Hold the folder's recording lock; waits at most `wait_s`.

    Raises RequestError when another process keeps it.
    """
    with open(folder / LOCK, "w") as file:
        until = time.monotonic() + wait_s
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                if time.monotonic() >= until:
                    raise RequestError(f"{folder} is being recorded by another process; wait for it and try again") from None
                time.sleep(0.1)
        yield


class Upload:
    """One run folder on its way into MLflow. Every method may raise what MLflow raises and be called again after that."""

    def __init__(
        self, folder: Path, where: Place, more_tags: Mapping[str, Any] | None = None, parent_run_id: str | None = None
    ) -> None:
        """Take up where the folder was left, or begin; a folder recorded elsewhere begins anew at `where`."""
        self.folder, self.where = folder, where
        state = load_state(folder)
        if state is None or (state.uri, state.experiment) != (where.shown, where.experiment):
            state = State(where.shown, where.experiment, where.artifact_location, parent_run_id=parent_run_id)
        if more_tags is not None:
            state.tags = dict(more_tags)
        self.state = state
        self._client: MlflowClient | None = None
        self._steps = Steps.of({})

    def save(self) -> None:
        """Remember how far it got."""
        self.state.save(self.folder)

    def reconnect(self) -> None:
        """Connect anew at the next call, and look again whether the run is there."""
        self._client = None

    def push(self, events: list[Event], moved: Callable[[], None] = lambda: None) -> None:
        """Bring the run up to `events`, the journal from its beginning; does nothing before a worker has started.

        `moved` is called after each step that the store took.
        """
        first = next((event for event in events if event["event"] == "job_started"), None)
        if first is None:
            return
        client = self._open(first)
        new = events[self.state.logged :]
        if self.state.ended and new:
            client.update_run(self._run_id, status="RUNNING")
            client.set_tag(self._run_id, "status", "running")
            self.state.ended = []
        # By name: MLflow looks the latest value of each name up once per batch, which costs as much as writing.
        found = chain(
            (point for event in new for point in points(event, self._steps)), shares(events, self.state.logged, self._steps)
        )
        metrics = sorted(found, key=lambda point: point.name)
        for chunk in _chunks(iter(metrics), BATCH_METRICS):
            self._log(client, chunk)
            moved()
        self.state.logged = len(events)
        self.save()

    def close(self, status: str, reason: str, events: list[Event], moved: Callable[[], None] = lambda: None) -> None:
        """Send the artifacts and end the run truthfully: FINISHED, FAILED (`partial` too) or KILLED."""
        if self.state.run_id is None:
            return
        client = self._open(next(event for event in events if event["event"] == "job_started"))
        for artifact in ARTIFACTS:
            if (self.folder / artifact).is_file():
                client.log_artifact(self._run_id, str(self.folder / artifact))
                moved()
        if (self.folder / "plots").is_dir():
            client.log_artifacts(self._run_id, str(self.folder / "plots"), "plots")
            moved()
        self._close_tags(client, status, reason, events)
        client.set_terminated(self._run_id, ENDED.get(status, "FAILED"), timestamp(events[-1]))
        self.state.ended = [status, len(events)]
        self.save()

    def is_done(self, status: str, events: list[Event]) -> bool:
        """Whether MLflow already has all of this, closed with this status."""
        return self.state.run_id is not None and self.state.ended == [status, len(events)]

    @property
    def _run_id(self) -> str:
        assert self.state.run_id is not None
        return self.state.run_id

    def _open(self, first: Event) -> "MlflowClient":
        """Return the client, with the run found by its session or created."""
        if self._client is not None:
            return self._client
        client, experiment_id = connect(self.where)
        self._steps = Steps.of(first["job"])
        if self.state.experiment_id != experiment_id or not self._is_there(client):
            found = client.search_runs([experiment_id], f"tags.session = '{first['session']}'", max_results=1)
            run = found[0] if found else self._create(client, experiment_id, first)
            self.state.experiment_id, self.state.run_id, self.state.logged = experiment_id, run.info.run_id, 0
            self._log_params(client, first["job"])
            self.save()
        self._client = client
        return client

    def _is_there(self, client: "MlflowClient") -> bool:
        """Whether the run that is remembered still exists; a store may have been replaced since."""
        from mlflow import MlflowException

        if self.state.run_id is None:
            return False
        try:
            stage = client.get_run(self.state.run_id).info.lifecycle_stage
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return False
            raise
        if stage == "deleted":
            raise RequestError(
                f"the run was deleted in MLflow; restore it there, or delete {self.folder / NAME} to record it anew"
            )
        return True

    def _create(self, client: "MlflowClient", experiment_id: str, first: Event) -> Any:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

        own = tags(first, self._steps, self.state.tags)
        own |= {MLFLOW_SOURCE_NAME: "python -m runner", MLFLOW_USER: os.environ.get("USER") or "unknown"}
        if self.state.parent_run_id:
            own[MLFLOW_PARENT_RUN_ID] = self.state.parent_run_id
        device = (first.get("device") or {}).get("name") or "unknown device"
        # The UI cuts names short, and the experiment is named like the workload: what tells runs apart comes first.
        label = f"{first['time'][5:19].replace('T', ' ')} {device}"
        return client.create_run(experiment_id, timestamp(first), own, label)

    def _log_params(self, client: "MlflowClient", job: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        for chunk in _chunks(iter(params(job).items()), BATCH_OTHERS):
            client.log_batch(self._run_id, params=[Param(key, value) for key, value in chunk])

    def _log(self, client: "MlflowClient", chunk: list[Point]) -> None:
        from mlflow.entities import Metric

        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in chunk]
        client.log_batch(self._run_id, metrics=metrics)

    def _close_tags(self, client: "MlflowClient", status: str, reason: str, events: list[Event]) -> None:
        from mlflow.entities import RunTag
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        counts: dict[str, int] = {}
        for event in measurements(events):
            counts[event["status"]] = counts.get(event["status"], 0) + 1
        found = {"status": status, "reason": reason} | {f"measurements.{key}": str(value) for key, value in counts.items()}
        report = self.folder / "report.md"
        if report.is_file():
            # The page of a run shows this: everything up to the long tables.
            found[MLFLOW_RUN_NOTE] = report.read_text().partition("\n## Results")[0]
        client.log_batch(self._run_id, tags=[RunTag(key, value[:MAX_TAG]) for key, value in found.items()])


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
