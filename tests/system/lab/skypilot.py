"""The SkyPilot side of the lab: a HOME that knows the Slurm cluster, and the API server that works in it."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
import urllib.request
import uuid
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from tests.system.conftest import ROOT, free_port
from tests.system.lab.machine import Machine
from tests.system.lab.needs import LabMissing, last_line
from tests.system.lab.slurm import GPUS, TOOLS, Slurm

SERVER_START_S, TIDY_S = 120.0, 180.0
# What SkyPilot needs beside itself for Slurm (its extra `slurm`) and on a node (its extra `remote`).
EXTRAS = ["python-hostlist", "grpcio>=1.63", "protobuf>=5.29.6,<7"]
PASSED = ("PATH", "LANG", "LC_ALL", "TZ", "TERM", "CI", "CROSSOVER_SYSTEM")

CONFIG = """\
allowed_clouds: [slurm]
slurm:
  provision_timeout: {provision_timeout_s}
  pricing:
    accelerators: {{{prices}}}
"""
SSH = """\
Host lab
  HostName 127.0.0.1
  Port {port}
  User root
  IdentityFile {key}
  IdentitiesOnly yes
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
"""
# A job of the lab starts at once or not at all.
PROVISION_TIMEOUT_S = 10


class SkyPilot:
    """SkyPilot in a HOME of its own; the folder of one that runs already gives that one."""

    def __init__(self, folder: Path, slurm: Slurm, marks: dict[str, str]) -> None:
        self.folder = folder
        self.slurm = slurm
        self.marks = marks
        self.home = folder / "home"
        self.server = Machine("api", folder / "api")

    @property
    def port(self) -> int:
        """The port of the API server."""
        return int((self.folder / "api_port").read_text())

    @property
    def address(self) -> str:
        """The address of the API server."""
        return f"http://127.0.0.1:{self.port}"

    def environment(self) -> dict[str, str]:
        """Return the environment in which `sky` is this SkyPilot."""
        kept = {name: os.environ[name] for name in PASSED if name in os.environ}
        return {
            **kept,
            "HOME": str(self.home),
            "PATH": f"{self.folder / 'bin'}:{Path(sys.executable).parent}:{kept.get('PATH', os.defpath)}",
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(self.folder / "tmp"),
            "SKYPILOT_API_SERVER_LOCAL_PORT": str(self.port),
            "SKYPILOT_DISABLE_USAGE_COLLECTION": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **self.marks,
        }

    def prepare(self) -> None:
        """Write every file but the packages of `install`."""
        for name in ("bin", "tmp", "home/.slurm", "home/.sky/catalogs/v8/common"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "api_port").write_text(str(free_port()))
        prices = ", ".join(f"{gpu.accelerator}: {gpu.usd_per_hour}" for gpu in GPUS)
        config = CONFIG.format(provision_timeout_s=PROVISION_TIMEOUT_S, prices=prices)
        (self.home / ".sky" / "config.yaml").write_text(config)
        # Else it is one per machine and user, and with it a folder in /tmp that all share.
        (self.home / ".sky" / "user_hash").write_text(uuid.uuid4().hex[:8])
        # Where this is missing, SkyPilot fetches it.
        catalog = "AcceleratorName,Clouds\n" + "".join(f"{gpu.accelerator},Slurm\n" for gpu in GPUS)
        (self.home / ".sky" / "catalogs" / "v8" / "common" / "accelerators.csv").write_text(catalog)
        (self.home / ".slurm" / "config").write_text(SSH.format(port=self.slurm.ssh_port, key=self.slurm.key))
        shutil.copy(TOOLS / "ssh", self.folder / "bin" / "ssh")
        # As the administrator of a shared server would have it: no credentials of this HOME reach our clusters.
        (self.home / ".sky" / "plugins.yaml").write_text("plugins:\n  - class: runner.launch.guard.NoCredentials\n")

    def start(self) -> None:
        """Start the API server; `wait` waits for it."""
        command = [str(Path(sys.executable).parent / "sky"), "api", "start", "--foreground", "--host", "127.0.0.1"]
        # 0 is how pip is told not to build SkyPilot's wheel in an environment that it would have to download first.
        environment = {**self.environment(), "PYTHONPATH": str(self.slurm.site), "PIP_NO_BUILD_ISOLATION": "0"}
        self.server.start([], command, environment)

    def install(self) -> None:
        """Install those of EXTRAS that this checkout's environment doesn't have. Raises LabMissing where that can't be."""
        if not (missing := [extra for extra in EXTRAS if not _is_installed(Requirement(extra))]):
            return
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--no-build-isolation"]
        done = subprocess.run([*command, "--target", str(self.slurm.site), *missing], capture_output=True, text=True)
        if done.returncode:
            raise LabMissing(f"the Slurm lab can't install {', '.join(missing)}: {last_line(done.stderr)}")

    def wait(self) -> None:
        """Return when the API server answers."""
        until = time.monotonic() + SERVER_START_S
        while not self.answers():
            assert self.server.pid is not None, f"SkyPilot's API server ended:\n{self.server.log()}"
            assert time.monotonic() < until, f"SkyPilot's API server did not answer in {SERVER_START_S:g} s:\n{self.server.log()}"
            time.sleep(0.2)

    def kill(self) -> None:
        """End the API server and all it started."""
        self.server.kill()

    def clusters(self) -> list[str]:
        """Return the names of all clusters."""
        return self._known("name", "clusters")

    def requests(self) -> list[str]:
        """Return what the API server is doing for anybody, as in `sky.launch`."""
        with urllib.request.urlopen(f"{self.address}/api/status", timeout=30) as answer:
            return [one["name"] for one in json.load(answer) if one["user_id"] != "skypilot-system"]

    def cancel_requests(self) -> None:
        """Cancel whatever the API server is doing for anybody."""
        if self.requests():
            self._tidy("requests")

    def end_clusters(self) -> None:
        """End every cluster, and forget those that can't be ended."""
        if names := self.clusters():
            self._tidy("clusters", *names)

    def forget(self) -> None:
        """Remove what SkyPilot leaves outside of its folder."""
        for user in self._known("id", "users"):
            shutil.rmtree(f"/tmp/sky_ssh_{user}", ignore_errors=True)
        Path("/tmp/skypilot_graceful_shutdown.lock").unlink(missing_ok=True)

    def answers(self) -> bool:
        """Whether the API server answers."""
        try:
            with urllib.request.urlopen(f"{self.address}/api/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def _known(self, column: str, table: str) -> list[str]:
        """Return a column of SkyPilot's state; empty where it has none yet."""
        path = self.home / ".sky" / "state.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=30)) as connection:
            return sorted(value for (value,) in connection.execute(f"SELECT {column} FROM {table}"))

    def _tidy(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.system.lab.tidy", *arguments]  # not here, where `sky` would be anyone's
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=TIDY_S)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(metadata.version(requirement.name))
    except metadata.PackageNotFoundError:
        return False
