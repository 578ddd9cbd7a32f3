"""Services for the end-to-end tests: each has a HOME and a port of its own and is stopped whatever happens.

CROSSOVER_SYSTEM=1, which `make test-system` sets, makes a missing service a failure; without it the test is skipped visibly.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
CHROMIUM, CHROMEDRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
SERVER_START_S = 180.0
"""MLflow's server takes some 25 s on two idle cores, and longer on busy ones."""


SERVICES = {
    "test_browser.py": "browser", "test_browser_sweep.py": "browser", "test_lab.py": "lab", "test_renting.py": "lab",
    "test_sweeping.py": "lab",
}  # fmt: skip
"""Which service the tests of a file share; there is one of each."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Run the tests of a service in one process, one after another, beside the others."""
    from xdist.scheduler import LoadScopeScheduling

    class ByService(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return SERVICES.get(nodeid.partition("::")[0].rpartition("/")[2], nodeid)

    return ByService(config, log)


def missing(what: str) -> None:
    """Fail, or skip where nobody promised that `what` is there."""
    if os.environ.get("CROSSOVER_SYSTEM") == "1":
        pytest.fail(f"{what}; tests/system/install installs what these tests need", pytrace=False)
    pytest.skip(f"{what}; make test-system installs it")


def environment(home: Path) -> dict[str, str]:
    """Return the environment of a service or a run: its own HOME, and nothing of MLflow's from outside."""
    home.mkdir(parents=True, exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "XDG_"))}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}


def free_port() -> int:
    """Return a port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(command: list[str], home: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run a service in a process group of its own and end the whole group, whatever happens."""
    with open(log, "ab") as output:
        process = subprocess.Popen(
            command, env=environment(home), stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield process
    finally:
        end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process group that a process leads, politely and then by force."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(10)
    # The server's own workers may outlive it, so the group is ended even when its leader is gone.
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def mlflow_ui(store: Path, scratch: Path) -> Iterator[str]:
    """Serve an SQLite store and its artifacts as `make ui` does, but by one process; yields the address once it answers."""
    port, log = free_port(), scratch / "mlflow-ui.log"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", f"sqlite:///{store}", "--port", str(port)]
    command += ["--workers", "1"]
    with service(command, scratch / "mlflow-home", log) as process:
        address, until = f"http://127.0.0.1:{port}", time.monotonic() + SERVER_START_S
        while not _answers(f"{address}/health"):
            assert process.poll() is None, f"the MLflow UI ended:\n{log.read_text()[-2000:]}"
            assert time.monotonic() < until, f"the MLflow UI did not answer in {SERVER_START_S:g} s:\n{log.read_text()[-2000:]}"
            time.sleep(0.5)
        yield address


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory):
    """Return a headless Chromium driven by selenium."""
    if not (CHROMIUM.exists() and CHROMEDRIVER.exists()):
        missing("no Chromium here")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    scratch = tmp_path_factory.mktemp("chromium")
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    # Most of these keep the browser from talking to anybody but the page under test.
    for flag in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
        "--disable-component-update", "--disable-sync", f"--user-data-dir={scratch / 'profile'}", "--window-size=1600,1200",
    ):  # fmt: skip
        options.add_argument(flag)
    driver = webdriver.Chrome(options, Service(str(CHROMEDRIVER), env=environment(scratch / "home")))
    try:
        yield driver
    finally:
        driver.quit()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Return a folder on a file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    root = [] if os.geteuid() == 0 else ["sudo", "-n"] if shutil.which("sudo") else None
    if root is None:
        pytest.skip("mounting a small disk needs root or sudo")
    options = f"size=256k,mode=0777,uid={os.getuid()}"
    done = subprocess.run([*root, "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if done.returncode:
        # Root without the right to mount is usual in containers, so this is a skip with CROSSOVER_SYSTEM=1 too.
        pytest.skip(f"can't mount a small disk here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*root, "umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def reliability():
    """Collect what the tests of renting find; `make reliability` has it written into the docs."""
    from tests.system.reliability import Reliability

    return Reliability()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory):
    """Return a cloud on this machine: SkyPilot on a real Slurm cluster. `lab.reset()` brings it back to how it started."""
    from tests.system.lab import LabMissing, running_lab

    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(running_lab(tmp_path_factory.mktemp("lab")))
        except LabMissing as reason:
            missing(str(reason))
        yield started
