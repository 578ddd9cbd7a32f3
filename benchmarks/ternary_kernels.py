"""The ternary layer's kernels at the pace that a model meets them: weights from memory, one layer after the other.

    PYTHONPATH=. python benchmarks/ternary_kernels.py --out docs/results/h200/ternary_kernels.json

A model's layers follow each other, and none of their weights is in the L2 when its turn comes. So each variant has as many copies
of the layer as exceed four times the L2, and a CUDA graph goes through them; the time of a call is the graph's over its calls.
Rounds take every variant in turn, so that ratios are of the same minutes. The workload's own timings (`workload=ternary`) flush
the L2 before each single call: there a call begins when the one before has ended, here it may begin to load before.

Each variant is checked against float64 before it is timed, with the workload's own bound. Variants that can't run here are left
out and named: gemlite's, unless `pip install gemlite`. Needs a CUDA GPU.
"""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from runner.stats import Interval, median_interval, speedup_interval
from runner.worker.device import Cuda, software
from runner.worker.workload import Incorrect, Unsupported, Variant
from workloads.ternary import WORKLOAD
from workloads.ternary.problem import reference
from workloads.ternary.quantize import absmean

LAYERS = {"n4096": (4096, 4096), "n8192": (8192, 8192), "ffn_20480x3200": (20480, 3200), "ffn_28672x8192": (28672, 8192)}
VARIANTS = ("dense_bf16", "packed2bit", "packed2bit_int8", "gemlite", "gemlite_int8")
BOUNDS = {"bf16": 1e-2, "int8": 3e-2}
"""Of the relative L2 error, as in conf/measure/default.yaml."""

GRAPH_MS, LEAST_CALLS, MOST_CALLS = 0.8, 3, 256
Call = Callable[[], Any]


def copies(bytes_of_layer: float, l2_bytes: int) -> int:
    """Return how many layers exceed the L2 four times."""
    return max(2, int(4 * l2_bytes / bytes_of_layer) + 1)


@dataclass
class Replay:
    """A CUDA graph of `calls`, which it keeps: a graph knows addresses only, and what is there must not be freed."""

    graph: torch.cuda.CUDAGraph
    calls: list[Call]

    def ms(self) -> float:
        """Return the milliseconds of a call, over one replay."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / len(self.calls)


def recorded(calls: list[Call]) -> Replay:
    """Record these calls, one after the other."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for call in calls[:2]:
            call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for call in calls:
            call()
    return Replay(graph, calls)


def rotated(variant: Variant, prepared: list[tuple[Any, ...]]) -> Replay:
    """Return a graph that goes through all layers at least once, and for about GRAPH_MS."""
    once = recorded([partial(variant.run, *one) for one in prepared])
    once.ms()
    passes = max(1, -(-LEAST_CALLS // len(prepared)), int(GRAPH_MS / (once.ms() * len(prepared))))
    calls: list[Call] = [partial(variant.run, *one) for _ in range(passes) for one in prepared]
    return recorded(calls[: max(MOST_CALLS, len(prepared))])


def prepare(name: str, x: torch.Tensor, layers: list[tuple[torch.Tensor, torch.Tensor]]) -> list[tuple[Any, ...]]:
    """Return the variant's layers, the first of them checked; raises Unsupported, or Incorrect where the error is too large."""
    variant = WORKLOAD.variants[name]
    found = []
    for weights, scale in layers:
        found.append(variant.prepare((x, weights, scale)))
        if len(found) == 1:
            truth = reference(x, weights, scale)
            off = variant.finish(variant.run(*found[0]), found[0]).double() - truth
            error = float(off.norm() / truth.norm())
            if not error < BOUNDS[variant.dtype]:
                raise Incorrect(f"relative L2 error {error:.2g}, not under {BOUNDS[variant.dtype]:g}")
    return found


def case(layer: str, m: int, names: list[str], rounds: int, device: Cuda) -> list[dict[str, Any]]:
    """Return a row of results for each variant."""
    n, k = LAYERS[layer]
    x = torch.randn(m, k, device="cuda")
    weights, scale = absmean(torch.randn(n, k, device="cuda"))
    replays: dict[str, Replay] = {}
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        row: dict[str, Any] = {"layer": layer, "m": m, "variant": name}
        rows[name] = row
        bytes_of = n * k * (2 if name == "dense_bf16" else 0.25)
        layers = [(weights.roll(turn, 0), scale) for turn in range(copies(bytes_of, device.l2_bytes))]
        try:
            replays[name] = rotated(WORKLOAD.variants[name], prepare(name, x, layers))
            row["layers"] = len(layers)
        except (Unsupported, Incorrect) as error:
            row["reason"] = f"{type(error).__name__.lower()}: {error}"
    samples: dict[str, list[float]] = {name: [] for name in replays}
    for turn in range(rounds + 2):
        order = list(replays.items())
        for name, replay in order if turn % 2 else reversed(order):
            took = replay.ms()
            if turn >= 2:
                samples[name].append(took)
    for name, found in samples.items():
        rows[name] |= figures(found, samples["dense_bf16"], n * k / 4)
    return list(rows.values())


def figures(found: list[float], baseline: list[float], packed_bytes: float) -> dict[str, Any]:
    """Return the time, the speedup over the baseline, and the bandwidth that packed weights were read at."""
    took, faster = median_interval(found), speedup_interval(baseline, found)
    return {
        "us": _scaled(took, 1e3),
        "speedup": _scaled(faster, 1.0) if faster else None,
        "packed_gb_per_s": packed_bytes / took.value / 1e6,
        "rounds": len(found),
    }


def _scaled(interval: Interval, by: float) -> dict[str, float]:
    return {"value": interval.value * by, "low": interval.low * by, "high": interval.high * by}


def shown(row: dict[str, Any]) -> str:
    """Return a line of the table."""
    head = f"{row['layer']:15} {row['m']:6} {row['variant']:16}"
    if "us" not in row:
        return f"{head} {row['reason'].splitlines()[0][:80]}"
    us, faster = row["us"], row["speedup"]
    line = f"{head} {us['value']:9.2f} [{us['low']:.2f}, {us['high']:.2f}] us"
    return f"{line} {faster['value']:6.2f}x [{faster['low']:.2f}, {faster['high']:.2f}]" if faster else line


def main() -> int:
    """Measure and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--layers", nargs="+", choices=list(LAYERS), default=list(LAYERS))
    parser.add_argument("--m", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 64, 512])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS[1:], default=list(VARIANTS[1:]))
    parser.add_argument("--peer-m", type=int, nargs="+", default=[1, 8], help="gemlite tunes anew for each, some ten seconds")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--budget-s", type=float, default=600.0, help="no case is begun after it")
    options = parser.parse_args()
    torch.manual_seed(0)
    device, began = Cuda(), time.monotonic()
    rows: list[dict[str, Any]] = []
    left_out: list[str] = []
    for layer in options.layers:
        for m in options.m:
            if time.monotonic() - began > options.budget_s:
                left_out.append(f"{layer} {m}")
                continue
            names = [name for name in options.variants if "gemlite" not in name or m in options.peer_m]
            found = case(layer, m, ["dense_bf16", *names], options.rounds, device)
            rows += found
            for row in found:
                print(shown(row), flush=True)
    said = {"device": device.describe(), "software": software(), "seconds": time.monotonic() - began, "left_out": left_out}
    options.out.write_text(json.dumps({**said, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
