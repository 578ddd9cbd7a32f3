"""Measures what the control plane costs a person who waits for it: `python -m benchmarks.control_plane [--out JSON]`.

The overhead of a run is the wall time of `python -m runner` less what its worker took for importing and measuring, as the
journal's `job_finished` says: composing, planning, launching, deriving, plotting and recording in an SQLite store that exists.
The run measures for some seconds, like any real one, so that what is done beside the measuring is not counted.
Run it on a quiet machine; it says how busy the machine was.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from statistics import median

from runner import journal

ROOT = Path(__file__).parent.parent
SHORT = [
    "workload=matmul", "workload.n=[512]", "workload.variants=[fp32]", "measure.min_time_s=4", "measure.max_time_s=5",
    "gpu=local", "display=plain",
]  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One figure in seconds: its median over some runs, and the most it may be (None: a part of another row)."""

    what: str
    seconds: list[float]
    goal_s: float | None = None

    @property
    def verdict(self) -> str:
        """Whether the goal is met."""
        return "" if self.goal_s is None else "met" if median(self.seconds) <= self.goal_s else "missed"

    def __str__(self) -> str:
        """Return a line of the table."""
        goal = "" if self.goal_s is None else f"{self.goal_s:.1f}"
        low, high = min(self.seconds), max(self.seconds)
        return f"{self.what:<58} {median(self.seconds):7.2f} {low:7.2f} {high:7.2f} {goal:>6}  {self.verdict}"


def run(arguments: Sequence[str]) -> tuple[float, float]:
    """Run `python -m runner`; return when it began (seconds since the epoch) and the seconds that it took."""
    began, start = time.time(), time.perf_counter()
    done = subprocess.run([sys.executable, "-m", "runner", *arguments], cwd=ROOT, capture_output=True, text=True)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"python -m runner {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
    return began, taken


def command(what: str, arguments: Sequence[str], goal_s: float, runs: int) -> Row:
    """Time a command that measures nothing; the first run, which reads the files from disk, is left out."""
    run(arguments)
    return Row(what, [run(arguments)[1] for _ in range(runs)], goal_s)


def overhead(runs: int) -> list[Row]:
    """Time whole runs; return the overhead and where it lies, relative to the worker's own events."""
    whole, before, after, importing, measuring = [], [], [], [], []
    with tempfile.TemporaryDirectory() as scratch:
        for index in range(runs + 1):  # the first one creates the store
            folder = Path(scratch) / str(index)
            began, wall = run([*SHORT, f"out={scratch}", f"run_dir={folder}"])
            events = {event["event"]: event for event in journal.read(folder)}
            last = events["job_finished"]
            if index:
                whole.append(wall - last["import_s"] - last["measure_s"])
                after.append(began + wall - datetime.fromisoformat(last["time"]).timestamp())
                before.append(whole[-1] - after[-1])
                importing.append(last["import_s"])
                measuring.append(last["measure_s"])
    return [
        Row("overhead of a run with tracking", whole, 2.0),
        Row("  of it before the worker measures", before),
        Row("  of it after the worker's last word", after),
        Row("  not of it: the worker's import of torch", importing),
        Row("  not of it: the worker's measuring", measuring),
    ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=7, metavar="N", help="runs of each command (default 7)")
    parser.add_argument("--out", type=Path, metavar="JSON", help="write every figure there too")
    options = parser.parse_args()
    busy = [os.getloadavg()[0]]
    rows = [
        command("python -m runner --help", ["--help"], 0.5, options.runs),
        command(
            "python -m runner --cfg job workload=matmul gpu=4090",
            ["--cfg", "job", "workload=matmul", "gpu=4090"],
            1.0,
            options.runs,
        ),
        *overhead(options.runs),
    ]
    busy.append(os.getloadavg()[0])
    print(f"{'seconds':<58} {'median':>7} {'least':>7} {'most':>7} {'goal':>6}")
    print("\n".join(map(str, rows)))
    print(f"{options.runs} runs each, {os.cpu_count()} cores, load {busy[0]:.1f} before and {busy[1]:.1f} after")
    if options.out:
        found = {"runs": options.runs, "cores": os.cpu_count(), "load": busy, "rows": [asdict(row) for row in rows]}
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
