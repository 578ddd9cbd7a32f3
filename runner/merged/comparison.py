"""comparison.csv: one row per measurement over all runs, units in the names, empty where there is no such figure.

The workloads' own figures come last.
"""

import csv
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from runner.merged import prices
from runner.merged.facts import Cell, Read, Run
from runner.report.table import COLUMNS

FIRST = (
    "gpu", "gpu_uuid", "cloud", "usd_per_hour", "price_source", "job", "job_name", "job_hash", "job_status", "run", "workload",
    "latest",
)  # fmt: skip
"""The columns before the axes: the GPU as measured, and the job. `run` leads from the CSV to its folder."""

WHAT = ("x", "variant", "dtype")
DERIVED = ("usd_per_million_calls", "tflops_per_usd_hour", "gflops_per_watt")


class Spool:
    """Rows wait on disk, for only the last run tells which axes there are and which measurements a later one replaces."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - it lives as long as the spool
        self._axes: set[str] = set()
        self._known: set[int] = set()
        self._own: dict[str, None] = {}

    def add(self, place: int, cell: Cell, uuid: str, row: Mapping[str, Any]) -> None:
        """Take one measurement, in the order of the cells."""
        if id(cell.case) not in self._known:  # equal cases are one object
            self._known.add(id(cell.case))
            self._axes |= cell.case.keys()
        own = {name: value for name, value in row.items() if name not in COLUMNS}
        self._own |= dict.fromkeys(own)
        self._file.write(json.dumps([place, uuid, own, *(row[column] for column in COLUMNS)]) + "\n")

    def write(self, path: Path, read: Read) -> None:
        """Write the CSV, whole or not at all; `read` are the runs and cells whose rows were added. Raises OSError."""
        # An axis may share its name with a column (`bytes`); the figure keeps its name, the axis is marked.
        taken = {*FIRST, *WHAT, *COLUMNS, *DERIVED}
        columns = {axis: f"axis_{axis}" if axis in taken else axis for axis in sorted(self._axes)}
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            with open(beside, "w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow([*FIRST, *columns.values(), *WHAT, *COLUMNS, *DERIVED, *self._own])
                writer.writerows(self._rows(read, list(columns)))
            os.replace(beside, path)
        finally:
            beside.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the rows go."""
        self._file.close()

    def _rows(self, read: Read, axes: list[str]) -> Iterator[list[Any]]:
        self._file.seek(0)
        firsts: dict[int, list[Any]] = {}
        for cell, line in zip(read.cells, self._file, strict=True):
            place, uuid, own, *figures = json.loads(line)
            run = read.runs[place]
            if place not in firsts:
                firsts[place] = _first(run)
            cloud, price, *job = firsts[place]
            yield [
                *(cell.device, uuid, cloud, *price, *job, run.workload, cell.latest),
                *(cell.case.get(axis) for axis in axes),
                *(cell.x, cell.variant, cell.dtype, *figures),
                prices.usd_per_million_calls(cell.latency_ms, run.price),
                prices.tflops_per_usd_hour(cell.tflops, run.price),
                prices.gflops_per_watt(cell.ops, cell.energy_mj),
                *(own.get(name) for name in self._own),
            ]


def _first(run: Run) -> list[Any]:
    price = (run.price.usd_per_hour, run.price.source) if run.price else (None, None)
    return [run.cloud, price, run.source.index, run.label, run.hash, run.status, run.source.link]


def mark_latest(read: Read) -> int:
    """Leave `latest` with the last measurement of each variant on each case and GPU name, and return how many lost it.

    Equal are those of one study: the same parameters, and the same clock.
    """
    studies = {id(run.study): place for place, run in enumerate(read.runs)}  # equal studies are one object
    last: dict[tuple[int, str, int, str], Cell] = {}
    lost = 0
    for cell in read.cells:
        key = (studies[id(read.runs[cell.run].study)], cell.device, id(cell.case), cell.variant)
        other = last.get(key)
        if other is None:
            last[key] = cell
            continue
        lost += 1
        older, newer = (cell, other) if cell.time < other.time else (other, cell)
        older.latest, last[key] = False, newer
    return lost
