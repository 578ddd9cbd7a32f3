"""Small jobs over the planted workload, and the worker run on them as its users do."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from runner import code
from runner.errors import RequestError
from runner.job import Job
from runner.spec import Case, Gate, MeasurePolicy, Warmup

ROOT = Path(__file__).parent.parent

GATE = Gate(rel_l2={"fp32": 1e-5})
QUICK = MeasurePolicy(
    target=0.2,
    min_samples=8,
    min_time_s=0.005,
    max_time_s=0.3,
    warmup=Warmup(window=3, drift=0.5, max_s=0.1),
    gate=GATE,
    cpu_threads=1,
)


def planted_job(variants: list[str], sizes: list[int] | None = None, **fields: Any) -> Job:
    """Return a CPU job over `tests/planted.py`; the first variant is the baseline."""
    defaults: dict[str, Any] = {
        "workload": "planted",
        "module": "planted.py",
        "params": {},
        "variants": variants,
        "baseline": variants[0],
        "cases": [Case({"n": n}, "n") for n in sizes or [4096]],
        "device": "cpu",
        "gpu": None,
        "measure": QUICK,
        "seed": 1,
    }
    given = defaults | fields
    try:
        digest = code.digest(given["module"], code.locate(given["module"], [ROOT / "tests"]))
    except RequestError:  # a test of a module that is not there
        digest = "none"
    return Job(**{"code": digest} | given)


def save(job: Job, folder: Path) -> Path:
    """Write the job and its module into `folder`; return the job file's path."""
    path = folder / "job.json"
    job.save(path)
    (folder / "planted.py").write_text((ROOT / "tests" / "planted.py").read_text())
    return path


def start_worker(path: Path, out: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `python -m runner.worker` on a job file."""
    command = [sys.executable, "-m", "runner.worker", str(path), "--out", str(out), *arguments]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, **streams | options)


def serving_worker() -> subprocess.Popen[str]:
    """Start a worker that takes its jobs from stdin; returns when it is ready."""
    command = [sys.executable, "-m", "runner.worker", "--serve"]
    process = subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["ready"]
    return process


def order(process: subprocess.Popen[str], path: Path, out: Path) -> None:
    """Have a serving worker measure a job."""
    assert process.stdin is not None
    process.stdin.write(json.dumps({"job": str(path), "out": str(out)}) + "\n")
    process.stdin.flush()


def run_worker(path: Path, out: Path, *arguments: str) -> tuple[int, str, str]:
    """Run the worker to its end; return exit code, stdout and stderr."""
    process = start_worker(path, out, *arguments)
    stdout, stderr = process.communicate(timeout=200)
    return process.returncode, stdout, stderr
