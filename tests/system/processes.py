"""Runs of the launcher over the planted workload, and what became of their processes, journals and MLflow runs."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import journal
from tests.system.conftest import ROOT, environment

CONFIG = """\
name: planted
module: planted.py
grids:
  full: &grid {vectors: {x: n, n: []}}
  small: *grid
axes: {n: {unit: elements, min: 1, max: 1000000}}
n: null
variants: [honest, twin]
baseline: honest
"""
QUICK = ["measure=quick", "measure.target=0.2", "measure.max_time_s=0.1", "measure.warmup.max_s=0.05", "measure.cpu_threads=1"]


@dataclass(frozen=True)
class Place:
    """A scratch folder with the workload's config; `run` is the run's folder, the store is under `out`."""

    scratch: Path
    sizes: list[int]
    run: Path

    @classmethod
    def make(cls, scratch: Path, sizes: list[int], run: Path | None = None) -> "Place":
        """Write the config and the module of the workload."""
        (scratch / "mine" / "workload").mkdir(parents=True)
        (scratch / "mine" / "workload" / "planted.yaml").write_text(CONFIG.replace("[]", str(sizes)))
        (scratch / "mine" / "planted.py").write_text((ROOT / "tests" / "planted.py").read_text())
        return cls(scratch, sizes, run or scratch / "run")

    @property
    def store(self) -> str:
        """The tracking URI."""
        return f"sqlite:///{self.scratch / 'out' / 'mlflow.db'}"

    def start(self, *more: str) -> "subprocess.Popen[str]":
        """Start `python -m runner` on the workload."""
        command = [sys.executable, "-m", "runner", "--config-dir", str(self.scratch / "mine"), "workload=planted", *QUICK]
        command += ["gpu=local", "display=plain", f"out={self.scratch / 'out'}", f"run_dir={self.run}", *more]
        # To a file: what a killed launcher's worker inherits must not keep a pipe of this test open.
        with open(self.scratch / "said", "w") as said:
            return subprocess.Popen(
                command, env=environment(self.scratch / "home"), cwd=self.scratch, stdout=said, stderr=said, text=True,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    def said(self) -> str:
        """What the last start printed."""
        return (self.scratch / "said").read_text()

    def record_later(self) -> "subprocess.CompletedProcess[str]":
        """Run `python -m runner.tracking` on the folder."""
        command = [sys.executable, "-m", "runner.tracking", str(self.run)]
        return subprocess.run(command, env=environment(self.scratch / "home"), capture_output=True, text=True, timeout=120)

    def events(self) -> list[journal.Event]:
        """The journal so far."""
        return journal.read(self.run)

    def lines(self) -> list[str]:
        """The measurements of the journal as they are in the file."""
        path = self.run / journal.NAME
        data = path.read_text() if path.exists() else ""
        return [line for line in data[: data.rfind("\n") + 1].splitlines() if '"event":"measurement"' in line]

    def mlflow_runs(self) -> list[Any]:
        """Every run in the store."""
        client = self.client()
        return [run for experiment in client.search_experiments() for run in client.search_runs([experiment.experiment_id])]

    def points(self, run_id: str, metric: str) -> list[int]:
        """The steps of a metric, in order."""
        return sorted(point.step for point in self.client().get_metric_history(run_id, metric))

    def client(self) -> Any:
        from mlflow import MlflowClient

        return MlflowClient(tracking_uri=self.store)


def descendants(pid: int) -> list[int]:
    """Return the children of a process, and theirs."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it ended meanwhile
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        children = parents.get(todo.pop(), [])
        found += children
        todo += children
    return found


def worker_of(launcher: "subprocess.Popen[str]") -> int | None:
    """Return the worker's process id, None while there is none."""
    for pid in descendants(launcher.pid):
        try:
            if b"runner.worker" in (Path("/proc") / str(pid) / "cmdline").read_bytes():
                return pid
        except OSError:
            continue
    return None


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, what: str, limit_s: float = 90.0) -> Any:
    """Return the first true value of `condition()`."""
    end = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < end, f"{what}: not within {limit_s:g} s"
        time.sleep(0.02)
    return found


def end(process: "subprocess.Popen[str]") -> None:
    """End a launcher and what it started, whatever state a failed test left them in."""
    for pid in [*descendants(process.pid), process.pid]:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    process.wait()
