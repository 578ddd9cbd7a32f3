"""What the values of a matrix do to the speed of multiplying with it: normal weights against ternary ones, in one process.

    PYTHONPATH=. python benchmarks/operand_values.py --out docs/results/h200/operand_values.json

16,384 rows through a 4096 x 4096 layer, in fp16, bf16 and int8. A board at its power limit lowers its clock, and how much power a
product takes depends on how many bits change: zeros and ones are cheaper than normal values. Each kind is run until the board has
settled, then timed back to back, by turns, `--rounds` times: medians of single calls by CUDA events, with the clock and power
meanwhile. Needs a CUDA GPU.
"""

import argparse
import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runner.stats import median_interval
from runner.worker.device import Cuda, software
from runner.worker.telemetry import Telemetry

ROWS, SIZE = 16384, 4096
HEAT_S, SAMPLES = 1.0, 400


def products() -> dict[str, dict[str, Callable[[], Any]]]:
    """Return dtype -> kind of weights -> call."""
    x, normal = torch.randn(ROWS, SIZE, device="cuda"), torch.randn(SIZE, SIZE, device="cuda")
    ternary = (normal / normal.abs().mean()).round().clamp(-1, 1)
    found: dict[str, dict[str, Callable[[], Any]]] = {}
    for dtype in (torch.float16, torch.bfloat16):
        left, kinds = x.to(dtype), {"normal": normal.to(dtype), "ternary": ternary.to(dtype)}
        found[str(dtype).removeprefix("torch.")] = {
            name: (lambda left=left, right=right: left @ right.t()) for name, right in kinds.items()
        }
    eighth = (x * 32).clamp(-127, 127).to(torch.int8)
    kinds = {"normal": (normal * 32).clamp(-127, 127).to(torch.int8), "ternary": ternary.to(torch.int8)}
    found["int8"] = {name: (lambda right=right: torch._int_mm(eighth, right.t())) for name, right in kinds.items()}
    return found


def timed(call: Callable[[], Any]) -> list[float]:
    """Return the milliseconds of calls back to back, after the board has settled."""
    end = time.monotonic() + HEAT_S
    while time.monotonic() < end:
        for _ in range(50):
            call()
        torch.cuda.synchronize()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(SAMPLES + 1)]
    for mark in marks[:-1]:
        mark.record()
        call()
    marks[-1].record()
    torch.cuda.synchronize()
    return [before.elapsed_time(after) for before, after in itertools.pairwise(marks)]


def main() -> int:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    device = Cuda()
    rows: list[dict[str, Any]] = []
    for dtype, kinds in products().items():
        medians: dict[str, list[float]] = {name: [] for name in kinds}
        seen: dict[str, Any] = {}
        for _ in range(options.rounds):
            for name, call in kinds.items():
                with Telemetry(device.uuid) as telemetry:
                    samples = timed(call)
                medians[name].append(median(samples))
                interval = median_interval(samples)
                said = telemetry.summary() or {}
                seen[name] = {
                    "ms": interval.value,
                    "ci_ms": [interval.low, interval.high],
                    "sm_clock_mhz": (said.get("sm_clock_mhz") or {}).get("median"),
                    "power_w": (said.get("power_w") or {}).get("median"),
                }
        for name, found in medians.items():
            per_s = [ROWS / one * 1e3 for one in found]
            rows.append(
                {"dtype": dtype, "weights": name, "rows_per_s": per_s, "median_rows_per_s": median(per_s), "last": seen[name]}
            )
            print(dtype, name, f"{median(per_s) / 1e6:.2f} M rows/s", seen[name])
    options.out.write_text(json.dumps({"device": device.describe(), "software": software(), "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
