"""Journals of runs that are recorded in MLflow: of a run its own, of a sweep's parent run those of all its children."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from runner import journal, results
from runner.errors import RequestError
from runner.journal import Event
from runner.tracking.store import check, load, place, scrub

PARENT = "mlflow.parentRunId"
PAGE = 100


def journals(run_id: str, uri: str | None, out: Path) -> Iterator[tuple[str, list[Event]]]:
    """Yield (name, events) of the journals of an MLflow run: its children's where it has any, else its own.

    The store is `uri`, else MLFLOW_TRACKING_URI, else the local one under `out`. Nothing is written to it.

    Raises RequestError when the store can't be reached, has no such run, or that has no journal.
    """
    where = place(uri or os.environ.get("MLFLOW_TRACKING_URI"), "", None, out)
    if where.database_file and not where.database_file.is_file():
        raise RequestError(f"{run_id} looks like an MLflow run, and there is no store {where.shown}; name one with --uri")
    try:
        check(where)
    except RequestError as error:
        raise RequestError(f"{str(error).partition(';')[0]}; start it, or name another with --uri") from None
    mlflow = load()
    with tempfile.TemporaryDirectory(prefix="crossover-compare-") as folder, _quiet():
        try:
            client = mlflow.MlflowClient(tracking_uri=where.uri)
            parent = client.get_run(run_id)
            runs = _children(client, run_id) or [parent]
            for run in runs:
                path = mlflow.artifacts.download_artifacts(
                    run_id=run.info.run_id, artifact_path=journal.NAME, dst_path=folder, tracking_uri=where.uri
                )
                events = results.read_events(Path(path).parent)
                yield f"MLflow run {run.info.run_name or run.info.run_id}", events
        except (mlflow.MlflowException, OSError) as error:
            reason = scrub(str(error), where.uri)[:200]
            raise RequestError(
                f"the MLflow store {where.shown} gives no journal of run {run_id} ({reason}); name its folder, or another --uri"
            ) from None


def _children(client: Any, run_id: str) -> list[Any]:
    """Return the runs that have this one as their parent, whatever experiment they are in."""
    experiments = [one.experiment_id for one in client.search_experiments()]
    found: list[Any] = []
    token: str | None = None
    while True:
        page = client.search_runs(experiments, f"tags.`{PARENT}` = '{run_id}'", max_results=PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep MLflow from drawing a bar for every download."""
    name = "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"
    before = os.environ.get(name)
    os.environ[name] = "false"
    try:
        yield
    finally:
        os.environ.pop(name) if before is None else os.environ.update({name: before})
