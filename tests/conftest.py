"""Every test has a HOME of its own: SkyPilot writes into it when it is imported, and clouds of a developer are none of ours."""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

import pytest

if "CROSSOVER_SYSTEM" not in os.environ:
    home = tempfile.mkdtemp(prefix="crossover-home-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    os.environ["HOME"] = home
    for name in ("XDG_STATE_HOME", "SKYPILOT_API_SERVER_ENDPOINT", "SKYPILOT_GLOBAL_CONFIG", "SKYPILOT_PROJECT_CONFIG"):
        os.environ.pop(name, None)


# A session in the background ignores Ctrl-C, and so would whatever it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an SQLite store of MLflow with nothing in it: creating one takes seconds, copying it none."""
    from runner.tracking import place
    from runner.tracking.store import connect

    folder = tmp_path_factory.mktemp("store")
    connect(place(None, "warm-up", None, folder))
    return folder / "mlflow.db"
