"""Measures how long it takes to record 1,000 measurements in a local MLflow store: `python -m benchmarks.record_to_mlflow`.

Fabricates a run of 250 cases and 4 variants (its statistics are computed, its times are not measured), then records its folder
the way a run does. mlflow is imported and the empty store created before the clock starts: a run does both while its worker
imports torch; the times of both are printed as well.
"""

import tempfile
import time
from pathlib import Path

from runner import report
from runner.tracking import Recorder, place
from runner.tracking.store import connect, load
from tests.journals import grid, matmul, write

MEASUREMENTS = 1000


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = _now()
    return wall - start[0], cpu - start[1]


def main() -> None:
    """Print the seconds of each part: wall time, and CPU time, which other programs on the machine disturb less."""
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        run = matmul(
            cases=grid("n", [64 * (index + 1) for index in range(MEASUREMENTS // 20)], layer=list("abcde")),
            statuses=lambda *_: None,
        )
        events = write(run, out / "run")
        count = sum(event["event"] == "measurement" for event in events)
        where = place(None, "matmul", None, out)
        times = {}
        start = _now()
        load()
        times["import mlflow"] = _since(start)
        start = _now()
        connect(where)
        times["create the store"] = _since(start)
        start = _now()
        report.write(out / "run")
        times["derive and plot"] = _since(start)
        start = _now()
        recorder = Recorder(out / "run", where)
        for event in events:
            recorder.event(event)
        recorder.finish("complete", "")
        times[f"record {count} measurements with artifacts"] = _since(start)
        for what, (wall, cpu) in times.items():
            print(f"{what}: {wall:.2f} s ({cpu:.2f} s of CPU)")
        if recorder.problem:
            raise SystemExit(recorder.problem)


if __name__ == "__main__":
    main()
