"""Rented runs in the lab, what was done to them, and what became of them: the harness of test_renting.py."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runner import journal
from tests.system.conftest import ROOT
from tests.system.lab import Lab
from tests.system.processes import CONFIG, QUICK, end, wait_for

VARIANTS = ("honest", "twin")
REAPER = "sky/skylet/subprocess_daemon.py"
LAUNCH_S = 150.0
"""A launch takes some 35 s on two idle cores."""


@dataclass
class Run:
    """A run of the product in the lab: `folder` is its run folder, `scratch` holds its config, its store and what it said."""

    lab: Lab
    scratch: Path
    sizes: list[int]
    gpu: str = "lab4090"
    process: "subprocess.Popen[str] | None" = None
    started_at: float = 0.0
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self.scratch / "run"

    @property
    def state(self) -> Path:
        """The folder of the ledger."""
        return self.scratch / "state"

    def prepare(self) -> None:
        """Write the workload and the GPUs of the lab into a config folder."""
        conf = self.scratch / "conf"
        (conf / "workload").mkdir(parents=True, exist_ok=True)
        (conf / "workload" / "planted.yaml").write_text(CONFIG.replace("[]", str(self.sizes)))
        (conf / "planted.py").write_text((ROOT / "tests" / "planted.py").read_text())
        if not (conf / "gpu").exists():
            (conf / "gpu").symlink_to(self.lab.conf / "gpu")

    def environment(self) -> dict[str, str]:
        """The environment of whoever launches: the lab's, with a ledger of its own."""
        return {**self.lab.environment(), "XDG_STATE_HOME": str(self.state), **self.extra}

    def start(self, *more: str, run_dir: bool = True) -> "subprocess.Popen[str]":
        """Start `python -m runner gpu=lab4090`."""
        self.prepare()
        command = [sys.executable, "-m", "runner", "--config-dir", str(self.scratch / "conf"), "workload=planted", *QUICK]
        command += [f"gpu={self.gpu}", "display=plain", f"out={self.scratch / 'out'}", f"launch.python={self.lab.node_python}"]
        command += [f"run_dir={self.folder}"] if run_dir else []
        return self.spawn([*command, *more])

    def spawn(self, command: list[str]) -> "subprocess.Popen[str]":
        """Start a command in the lab's environment; what it says goes to a file."""
        self.started_at = time.time()
        with open(self.scratch / "said", "w") as said:
            self.process = subprocess.Popen(
                command, env=self.environment(), cwd=self.scratch, stdout=said, stderr=said, text=True, stdin=subprocess.DEVNULL,
                # A test session in the background ignores Ctrl-C, and so would what it starts.
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )  # fmt: skip
        return self.process

    def command(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run `python -m runner.launch ...` and wait for it."""
        return subprocess.run(
            [sys.executable, "-m", "runner.launch", *arguments],
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )

    def wait(self, limit_s: float = LAUNCH_S + 120) -> int:
        """Return the exit code."""
        assert self.process is not None
        return self.process.wait(limit_s)

    def said(self) -> str:
        """What it printed so far."""
        return (self.scratch / "said").read_text()

    def until_said(self, text: str, limit_s: float = LAUNCH_S) -> None:
        """Wait for a text in what it prints."""
        assert self.process is not None
        wait_for(lambda: text in self.said() or self.process.poll() is not None, f"{text!r} in\n{self.said()}", limit_s)
        assert text in self.said(), self.said()

    def until_measured(self, count: int, limit_s: float = LAUNCH_S) -> None:
        """Wait until so many measurements are at home."""
        assert self.process is not None
        wait_for(lambda: len(self.lines()) >= count or self.process.poll() is not None, f"{count} measurements", limit_s)
        assert len(self.lines()) >= count, self.said()

    def events(self) -> list[journal.Event]:
        """The journal at home."""
        return journal.read(self.folder)

    def lines(self) -> list[str]:
        """The measurements at home, as they are in the file."""
        return measurement_lines(self.folder / journal.NAME)

    def on_the_node(self) -> list[str]:
        """The measurements that the nodes of this run have by now, as they are in their files."""
        found: list[str] = []
        for attempt in self.attempts():
            for path in self.lab.slurm.root_home.glob(f".sky_clusters/{attempt['cluster']}-*/sky_workdir/out/journal.jsonl"):
                found += measurement_lines(path)
        return found

    def attempts(self) -> list[dict[str, Any]]:
        """What launch.json says."""
        path = self.folder / "launch.json"
        return json.loads(path.read_text())["attempts"] if path.exists() else []

    def mlflow_runs(self) -> list[Any]:
        """Every run in the store."""
        from mlflow import MlflowClient

        if not (self.scratch / "out" / "mlflow.db").exists():
            return []
        client = MlflowClient(tracking_uri=f"sqlite:///{self.scratch / 'out' / 'mlflow.db'}")
        return [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]

    def is_in_mlflow(self, metric: str) -> bool:
        """Whether the store has this metric by now; MLflow's own client would meddle with a store in the making."""
        path = self.scratch / "out" / "mlflow.db"
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database,
        ):
            return database.execute("SELECT 1 FROM metrics WHERE key = ? LIMIT 1", (metric,)).fetchone() is not None
        return False

    def repeated(self) -> int:
        """How many measurements are at home more than once."""
        return sum(count - 1 for count in Counter(map(identity, self.lines())).values())

    def ledger(self) -> list[str]:
        """The clusters that the ledger still holds."""
        return sorted(path.stem for path in (self.state / "crossover" / "clusters").glob("*.json"))


def measurement_lines(path: Path) -> list[str]:
    """Return the complete measurement lines of a journal."""
    data = path.read_text() if path.exists() else ""
    return [line for line in data[: data.rfind("\n") + 1].splitlines() if '"event":"measurement"' in line]


def identity(line: str) -> tuple[int, str]:
    """Return (case, variant) of a measurement line."""
    event = json.loads(line)
    return event["case"]["n"], event["variant"]


@contextlib.contextmanager
def rented(lab: Lab, scratch: Path, sizes: int = 40, gpu: str = "lab4090") -> Iterator[Run]:
    """Yield a run that leaves nothing behind in the lab, whatever the test does."""
    run = Run(lab, scratch, list(range(64, 64 + sizes)), gpu)
    run.prepare()
    try:
        yield run
    finally:
        if run.process is not None and run.process.poll() is None:
            end(run.process)


def left_over(lab: Lab) -> dict[str, list[str]]:
    """Return what is still there of anybody's: SkyPilot's clusters, Slurm's jobs, processes on nodes without a job.

    SkyPilot's reaper is not counted: it waits for what it is to kill, and without cgroups Slurm lets it live on for a while.
    """

    def look() -> dict[str, list[str]]:
        strays = [line for line in lab.stray_processes() if REAPER not in line]
        return {"clusters": lab.sky_clusters(), "jobs": lab.slurm_jobs(), "processes": strays}

    until = time.monotonic() + 20  # Slurm takes some seconds from the end of a job to the end of its last process
    while any((found := look()).values()) and time.monotonic() < until:
        time.sleep(0.5)
    return found


def kill(process: "subprocess.Popen[str]") -> None:
    """Kill -9 the launcher and whatever it started on this side."""
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def forwarded(port: int) -> Iterator[int]:
    """Yield a port of 127.0.0.2 that leads to `port` of 127.0.0.1."""
    listener = socket.create_server(("127.0.0.2", 0))

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def serve() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.create_connection(("127.0.0.1", port))
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=pump, args=pair, daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()
