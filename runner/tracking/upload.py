"""Brings MLflow up to a run's journal: what is new is sent, what was sent before is not, and nothing is sent twice.

Live recording and `python -m runner.tracking DIR` are this one piece of code. How far it got is in `DIR/mlflow.json`; the
run is found again by its `session`; metrics carry their event's own time, so MLflow drops one that is sent again. A run for
which something was rented is there even if no worker ever started; one that starts later continues it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from runner import job as jobs
from runner import rental as rentals
from runner.errors import RequestError
from runner.journal import Event, measurements
from runner.paths import write_whole
from runner.report import rented as bill
from runner.tracking import rented
from runner.tracking.content import Point, Steps, as_tags, params, points, shares, tags, timestamp, work
from runner.tracking.store import Place, connect

if TYPE_CHECKING:
    from mlflow import MlflowClient

NAME, LOCK = "mlflow.json", ".mlflow.lock"
ARTIFACTS = (
    "job.json", "journal.jsonl", "thresholds.yaml", "decisions.yaml", "measurements.csv", "environment.json", "reported.yaml",
    "projection.yaml", "measured.json",
    "report.md", "worker.log", "launch.json", "task.yaml", "provision.log", "node.log", "teardown.log",
)  # fmt: skip
BATCH_METRICS, BATCH_OTHERS = 1000, 100
ENDED = {"complete": "FINISHED", "failed": "FAILED", "partial": "FAILED", "interrupted": "KILLED"}

T = TypeVar("T")


@dataclass
class State:
    """What `mlflow.json` remembers. `logged` counts journal events; `status` is the run's end as its launcher saw it.

    `ended` is the (status, number of events) up to which the run in MLflow was closed; of a rented run also which `launch.json`.
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
        write_whole(folder / NAME, json.dumps(asdict(self), indent=1) + "\n")


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
        self._sent_tags: Mapping[str, Any] = {}
        self._lock = threading.Lock()

    def save(self) -> None:
        """Remember how far it got."""
        with self._lock:
            self.state.save(self.folder)

    def retag(self, more: Mapping[str, Any]) -> None:
        """Add to the run's tags, or change them, from any thread; the next `push` or `close` sends them.

        Raises OSError when that can't be remembered; it is sent all the same.
        """
        with self._lock:
            self.state.tags = {**self.state.tags, **more}  # a new one: another thread may be reading the old one
            self.state.save(self.folder)

    def reconnect(self) -> None:
        """Connect anew at the next call, and look again whether the run is there."""
        self._client, self._sent_tags = None, {}

    def push(self, events: list[Event], moved: Callable[[], None] = lambda: None) -> None:
        """Bring the run up to `events`, the journal from its beginning; does nothing before a worker has started.

        `moved` is called after each step that the store took.
        """
        first = _first_start(events)
        if first is None:
            return
        client = self._open(first)
        self._send_tags(client)
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
        """Send the artifacts and end the run truthfully: FINISHED, FAILED (`partial` too) or KILLED.

        Does nothing where no worker started, unless something was rented for it: such a run is recorded now. Raises
        RequestError when what was rented, or the job, can't be read.
        """
        found = rentals.load(self.folder)
        first = beginning(self.folder, events)
        if first is None:
            return
        client = self._open(first)
        for artifact in ARTIFACTS:
            if (self.folder / artifact).is_file():
                client.log_artifact(self._run_id, str(self.folder / artifact))
                moved()
        if (self.folder / "plots").is_dir():
            client.log_artifacts(self._run_id, str(self.folder / "plots"), "plots")
            moved()
        self._send_tags(client)
        self._log(client, [*work(events), *rented.points(events, found)], self._last_tags(status, reason, events, found))
        client.set_terminated(self._run_id, ENDED.get(status, "FAILED"), rented.ended_at(first, events, found))
        self.state.ended = self._end(status, events)
        self.save()

    def is_done(self, status: str, events: list[Event]) -> bool:
        """Whether MLflow already has all of this, closed with this status."""
        return self.state.run_id is not None and self.state.ended == self._end(status, events)

    def _end(self, status: str, events: list[Event]) -> list[Any]:
        """Return what tells this end from an earlier one of the same run: what was rented may be known better later."""
        try:
            launch = (self.folder / rentals.NAME).read_bytes()
        except OSError:
            return [status, len(events)]
        return [status, len(events), hashlib.sha256(launch).hexdigest()[:12]]

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
        run = self._known(client) if self.state.experiment_id == experiment_id else None
        if run is None:
            run = self._find(client, experiment_id, first) or self._create(client, experiment_id, first)
            self.state.experiment_id, self.state.run_id, self.state.logged = experiment_id, run.info.run_id, 0
            self._log_params(client, first["job"], run.data.params)
            self.save()
        if run.data.tags.get("session") != first["session"]:
            self._take_over(client, first)
        self._client = client
        return client

    def _known(self, client: "MlflowClient") -> Any:
        """Return the run that is remembered, None when it doesn't exist any more; a store may have been replaced since."""
        from mlflow import MlflowException

        if self.state.run_id is None:
            return None
        try:
            run = client.get_run(self.state.run_id)
        except MlflowException as error:
            if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                return None
            raise
        if run.info.lifecycle_stage == "deleted":
            raise RequestError(
                f"the run was deleted in MLflow; restore it there, or delete {self.folder / NAME} to record it anew"
            )
        return run

    def _find(self, client: "MlflowClient", experiment_id: str, first: Event) -> Any:
        """Return the run by its session: the worker's, or the one it had while no worker had started."""
        found = rentals.load(self.folder)
        for session in dict.fromkeys([first["session"], found.session if found else first["session"]]):
            if runs := client.search_runs([experiment_id], f"tags.session = '{session}'", max_results=1):
                return runs[0]
        return None

    def _create(self, client: "MlflowClient", experiment_id: str, first: Event) -> Any:
        from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID, MLFLOW_SOURCE_NAME, MLFLOW_USER

        own = self._tags(first)
        own |= {MLFLOW_SOURCE_NAME: "python -m runner", MLFLOW_USER: os.environ.get("USER") or "unknown"}
        if self.state.parent_run_id:
            own[MLFLOW_PARENT_RUN_ID] = self.state.parent_run_id
        return client.create_run(experiment_id, timestamp(first), own, self._name(first))

    def _take_over(self, client: "MlflowClient", first: Event) -> None:
        """Make a run that was recorded when no worker had started that of the worker that did."""
        self._set_tags(client, self._tags(first))
        client.update_run(self._run_id, status="RUNNING", name=self._name(first))

    def _name(self, first: Event) -> str:
        return rented.label(first, str(self.state.tags.get("sweep.varied") or ""))

    def _tags(self, first: Event) -> dict[str, str]:
        where = {"target": "sky"} if (self.folder / rentals.NAME).exists() else {}
        return tags(first, self._steps, where | self.state.tags)

    def _log_params(self, client: "MlflowClient", job: Mapping[str, Any], known: Mapping[str, str]) -> None:
        """Log what isn't there: MLflow refuses to change a param, and a job that was asked for twice has two times of asking."""
        from mlflow.entities import Param

        missing = [Param(key, value) for key, value in params(job).items() if key not in known]
        for chunk in _chunks(iter(missing), BATCH_OTHERS):
            client.log_batch(self._run_id, params=chunk)

    def _set_tags(self, client: "MlflowClient", found: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        for chunk in _chunks(iter(found.items()), BATCH_OTHERS):
            client.log_batch(self._run_id, tags=[RunTag(key, value) for key, value in chunk])

    def _send_tags(self, client: "MlflowClient") -> None:
        """Bring the run's tags up to those it was given."""
        given = self.state.tags
        if given != self._sent_tags:
            self._set_tags(client, as_tags(given))
            self._sent_tags = given

    def _log(self, client: "MlflowClient", chunk: list[Point], tags: Mapping[str, str] | None = None) -> None:
        """Send metrics, and with them tags: a request of its own takes as long as both together."""
        from mlflow.entities import Metric, RunTag

        metrics = [Metric(point.name, point.value, point.timestamp, point.step) for point in chunk]
        client.log_batch(self._run_id, metrics=metrics, tags=[RunTag(key, value) for key, value in (tags or {}).items()])

    def _last_tags(self, status: str, reason: str, events: list[Event], found: rentals.Rental | None) -> dict[str, str]:
        """Return the tags that a run has at its end."""
        from mlflow.utils.mlflow_tags import MLFLOW_RUN_NOTE

        counts: dict[str, int] = {}
        for event in measurements(events):
            counts[event["status"]] = counts.get(event["status"], 0) + 1
        own: dict[str, Any] = rented.tags(found) | {f"measurements.{key}": value for key, value in counts.items()}
        own |= {"status": status, "reason": reason}
        report = self.folder / "report.md"
        # The page of a run shows this: of a report everything up to the long tables.
        note = report.read_text().partition("\n## Results")[0] if report.is_file() else bill.section(found, [])
        return as_tags(own | ({MLFLOW_RUN_NOTE: note} if note else {}))


def beginning(folder: Path, events: list[Event]) -> Event | None:
    """Return the event that the run in `folder` begins with in MLflow, None where there is no run: the first `job_started`.

    Where something was rented and no worker came to start, `rented.never_started` stands in for it. Raises RequestError when
    what was rented, or the job, can't be read.
    """
    first, found = _first_start(events), rentals.load(folder)
    if first is not None or found is None:
        return first
    return rented.never_started(jobs.load(folder / "job.json").as_dict(), found)


def _first_start(events: list[Event]) -> Event | None:
    return next((event for event in events if event["event"] == "job_started"), None)


def _chunks(items: Iterator[T], size: int) -> Iterator[list[T]]:
    while chunk := list(islice(items, size)):
        yield chunk
