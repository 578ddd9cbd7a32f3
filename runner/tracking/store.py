"""The MLflow store: where it is, whether it can be reached, and how to talk to it without waiting for ever.

Secrets in a URI (`user:password@`) never leave this module unmasked: use `mask` and `scrub` for whatever is shown or kept.
"""

import base64
import contextlib
import fcntl
import importlib
import logging
import os
import re
import socket
import sqlite3
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit, urlunsplit

from runner.errors import RequestError, one_line
from runner.masking import mask

if TYPE_CHECKING:
    from mlflow import MlflowClient

CHECK_TIMEOUT_S = 3.0
SWEEPS = "sweeps"
"""The experiment of sweeps over several workloads; all others are recorded where the runs of their workload are."""
DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
KINDS = "http://HOST:PORT, https://HOST, sqlite:///FILE.db or postgresql://HOST/DB (or mysql, mssql)"
SECRET = r"(?:pass|pwd|secret|token|key)[^=&]*"
"""Query parameters whose values are secret."""

SETTINGS = {
    # A server that went away must cost the run a few seconds, not MLflow's default of some minutes of retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "8",
    # Nothing is sent to anybody but the store that was named.
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Environment variables that MLflow reads; what the user has set stands."""


@dataclass(frozen=True)
class Place:
    """Where a run is recorded: the tracking URI (it may hold a password), where artifacts go, and the experiment."""

    uri: str
    experiment: str
    artifact_location: str | None = None

    @property
    def shown(self) -> str:
        """The URI as it may be printed and stored."""
        return mask(self.uri)

    @property
    def scheme(self) -> str:
        """The kind of store, without a driver: `http`, `sqlite`, `postgresql`, ..."""
        return urlsplit(self.uri).scheme.partition("+")[0]

    @property
    def database_file(self) -> Path | None:
        """The file of an SQLite store, else None."""
        if self.scheme != "sqlite":
            return None
        return Path(unquote(urlsplit(self.uri).path.removeprefix("/"))).absolute()


def place(uri: str | None, experiment: str, artifact_location: str | None, out: Path) -> Place:
    """Return the store that is meant; a `uri` of None is the SQLite file `mlflow.db` under `out`, artifacts beside it.

    For an SQLite store artifacts are given an absolute folder: MLflow would put them under the current one.
    """
    uri = uri or f"sqlite:///{out.absolute() / 'mlflow.db'}"
    found = Place(uri, experiment, artifact_location)
    if artifact_location is None and (file := found.database_file):
        return Place(uri, experiment, (file.parent / "mlartifacts").as_uri())
    return found


def scrub(text: str, uri: str) -> str:
    """Return a message of another library in one line, with whatever is secret in `uri` masked."""
    text = one_line(text).replace(uri, mask(uri))
    with contextlib.suppress(ValueError):
        parts = urlsplit(uri)
        secrets = [parts.password or "", *re.findall(rf"{SECRET}=([^&#]*)", parts.query, flags=re.IGNORECASE)]
        for secret in filter(None, secrets):
            text = text.replace(secret, "***").replace(unquote(secret), "***")
    return re.sub(r"//[^/@\s]+@", "//***@", text)


def check(where: Place, required: bool = True) -> str | None:
    """Find out in a few seconds, and without importing mlflow, whether the store can be used.

    Returns None when it can; when it can't and is not `required`, a warning to print. Raises RequestError when it is
    required, and always for a URI of a kind that MLflow does not take.
    """
    if where.scheme not in ("http", "https", "sqlite", *DATABASE_PORTS):
        raise RequestError(f"tracking.uri={where.shown}: MLflow can't record there; expected {KINDS}")
    try:
        if where.database_file:
            _check_sqlite(where.database_file)
        elif where.scheme in DATABASE_PORTS:
            _check_database(where)
        else:
            _check_server(where.uri)
    except Exception as error:  # drivers, sockets and sqlite3 each have their own; all end in one line
        reason = scrub(str(error) or type(error).__name__, where.uri)
        problem = f"the MLflow store {where.shown} can't be used ({reason})"
        if required:
            raise RequestError(f"{problem}; start it, or go on untracked with tracking.required=false") from None
        return f"{problem}; going on, and recording later with python -m runner.tracking DIR"
    return None


def _check_sqlite(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(file.parent, os.W_OK) or (file.exists() and not os.access(file, os.W_OK)):
        raise OSError(f"{file} is not writable")
    if file.exists():
        with contextlib.closing(sqlite3.connect(f"{file.as_uri()}?mode=ro", uri=True, timeout=CHECK_TIMEOUT_S)) as connection:
            connection.execute("PRAGMA schema_version").fetchone()


def _check_database(where: Place) -> None:
    parts = urlsplit(where.uri)
    with socket.create_connection((parts.hostname or "localhost", parts.port or DATABASE_PORTS[where.scheme]), CHECK_TIMEOUT_S):
        pass
    from sqlalchemy import create_engine

    create_engine(where.uri)  # imports the driver, which may not be installed; does not connect


def _check_server(uri: str) -> None:
    """Ask an MLflow server for its version, or, where that is not routed to it, for its health."""
    try:
        answer = _get(uri, "version")
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            raise OSError("it refused the credentials, set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD") from None
        answer = _get(uri, "health")
    except urllib.error.URLError as error:
        raise OSError(str(error.reason)) from None
    if not re.match(r"\d+\.\d+|OK", answer):
        raise OSError("something else than an MLflow server answers there")


def _get(uri: str, path: str) -> str:
    parts = urlsplit(uri)
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
    request = urllib.request.Request(f"{bare}/{path}")
    user = unquote(parts.username) if parts.username else os.environ.get("MLFLOW_TRACKING_USERNAME")
    password = unquote(parts.password) if parts.password else os.environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    elif token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        request.add_header("Authorization", f"Bearer {token}")
    with urllib.request.urlopen(request, timeout=CHECK_TIMEOUT_S) as response:
        return str(response.read(200).decode(errors="replace")).strip()


def start_import() -> threading.Thread:
    """Import mlflow in the background, for a caller that is waiting for something else anyway."""
    thread = threading.Thread(target=load, name="import-mlflow", daemon=True)
    thread.start()
    return thread


def load() -> Any:
    """Import mlflow, quietly and with bounded waits; return the module."""
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    mlflow = importlib.import_module("mlflow")
    # mlflow sets its own loggers up while it is imported
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return mlflow


def connect(where: Place) -> tuple["MlflowClient", str]:
    """Return a client and the id of the experiment, both created where they don't exist yet.

    An SQLite file is created, or brought to this MLflow's schema, under a lock: MLflow's own creation fails when several
    processes meet an empty store, and is lost when one is killed. Raises what MLflow raises.
    """
    mlflow = load()
    with _locked(where.database_file):
        if where.database_file and not where.database_file.exists():
            _create(where)
        try:
            client = mlflow.MlflowClient(tracking_uri=where.uri)
        except mlflow.MlflowException as error:
            if where.database_file is None or "out-of-date database schema" not in str(error):
                raise
            _upgrade(where)
            client = mlflow.MlflowClient(tracking_uri=where.uri)
        return client, _experiment(mlflow, client, where)


def _experiment(mlflow: Any, client: "MlflowClient", where: Place) -> str:
    for _ in range(2):
        found = client.get_experiment_by_name(where.experiment)
        if found is not None:
            if found.lifecycle_stage == "deleted":
                raise RequestError(
                    f"the MLflow experiment {where.experiment} was deleted; restore it, or name another with tracking.experiment"
                )
            return str(found.experiment_id)
        # Another process may create it between the two calls: then it is found the second time.
        with contextlib.suppress(mlflow.MlflowException):
            return str(client.create_experiment(where.experiment, artifact_location=where.artifact_location))
    return str(client.create_experiment(where.experiment, artifact_location=where.artifact_location))


def _create(where: Place) -> None:
    """Make an SQLite store's tables in a file of another name, and put it in its place when they are complete.

    MLflow goes through some 50 migrations, and a process that is killed between two leaves a file that it can't open again.
    """
    from mlflow.store.db import utils
    from sqlalchemy import URL, create_engine

    assert where.database_file is not None
    making = where.database_file.with_name(f"{where.database_file.name}.new")
    making.unlink(missing_ok=True)
    making.with_name(f"{making.name}-journal").unlink(missing_ok=True)
    tools: Any = utils
    engine = create_engine(URL.create("sqlite", database=str(making)))
    tools._initialize_tables(engine)
    engine.dispose()
    if where.database_file.exists():  # by `mlflow ui`, which knows nothing of the lock
        making.unlink()
    else:
        making.rename(where.database_file)


def _upgrade(where: Place) -> None:
    """Bring an SQLite store that an older MLflow wrote to this one's schema; the old file is kept beside it."""
    from mlflow.store.db import utils

    assert where.database_file is not None
    backup = where.database_file.with_suffix(f".{time.strftime('%Y%m%d-%H%M%S')}.bak")
    with (
        contextlib.closing(sqlite3.connect(where.database_file)) as old,
        contextlib.closing(sqlite3.connect(backup)) as copy,
    ):
        old.backup(copy)
    tools: Any = utils
    tools._upgrade_db(tools.create_sqlalchemy_engine_with_retry(where.uri))


@contextlib.contextmanager
def _locked(file: Path | None) -> Iterator[None]:
    """Hold the lock of an SQLite store; other stores need none."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file.with_name(f"{file.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def ui_hint(where: Place, experiment_id: str | None = None, run_id: str | None = None, view: str = "") -> list[str]:
    """Return the lines that say where to look: the command that opens the UI, and the page whose charts show the curves.

    `view` is a saved view of the experiment, as the part of the address that names it.
    """
    query = "&".join(filter(None, ["compareRunsMode=CHART", view]))
    path = f"#/experiments/{experiment_id}/runs?{query}" if experiment_id else "#/experiments"
    if where.scheme in ("http", "https"):
        parts = urlsplit(where.uri)
        bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2])).rstrip("/")
        lines = [f"{bare}/{path}"]
    else:
        python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
        lines = [f"{python} -m mlflow ui --backend-store-uri {where.shown}", f"http://127.0.0.1:5000/{path}"]
    return lines + ([f"run {run_id}"] if run_id else [])
