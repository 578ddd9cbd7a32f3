"""The table of injected faults: rows as the tests find them, written to docs/reliability.md by `make reliability`."""

import os
import platform
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from tests.system.conftest import ROOT

HEAD = """\
# What happens when things go wrong

Written by `make reliability`, which rents from a real SkyPilot on a real Slurm cluster of two nodes on one machine
(`tests/system/lab`) and injects each fault into a real run. Not from a commercial cloud: none was at hand.

- **at home**: measurements in the run's journal afterwards.
- **lost**: measurements that are not at home though the node had them when the fault came (where the launcher was killed: when
  `down` was called; where the node vanished: one second before, since what it wrote last may not have arrived).
- **repeated**: measured again; only the case in flight may be.
- **left**: SkyPilot clusters + Slurm jobs + processes on nodes without a job, at most 20 s after the command ended (but for
  SkyPilot's own reaper, which sleeps for 30 s and which this Slurm, without cgroups, lets do so).
- **MLflow**: the status of the one run in the store.
- **seconds**: from the fault (or the command) until all of that was so.
"""


@dataclass(frozen=True)
class Row:
    """What was found after one fault."""

    fault: str
    exit_code: int
    status: str
    at_home: int
    lost: int
    repeated: int
    clusters: int
    jobs: int
    processes: int
    mlflow: str
    seconds: float | None
    note: str = ""


@dataclass
class Reliability:
    """The rows and figures of a session of tests."""

    rows: list[Row] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, row: Row) -> None:
        """Keep a row, and write the page where `make reliability` wants it: a session that is stopped has its page so far."""
        self.rows.append(row)
        if path := os.environ.get("CROSSOVER_RELIABILITY"):
            self.write(ROOT / path)

    def write(self, path: Path) -> None:
        """Write the page."""
        lines = [HEAD, "| fault | exit | status | at home | lost | repeated | left | MLflow | seconds | |", "|" + "---|" * 10]
        for row in self.rows:
            left = f"{row.clusters} + {row.jobs} + {row.processes}"
            took = "" if row.seconds is None else f"{row.seconds:.0f}"
            lines.append(
                f"| {row.fault} | {row.exit_code} | {row.status} | {row.at_home} | {row.lost} | {row.repeated} | {left} "
                f"| {row.mlflow} | {took} | {row.note} |"
            )
        faults = sum(row.fault != "none" for row in self.rows)
        left = sum(row.clusters + row.jobs + row.processes for row in self.rows)
        lines += [
            "",
            f"{faults} faults: {left} clusters, jobs or processes left, {sum(row.lost for row in self.rows)} measurements lost.",
        ]
        if self.figures:
            lines += ["", "Side by side in the same session:", "", "| | seconds |", "|---|---|"]
            lines += [f"| {name.removesuffix(' (s)')} | {value:.1f} |" for name, value in self.figures.items()]
        when, cores = datetime.now(UTC).strftime("%Y-%m-%d"), os.cpu_count()
        lines += ["", f"{when}, SkyPilot {version('skypilot')}, Python {platform.python_version()}, {cores} cores.", ""]
        path.write_text("\n".join(lines))
