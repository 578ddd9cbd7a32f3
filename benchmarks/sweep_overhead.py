"""What a sweep costs per job beyond measuring: this launcher, Hydra's own, and a process per job, side by side.

`python -m benchmarks.sweep_overhead --jobs 200 --out FILE.json` runs the same tiny jobs three ways, in turns, on this machine:

- `crossover`: `python -m runner -m ...`, one sweep;
- `hydra`: the same jobs with Hydra's own launcher and sweeper, whose task is this program's single run;
- `process`: `python -m runner ...` once for each job.

The last two start everything for every job, so they are run with fewer jobs (`--few`). A job's overhead is the time from its
beginning to the next one's, less what its journal says it measured (`measure_s`); the whole command's is its wall time less all
of that, divided by the jobs: it has the start, the plan and what is merged at the end in it. All are recorded in an SQLite store.
"""

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from runner import journal

TINY = [
    "workload=matmul", "workload.variants=[fp32]", "measure=quick", "measure.max_time_s=0.05", "measure.min_time_s=0.02",
    "measure.min_samples=3", "measure.target=0.5", "measure.warmup.max_s=0.02", "display=quiet",
]  # fmt: skip

HYDRA = """
import os, sys
import hydra
from runner.paths import conf_dir

@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def task(cfg):
    from hydra.core.hydra_config import HydraConfig
    from runner.app import run
    from runner.compose import checked
    composed = checked(cfg, HydraConfig.get())
    run(composed.config, composed.overrides, composed.folders)

if __name__ == "__main__":
    task()
    sys.stdout.flush()
    os._exit(0)
"""
"""A plain Hydra program around one run: what `-m` was before there was a launcher."""


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sweep_overhead", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=200, help="jobs of the sweep")
    parser.add_argument("--few", type=int, default=8, help="jobs of the other two ways, which take seconds for each")
    parser.add_argument("--out", type=Path, help="write the figures here as JSON")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            "command": shlex.join(["python", "-m", "benchmarks.sweep_overhead", *sys.argv[1:]]),
            "cores": len(os.sched_getaffinity(0)),
            "process": by_process(Path(scratch) / "process", options.few),
            "hydra": by_hydra(Path(scratch) / "hydra", options.few),
            "crossover": by_sweep(Path(scratch) / "crossover", options.jobs),
        }
    print(json.dumps(found, indent=1))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


def by_sweep(out: Path, jobs: int) -> dict[str, Any]:
    """One sweep of ours."""
    seconds = run([sys.executable, "-m", "runner", "-m", *TINY, f"out={out}", f"workload.n=range(8,{8 + jobs})"])
    return figures(list(out.glob(f"sweeps/*/*/{journal.NAME}")), seconds, jobs)


def by_hydra(out: Path, jobs: int) -> dict[str, Any]:
    """Hydra's own launcher."""
    out.mkdir(parents=True)
    program = out / "program.py"
    program.write_text(HYDRA)
    basic = ["hydra/launcher=basic", "hydra/sweeper=basic", f"hydra.sweep.dir={out / 'hydra'}"]
    seconds = run([sys.executable, str(program), "-m", *TINY, *basic, f"out={out}", f"workload.n=range(8,{8 + jobs})"])
    return figures(list(out.glob(f"matmul/*/{journal.NAME}")), seconds, jobs)


def by_process(out: Path, jobs: int) -> dict[str, Any]:
    """A process for every job."""
    seconds = sum(run([sys.executable, "-m", "runner", *TINY, f"out={out}", f"workload.n={size}"]) for size in range(8, 8 + jobs))
    return figures(list(out.glob(f"matmul/*/{journal.NAME}")), seconds, jobs)


def run(command: list[str]) -> float:
    """Return the seconds that a command takes."""
    before = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - before


def figures(journals: list[Path], seconds: float, jobs: int) -> dict[str, Any]:
    """Return seconds per job beyond measuring: between jobs (median, 90th percentile), and of the whole command."""
    if len(journals) != jobs:
        raise SystemExit(f"{len(journals)} of {jobs} jobs left a journal")
    spans = []
    for path in journals:
        events = journal.read(path.parent)
        start = next(event for event in events if event["event"] == "job_started")
        spans.append((datetime.fromisoformat(start["time"]).timestamp(), float(events[-1]["measure_s"])))
    spans.sort()
    between = [later[0] - earlier[0] - earlier[1] for earlier, later in pairwise(spans)]
    measured = sum(measure_s for _, measure_s in spans)
    return {
        "jobs": jobs,
        "wall_s": round(seconds, 2),
        "measured_s": round(measured, 2),
        "between_jobs_median_s": round(statistics.median(between), 4),
        "between_jobs_p90_s": round(statistics.quantiles(between, n=10)[-1], 4),
        "whole_per_job_s": round((seconds - measured) / jobs, 4),
    }


if __name__ == "__main__":
    main()
