"""Our clocks against Triton's, in one process: cold against do_bench, warm against do_bench_cudagraph.

    python benchmarks/against_do_bench.py --out docs/results/against_do_bench.json

Each kernel is timed by both, in turn, `--repeats` times, each time after the kernel has run for a while: under the board's power
limit a time depends on what ran before. The medians of both must agree within 2% or 0.5 us, whichever is larger.
Needs a CUDA GPU and Triton. Exit code 1 when a kernel is out of bounds.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch

from runner import stats
from runner.spec import MeasurePolicy, Warmup
from runner.worker import calls, sampling, timers
from runner.worker.device import Cuda, software
from runner.worker.telemetry import Telemetry

POLICY = MeasurePolicy(min_time_s=0.2, max_time_s=1.0)
TOLERANCE, TOLERANCE_MS = 0.02, 0.0005
HEAT_S = 0.4


def kernels() -> dict[str, tuple[Callable[[], Any], float]]:
    """Return name -> (call, operations) from about 5 us to 10 ms: matmuls, copies, a reduction."""
    found: dict[str, tuple[Callable[[], Any], float]] = {}
    for m, n, k in (
        (128, 128, 128),
        (512, 512, 512),
        (1024, 1024, 1024),
        (16, 14336, 4096),
        (2048, 2048, 2048),
        (4096, 4096, 4096),
        (8192, 8192, 8192),
        (16384, 16384, 8192),
    ):
        a = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
        b = torch.randn(n, k, device="cuda", dtype=torch.bfloat16).t()
        found[f"matmul_bf16_{m}x{n}x{k}"] = (lambda a=a, b=b: torch.matmul(a, b), 2.0 * m * n * k)
    for mib in (1, 8, 64, 512, 8192):
        source = torch.randn(mib * 2**20 // 4, device="cuda")
        target = torch.empty_like(source)
        found[f"copy_{mib}MiB"] = (lambda s=source, t=target: t.copy_(s), 0.0)
    for mib in (4, 1024):
        source = torch.randn(mib * 2**20 // 4, device="cuda")
        found[f"sum_{mib}MiB"] = (lambda s=source: s.sum(), 0.0)
    return found


def heat(call: Callable[[], Any]) -> None:
    """Run the kernel until clocks and temperature are those of running it."""
    end = time.monotonic() + HEAT_S
    while time.monotonic() < end:
        for _ in range(20):
            call()
        torch.cuda.synchronize()


def sampler(call: Callable[[], Any], device: Cuda, flush: timers.Flush, events: timers.EventPairs, cold: bool) -> timers.Sampler:
    """Return the engine's clock for a kernel, profiled as the engine does."""
    profile = calls.profile(call, device, Warmup(), 0.0)
    if cold:
        return timers.ColdEvents(call, flush, events, profile.host_ms, device.describe()["max_sm_clock_mhz"] or 2000.0)
    return timers.WarmGraph(call, events, timers.calls_per_sample(profile.call_ms, timers.WARM_SAMPLE_MS))


def ours(clock: timers.Sampler, device: Cuda) -> float:
    """Return our median in ms, by the engine's interleaver and stop rule."""
    with Telemetry(None) as telemetry:
        collected = sampling.collect({"ours": clock}, POLICY, device.synchronize, telemetry, lambda precision: None)["ours"]
    if collected.error:
        raise collected.error
    return stats.summarize(collected.samples_ms).median_ms


def main() -> int:
    """Time every kernel both ways, print a table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    from triton.testing import do_bench, do_bench_cudagraph

    device = Cuda()
    flush, events = timers.Flush(device.l2_bytes), timers.EventPairs()
    rows, failed = [], 0
    print(f"{'kernel':30} {'cache':5} {'triton us':>12} {'ours us':>12} {'ours/triton':>12}")
    for name, (call, ops) in kernels().items():
        for cold in (True, False):
            theirs_ms, ours_ms = [], []
            clock = sampler(call, device, flush, events, cold)
            for _ in range(arguments.repeats):
                heat(call)
                if cold:
                    theirs_ms.append(do_bench(call, warmup=25, rep=200, return_mode="median"))
                else:
                    stream = torch.cuda.Stream()
                    with torch.cuda.stream(stream):
                        theirs_ms.append(do_bench_cudagraph(call, rep=50, return_mode="median"))
                    torch.cuda.synchronize()
                heat(call)
                ours_ms.append(ours(clock, device))
            a, b = median(theirs_ms), median(ours_ms)
            agrees = abs(a - b) <= max(TOLERANCE * a, TOLERANCE_MS)
            failed += not agrees
            row = {
                "kernel": name,
                "cache": "cold" if cold else "warm",
                "triton_ms": theirs_ms,
                "ours_ms": ours_ms,
                "ratio": b / a,
                "agrees": agrees,
                "tflops_ours": ops / b / 1e9,
                "tflops_triton": ops / a / 1e9,
            }
            rows.append(row)
            print(
                f"{name:30} {row['cache']:5} {a * 1e3:12.2f} {b * 1e3:12.2f} {b / a:12.4f}{'' if agrees else '  out'}",
                flush=True,
            )
    print(f"{len(rows) - failed} of {len(rows)} agree within {TOLERANCE:.0%} or {TOLERANCE_MS * 1e3:g} us")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {"command": " ".join(["python", *sys.argv]), "device": device.describe(), "software": software(), "rows": rows}
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
