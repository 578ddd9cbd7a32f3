"""The A/A control: pairs of identical variants must not be called different; prints how often they are.

    python benchmarks/aa_control.py --out docs/results/aa_control.json

Each pair times one kernel against itself, interleaved, under the default policy; `faster` or `slower` is a false verdict. Runs on
the GPU, else the CPU. Exit code 1 when more than 5% of the verdicts are false.
"""

import argparse
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import torch

from runner import stats
from runner.spec import MeasurePolicy, Warmup
from runner.worker import calls, sampling, timers
from runner.worker.device import Cuda, Device, open_device, software
from runner.worker.telemetry import Telemetry


def main() -> int:
    """Compare each pair, print the counts, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the verdicts as JSON")
    parser.add_argument("--pairs", type=int, default=100)
    arguments = parser.parse_args()
    device = open_device("cuda" if torch.cuda.is_available() else "cpu", None)
    policy = MeasurePolicy(max_time_s=1.0)
    verdicts: list[dict[str, Any]] = []
    sizes = (256, 512, 1024, 2048, 4096) if isinstance(device, Cuda) else (64, 96, 128, 192, 256)
    flush = timers.Flush(device.l2_bytes) if isinstance(device, Cuda) else None
    events = timers.EventPairs() if isinstance(device, Cuda) else None
    for index in range(arguments.pairs):
        n = sizes[index % len(sizes)]
        a, b = (torch.randn(n, n, device=device.torch_device) for _ in range(2))
        call = (lambda a=a, b=b: torch.matmul(a, b)) if index % 2 == 0 else (lambda a=a, b=b: torch.softmax(a, 1))
        profile = calls.profile(call, device, Warmup(), 0.0)
        pair: dict[str, timers.Sampler] = {name: sampler(call, device, flush, events, profile) for name in ("a", "b")}
        with Telemetry(None) as telemetry:
            found = sampling.collect(pair, policy, device.synchronize, telemetry, lambda precision: None)
        interval = stats.speedup_interval(found["a"].samples_ms, found["b"].samples_ms, policy.confidence)
        assert interval is not None, "too few rounds"
        verdicts.append(
            {
                "kernel": "matmul" if index % 2 == 0 else "softmax",
                "n": n,
                "ratio": interval.value,
                "ci_low": interval.low,
                "ci_high": interval.high,
                "verdict": stats.verdict(interval, policy.same_within),
            }
        )
    counts = Counter(one["verdict"] for one in verdicts)
    false = (counts["faster"] + counts["slower"]) / len(verdicts)
    print(f"{len(verdicts)} A/A pairs: {dict(counts)}; false verdicts {false:.1%}")
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        record = {
            "command": " ".join(["python", *sys.argv]),
            "device": device.describe(),
            "software": software(),
            "false_verdicts": false,
            "counts": counts,
            "pairs": verdicts,
        }
        arguments.out.write_text(json.dumps(record, indent=1) + "\n")
    return 1 if false > 0.05 else 0


def sampler(
    call: timers.Call, device: Device, flush: timers.Flush | None, events: timers.EventPairs | None, profile: calls.CallProfile
) -> timers.Sampler:
    """Return the engine's default clock for this device."""
    if flush is None or events is None:
        return timers.Wall(call, device.synchronize, timers.calls_per_sample(profile.call_ms, 0.05))
    return timers.ColdEvents(call, flush, events, profile.host_ms, 2000.0)


if __name__ == "__main__":
    sys.exit(main())
