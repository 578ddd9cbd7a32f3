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


def main() -> None:
    """Print the seconds of each part."""
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
        start = time.perf_counter()
        load()
        times["import mlflow"] = time.perf_counter() - start
        start = time.perf_counter()
        connect(where)
        times["create the store"] = time.perf_counter() - start
        start = time.perf_counter()
        report.write(out / "run")
        times["derive and plot"] = time.perf_counter() - start
        start = time.perf_counter()
        recorder = Recorder(out / "run", where)
        for event in events:
            recorder.event(event)
        recorder.finish("complete", "")
        times[f"record {count} measurements with artifacts"] = time.perf_counter() - start
        for what, seconds in times.items():
            print(f"{what}: {seconds:.2f} s")
        if recorder.problem:
            raise SystemExit(recorder.problem)


if __name__ == "__main__":
    main()
