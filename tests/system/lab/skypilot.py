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
from pathlib import Path

from tests.system.conftest import ROOT, free_port
from tests.system.lab.machine import Machine
from tests.system.lab.missing import LabMissing
from tests.system.lab.slurm import GPUS, Slurm, with_root_home

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
SSH_COMMAND = """\
#!/bin/sh
exec unshare --mount sh -c 'mount --bind "{accounts}" /etc/passwd && exec "{ssh}" "$@"' ssh "$@"
"""
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

    @property
    def user_hash(self) -> str:
        """The id SkyPilot knows this HOME's user by."""
        return (self.home / ".sky" / "user_hash").read_text()

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
        for name in ("bin", "tmp", "home/.ssh", "home/.sky/catalogs/v8/common", "home/.slurm"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "api_port").write_text(str(free_port()))
        prices = ", ".join(f"{gpu.accelerator}: {gpu.usd_per_hour}" for gpu in GPUS)
        config = CONFIG.format(provision_timeout_s=PROVISION_TIMEOUT_S, prices=prices)
        (self.home / ".sky" / "config.yaml").write_text(config)
        # Else it is one per machine and user, and with it a folder in /tmp that all share.
        (self.home / ".sky" / "user_hash").write_text(uuid.uuid4().hex[:8])
        catalog = "AcceleratorName,Clouds\n" + "".join(f"{gpu.accelerator},Slurm\n" for gpu in GPUS)
        (self.home / ".sky" / "catalogs" / "v8" / "common" / "accelerators.csv").write_text(catalog)
        (self.home / ".slurm" / "config").write_text(SSH.format(port=self.slurm.ssh_port, key=self.slurm.key))
        # ssh asks the system for the home of its user and not the variable, so it would not see what SkyPilot writes there.
        accounts = self.folder / "passwd"
        accounts.write_text(with_root_home(self.home))
        ssh = self.folder / "bin" / "ssh"
        ssh.write_text(SSH_COMMAND.format(accounts=accounts, ssh=shutil.which("ssh")))
        ssh.chmod(0o755)

    def start(self) -> None:
        """Start the API server; `wait` waits for it."""
        command = [str(Path(sys.executable).parent / "sky"), "api", "start", "--foreground", "--host", "127.0.0.1"]
        # 0 is how pip is told not to build SkyPilot's wheel in an environment that it would have to download first.
        environment = {**self.environment(), "PYTHONPATH": str(self.slurm.site), "PIP_NO_BUILD_ISOLATION": "0"}
        self.server.start([], command, environment)

    def install(self) -> None:
        """Install what SkyPilot needs for Slurm and on nodes where the tests' Python doesn't have it."""
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile", "--disable-pip-version-check"]
        done = subprocess.run([*command, "--target", str(self.slurm.site), *EXTRAS], capture_output=True, text=True)
        if done.returncode:
            raise LabMissing(f"the Slurm lab can't install {', '.join(EXTRAS)}: {done.stderr.strip().splitlines()[-1]}")

    def wait(self) -> None:
        """Return when the API server answers."""
        until = time.monotonic() + SERVER_START_S
        while not self._answers():
            assert self.server.pid is not None, f"SkyPilot's API server ended:\n{self.server.log()}"
            assert time.monotonic() < until, f"SkyPilot's API server did not answer in {SERVER_START_S:g} s:\n{self.server.log()}"
            time.sleep(0.2)

    def kill(self) -> None:
        """End the API server and all it started."""
        self.server.kill()

    def clusters(self) -> list[str]:
        """Return the names of all clusters."""
        path = self.home / ".sky" / "state.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            return sorted(name for (name,) in connection.execute("SELECT name FROM clusters"))

    def requests(self) -> list[str]:
        """Return what the API server is doing for its user, as in `sky.launch`."""
        with urllib.request.urlopen(f"{self.address}/api/status", timeout=30) as answer:
            return [one["name"] for one in json.load(answer) if one["user_id"] == self.user_hash]

    def cancel_requests(self) -> None:
        """Cancel whatever the API server is doing for its user."""
        if self.requests():
            self._tidy("requests")

    def end_clusters(self) -> None:
        """End every cluster, and forget those that can't be ended."""
        if names := self.clusters():
            self._tidy("clusters", *names)

    def forget(self) -> None:
        """Remove what SkyPilot left outside of its folder."""
        shutil.rmtree(f"/tmp/sky_ssh_{self.user_hash}", ignore_errors=True)

    def _tidy(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "tests.system.lab.tidy", *arguments]
        done = subprocess.run(command, env=self.environment(), capture_output=True, text=True, timeout=TIDY_S)
        assert done.returncode == 0, f"{' '.join(arguments)}: {done.stdout}{done.stderr}"

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.address}/api/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False
