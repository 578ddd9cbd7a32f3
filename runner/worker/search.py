"""Finds the case with the highest throughput within a time budget: many quick looks, then the finalists measured in full.

The workload proposes candidates and is shown the best so far, so that it can look around them.

The best of many noisy looks looks better than it is, so a quick look is never reported: the finalists, and the first
candidate as a yardstick, go through the same gate and the same sampling as any other case.
"""

import time
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch

from runner.job import Job
from runner.spec import Case
from runner.worker import failures
from runner.worker.engine import CudaBroken, Engine

LOOK_SAMPLES = 7
SECOND_LOOK_SAMPLES = 200
KEPT = 16
FIRST_LOOKS_SHARE = 0.7
"""Of the budget; the rest is for second looks. A first look meets a cool GPU, which flatters the shapes that draw most power."""


@dataclass(frozen=True)
class Look:
    """One quick look at a case: its throughput in TFLOPS, not to be reported."""

    axes: dict[str, Any]
    tflops: float


def finalists(engine: Engine, job: Job, variant: str, budget_s: float) -> tuple[list[Case], int, float]:
    """Return the cases to measure in full (the yardstick first), how many were looked at, and the seconds it took.

    Raises ValueError when the workload declares no candidates.
    """
    workload = engine.workload
    if workload.candidates is None:
        raise ValueError(f"the workload {job.workload} declares no candidates to search")
    generator = torch.Generator().manual_seed(job.seed)
    best: list[dict[str, Any]] = []
    looks: list[Look] = []
    yardstick: list[dict[str, Any]] = []
    tried = 0
    start = time.perf_counter()
    for axes in workload.candidates(job.params, generator, best):
        yardstick = yardstick or [axes]
        tflops = _look(engine, variant, axes)
        tried += 1
        if tflops is not None:
            looks = sorted([*looks, Look(axes, tflops)], key=lambda look: look.tflops, reverse=True)[:KEPT]
            best[:] = [look.axes for look in looks]
        if time.perf_counter() - start > FIRST_LOOKS_SHARE * budget_s:
            break
    best = _second_looks(engine, variant, best, start + budget_s)
    chosen = {repr(sorted(axes.items())): axes for axes in [*yardstick, *best[: job.search.finalists]]}
    return [Case(axes, "n") for axes in chosen.values()], tried, time.perf_counter() - start


def _second_looks(engine: Engine, variant: str, best: list[dict[str, Any]], end: float) -> list[dict[str, Any]]:
    """Return the cases ranked by longer looks; those that the time did not suffice for come last, in the order given."""
    ranked: list[Look] = []
    for axes in best:
        if time.perf_counter() > end:
            break
        tflops = _look(engine, variant, axes, SECOND_LOOK_SAMPLES)
        if tflops is not None:
            ranked.append(Look(axes, tflops))
    ranked.sort(key=lambda look: look.tflops, reverse=True)
    seen = [look.axes for look in ranked]
    return seen + [axes for axes in best if axes not in seen]


def _look(engine: Engine, name: str, axes: dict[str, Any], samples: int = LOOK_SAMPLES) -> float | None:
    """Return the throughput of a few samples of the primary timing, None where the variant can't do the case."""
    variant = engine.workload.variants[name]
    engine.case = Case(axes, "n")  # what the watchdog names
    try:
        with engine.guard(name):
            prepared = variant.prepare(engine.workload.inputs(axes, engine.context()))
            sampler = engine.quick_sampler(lambda: variant.run(*prepared))
            pending = [sampler.take() for _ in range(samples)]
            engine.device.synchronize()
    except (Exception, SystemExit) as error:  # a shape that doesn't fit is no candidate, whatever it raises
        error.__traceback__ = None
        if failures.cuda_is_broken():
            raise CudaBroken([], culprit=True) from error
        engine.device.release()
        return None
    work = engine.workload.computed_by(name).work(axes, engine.job.params, variant.dtype_of(axes))
    return work.ops / median(read() for read in pending) / 1e9
