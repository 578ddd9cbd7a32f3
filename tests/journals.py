"""Fabricates runs for tests: a job and the journal that a worker would have written, with known curves and noise.

The times come from a latency curve per variant, a slow drift shared by all variants of a case (which pairing must cancel)
and independent noise; statistics, speedups and verdicts are computed with `runner.stats`, as docs/journal.md says.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from runner import job as jobs
from runner import stats
from runner.journal import NAME, Event
from runner.spec import Case, GpuSpec, MeasurePolicy

Curve = Callable[[Mapping[str, Any]], float]
START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)

GPU = GpuSpec(
    name="NVIDIA H200",
    match="^NVIDIA H200$",
    match_memory_gb=[138, 145],
    sm="9.0",
    sm_count=132,
    cuda_cores=16896,
    memory_gb=141,
    bandwidth_gbps=4800,
    l2_mb=50,
    boost_clock_mhz=1980,
    power_w=700,
    peak_tflops={"fp32": 66.9, "tf32": 494.7, "fp16": 989.4, "bf16": 989.4, "int8": 1978.9, "fp8": 1978.9},
    sky_accelerator="H200",
)
DEVICE: dict[str, Any] = {
    "type": "cuda",
    "name": "NVIDIA H200",
    "uuid": "GPU-5f2b6a4e-0000-4000-8000-1234567890ab",
    "sm": "9.0",
    "sm_count": 132,
    "memory_bytes": 150_754_820_096,
    "l2_bytes": 52_428_800,
    "max_sm_clock_mhz": 1980,
    "power_limit_w": 700.0,
    "ecc": True,
    "pcie": {"gen": 5, "width": 16},
    "index": 0,
    "cpu": "Intel Xeon Platinum 8480",
    "cores": 16,
    "threads": 16,
}
SOFTWARE = {
    "python": "3.11.7",
    "torch": "2.13.0",
    "cuda": "13.0",
    "driver": "580.65.06",
    "triton": "3.5.0",
    "numpy": "2.4.6",
    "platform": "Linux-6.8-x86_64",
}


@dataclass
class Fabricated:
    """A run to be: change its fields, then ask for `events()` or `write()` it.

    `curves` map a case's axes to the true latency in ms per variant; `statuses` override (case, variant) with (status, reason).
    `noise` is the relative standard deviation of one sample.
    """

    curves: Mapping[str, Curve]
    cases: list[Case]
    baseline: str | None = "fp32"
    workload: str = "matmul"
    derive: dict[str, Any] = field(default_factory=dict)
    gpu: GpuSpec | None = GPU
    device: Mapping[str, Any] = field(default_factory=lambda: DEVICE)
    statuses: Callable[[Mapping[str, Any], str], tuple[str, str] | None] = lambda case, variant: None
    work: Callable[[Mapping[str, Any]], tuple[float, float]] = lambda case: (
        2.0 * case.get("n", 1) ** 3,
        6.0 * case.get("n", 1) ** 2,
    )
    noise: float = 0.01
    drift: float = 0.05
    samples: int = 60
    seed: int = 0
    session: str = "0f1e2d3c4b5a"
    confidence: float = 0.95
    energy: bool = True

    def job(self) -> jobs.Job:
        """Return the job."""
        return jobs.Job(
            workload=self.workload,
            module=f"workloads.{self.workload}",
            params={},
            variants=list(self.curves),
            baseline=self.baseline,
            cases=self.cases,
            device=str(self.device["type"]),
            gpu=self.gpu,
            measure=MeasurePolicy(confidence=self.confidence),
            seed=self.seed,
            code="c0de",
            derive=self.derive,
            provenance={
                "created_at": "2026-03-01T11:59:58+00:00",
                "overrides": [f"workload={self.workload}", "gpu=h200"],
                "choices": {"workload": self.workload, "gpu": "h200"},
                "version": "0.1.0",
                "git": {"sha": "6c3d78e0a1b2c3d4e5f60718293a4b5c6d7e8f90", "dirty": False},
            },
        )

    def events(self) -> list[Event]:
        """Return the journal of an uninterrupted run."""
        rng = np.random.default_rng(self.seed)
        job = self.job()
        counts: dict[str, int] = {}
        start = {
            "job": json.loads(json.dumps(job.as_dict())),
            "hash": job.hash,
            "session": self.session,
            "restart": 0,
            "device": dict(self.device),
            "software": SOFTWARE,
            "other_processes": [],
            "warnings": [],
        }
        events: list[Event] = [{"event": "job_started", **start}]
        for index, case in enumerate(self.cases):
            events.append({"event": "case_started", "case": case.axes, "x": case.x, "index": index, "total": len(self.cases)})
            for event in self._measure(case, rng):
                counts[event["status"]] = counts.get(event["status"], 0) + 1
                events.append(event)
        events.append(
            {"event": "job_finished", "status": "complete", "reason": None, "counts": counts, "import_s": 3.1, "measure_s": 12.5}
        )
        for number, event in enumerate(events):
            event["time"] = (START + timedelta(milliseconds=137 * number)).isoformat(timespec="milliseconds")
        return events

    def _measure(self, case: Case, rng: np.random.Generator) -> Iterable[Event]:
        drift = 1 + self.drift * np.sin(np.linspace(0, 3, self.samples) + rng.uniform(0, 6))
        times: dict[str, Any] = {}
        own = {variant: self.curves[variant] for variant in case.variants or self.curves}
        for variant, curve in own.items():
            status = (self.statuses(case.axes, variant) or ("ok", ""))[0]
            if status in ("ok", "noisy"):
                spread = self.noise * (1 if status == "ok" else 12)
                times[variant] = curve(case.axes) * drift * np.exp(spread * rng.standard_normal(self.samples))
        ops, least = self.work(case.axes)
        for variant in own:
            status, reason = self.statuses(case.axes, variant) or ("ok", None)
            event: Event = {
                "event": "measurement",
                "case": case.axes,
                "x": case.x,
                "variant": variant,
                "dtype": variant,
                "status": status,
                "reason": reason,
                "work": {"ops": ops, "bytes": least},
                "warnings": [],
            }
            if variant in times:
                event |= self._timed(variant, times, ops, least)
            yield event

    def _timed(self, variant: str, times: dict[str, Any], ops: float, least: float) -> Event:
        samples = times[variant]
        summary = stats.summarize(samples, self.confidence)
        tflops, bandwidth = ops / summary.median_ms * 1e-9, least / summary.median_ms * 1e-6
        peak = self.gpu.peak_tflops.get(variant) if self.gpu else None
        roof = self.gpu.bandwidth_gbps if self.gpu else None
        speedup = None
        if self.baseline and variant != self.baseline and self.baseline in times:
            found = stats.speedup_interval(times[self.baseline], samples, self.confidence)
            speedup = {
                "baseline": self.baseline,
                "ratio": found.value,
                "ci_low": found.low,
                "ci_high": found.high,
                "verdict": stats.verdict(found, 0.01),
            }
        wall = samples + 0.004
        return {
            "timing": "cold",
            "timer": "cuda_event",
            "samples_ms": samples.tolist(),
            "throttled": [],
            "statistics": summary.as_dict(),
            "also": {
                "warm": {
                    "timer": "cuda_graph",
                    "samples_ms": (samples * 0.96).tolist(),
                    "statistics": stats.summarize(samples * 0.96).as_dict(),
                },
                "wall": {"timer": "perf_counter", "samples_ms": wall.tolist(), "statistics": stats.summarize(wall).as_dict()},
            },
            "speedup": speedup,
            "launch_bound": bool(wall.mean() > 1.5 * samples.mean()),
            "gate": {"rel_l2": 1e-6, "rel_l2_bound": 1e-2, "worst": 1e-5, "worst_bound": 1e-1},
            "counters": None,
            "rates": {
                "tflops": tflops,
                "bandwidth_gbps": bandwidth,
                "pct_of_peak": 100 * tflops / peak if peak else None,
                "pct_of_bandwidth": 100 * bandwidth / roof if roof else None,
                "peak_tflops": peak,
                "peak_bandwidth_gbps": roof,
            },
            "peak_memory_bytes": int(least / 3),
            "leak_bytes_per_call": 0,
            "energy_mj_per_call": summary.median_ms * 450 if self.energy else None,
            "first_call_ms": 42.0,
            "telemetry": {
                "sm_clock_mhz": {"min": 1965, "median": 1980, "max": 1980},
                "memory_clock_mhz": {"min": 3201, "median": 3201, "max": 3201},
                "temperature_c": {"min": 41, "median": 44, "max": 47},
                "power_w": {"min": 300.0, "median": 450.0, "max": 520.0},
                "utilization_pct": {"min": 97, "median": 99, "max": 100},
                "throttle_reasons": [],
                "samples": 12,
            },
        }


def grid(x: str, values: Iterable[Any], **others: Iterable[Any]) -> list[Case]:
    """Return the cases of one block: `x` times every other axis."""
    points: list[dict[str, Any]] = [{}]
    for axis, choices in others.items():
        points = [point | {axis: choice} for point in points for choice in choices]
    values = list(values)
    return [Case({x: value} | point, x) for point in points for value in values]


def matmul(**changes: Any) -> Fabricated:
    """Return a run like the matmul workload's: bf16 overtakes fp32 by 1.2 between n = 256 and 512; fp8 is not supported."""
    peaks = {"fp32": 52.0, "tf32": 390.0, "bf16": 720.0, "fp8": 1300.0}
    overhead = {"fp32": 0.004, "tf32": 0.0046, "bf16": 0.005, "fp8": 0.007}

    def curve(name: str) -> Curve:
        return lambda case: overhead[name] + 2.0 * float(case["n"]) ** 3 / peaks[name] * 1e-9

    defaults: dict[str, Any] = {
        "curves": {name: curve(name) for name in peaks},
        "cases": grid("n", [128, 256, 512, 1024, 2048, 4096, 8192]),
        "statuses": lambda case, variant: ("unsupported", "this torch has no fp8 matmul") if variant == "fp8" else None,
        "derive": {
            "axes": {"n": "elements"},
            "thresholds": [
                {"key": "bf16_min_n", "axis": "n", "baseline": "fp32", "candidate": "bf16", "unit": "elements", "margin": 1.2},
                {"key": "fp8_min_n", "axis": "n", "baseline": "bf16", "candidate": "fp8", "unit": "elements", "margin": 1.2},
            ],
            "decisions": [
                {
                    "key": "bf16_reaches_60_pct",
                    "question": "Does bf16 reach 60% of the datasheet peak at the largest n?",
                    "metric": "pct_of_peak",
                    "variant": "bf16",
                    "at_least": 60,
                    "over": "largest",
                }
            ],
        },
    }
    return Fabricated(**(defaults | changes))


def staged(**changes: Any) -> Fabricated:
    """Return a run of a step and its stages: scoring is 30% of `whole`, reading 50%, the sum 80%; beside it `dense`."""
    shares = {"scoring": 0.3, "reading": 0.5, "whole": 1.0, "dense": 0.8}
    defaults: dict[str, Any] = {
        "workload": "step",
        "curves": {name: lambda case, share=share: share * float(case["n"]) * 1e-4 for name, share in shares.items()},
        "cases": grid("n", [1024, 4096]),
        "baseline": "dense",
        "derive": {"axes": {"n": "tokens"}, "compositions": {"whole": {"stages": ["scoring", "reading"]}}},
    }
    return Fabricated(**(defaults | changes))


def write(run: Fabricated, folder: Path, events: list[Event] | None = None) -> list[Event]:
    """Write `job.json` and `journal.jsonl` as a run would have; return the events."""
    events = run.events() if events is None else events
    run.job().save(folder / "job.json")
    (folder / NAME).write_text("".join(json.dumps(event) + "\n" for event in events))
    return events
