"""A workload with planted faults: what each variant does wrong is its name. Used by the worker's tests, run like any other."""

import math
import subprocess
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Figure, Incorrect, Inputs, Unsupported, Variant, Work, Workload

HOARD: list[Tensor] = []


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return one vector of n values."""
    if context.params.get("reference") == "fails":
        raise MemoryError("planted: too large a reference")
    return (context.randn(axes["n"]),)


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """One multiplication and eight bytes an element, times what a test wants to overstate."""
    return Work(axes["n"] * params.get("ops_factor", 1.0), 8.0 * axes["n"], {"throughput_elements_per_s": axes["n"]})


def honest(x: Tensor) -> Tensor:
    return x * 2


def wrong(x: Tensor) -> Tensor:
    y = x * 2
    y[0] += 1e-3  # small in the sum of 4096 elements, large for one
    return y


def slightly_wrong(x: Tensor) -> Tensor:
    return x * 2.001


def nan(x: Tensor) -> Tensor:
    y = x * 2
    y[-1] = math.nan
    return y


def unwritten(x: Tensor) -> Tensor:
    y = torch.empty_like(x)
    torch.mul(x[:-1], 2, out=y[:-1])
    return y


def elsewhere(x: Tensor) -> Tensor:
    return (x * 2).to("meta")


def sleeps(x: Tensor) -> Tensor:
    time.sleep(0.003)
    return x * 2


def hangs(x: Tensor) -> Tensor:
    time.sleep(3600)
    return x


def leaks(x: Tensor) -> Tensor:
    HOARD.append(torch.ones(2**18))
    return x * 2


def clobbers(x: Tensor) -> Tensor:
    y = x * 2
    x.zero_()
    return y


def out_of_memory(x: Tensor) -> Tensor:
    return torch.empty(2**46) * x.sum()


def raises(x: Tensor) -> Tensor:
    raise KeyError("planted")


def refuses(inputs: Inputs) -> Inputs:
    raise Unsupported("not on this device")


def noisy_neighbour(x: Tensor) -> Tensor:
    if not HOARD:
        HOARD.append(x)
        print('{"progress": 3}', flush=True)
        subprocess.Popen(["sleep", "600"])
    return x * 2


def thrice_asleep(x: Tensor) -> Tensor:
    for _ in range(3):
        y = sleeps(x)
    return y


def not_what_it_says(output: Tensor, prepared: Inputs) -> Tensor:
    raise Incorrect("planted: it is constant")


def with_a_state(inputs: Inputs) -> Inputs:
    return inputs[0], torch.ones(1)


def drifts(x: Tensor, state: Tensor) -> Tensor:
    y = x * 2 + state
    state += 1
    return y


def slow(x: Tensor) -> Tensor:
    for _ in range(3):
        x * 2
    return x * 2


class Late:
    """Behaves for the first calls, then does its worst: what a gate before the timing alone would miss."""

    def __init__(self, fault) -> None:
        self.calls, self.fault = 0, fault

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * 2 if self.calls < 3 else self.fault(x)


def shrinks(x: Tensor) -> Tensor:
    return x[:0]


def zeroes(x: Tensor) -> Tensor:
    y = x * 2
    x.zero_()
    return y


def own_copy(inputs: Inputs) -> Inputs:
    return tuple(x.clone() for x in inputs)


def _count(factor: int):
    return lambda output, prepared: {"elements": factor * output.numel()}


WORKLOAD = Workload(
    inputs=inputs,
    reference=lambda x: x.double() * 2,
    work=work,
    counters=lambda axes, params: {"elements": axes["n"]},
    candidates=lambda params, generator, best: iter([{"n": n} for n in (64, 256, 1024, 4096, 16384)]),
    variants={
        "honest": Variant(honest, dtype="fp32"),
        "twin": Variant(honest, dtype="fp32"),
        "noisy_neighbour": Variant(noisy_neighbour, dtype="fp32"),
        "slow": Variant(slow, dtype="fp32"),
        "wrong": Variant(wrong, dtype="fp32"),
        "slightly_wrong": Variant(slightly_wrong, dtype="fp32"),
        "loose": Variant(slightly_wrong, dtype="fp32", rel_l2=0.01),
        "nan": Variant(nan, dtype="fp32"),
        "unwritten": Variant(unwritten, dtype="fp32"),
        "elsewhere": Variant(elsewhere, dtype="fp32"),
        "sleeps": Variant(sleeps, dtype="fp32"),
        "hangs": Variant(hangs, dtype="fp32"),
        "leaks": Variant(leaks, dtype="fp32"),
        "clobbers": Variant(clobbers, dtype="fp32"),
        "late_garbage": Variant(Late(shrinks), dtype="fp32"),
        "late_clobber": Variant(Late(zeroes), dtype="fp32"),
        "wears_out": Variant(zeroes, dtype="fp32", prepare=own_copy),
        "out_of_memory": Variant(out_of_memory, dtype="fp32"),
        "raises": Variant(raises, dtype="fp32"),
        "refuses": Variant(honest, dtype="fp32", prepare=refuses),
        "counts": Variant(honest, dtype="fp32", counters=_count(1)),
        "miscounts": Variant(honest, dtype="fp32", counters=_count(2)),
        "figured": Variant(
            honest,
            dtype="fp32",
            figures=lambda y, prepared: {"mean": Figure(float(y.mean()), -9.0, 9.0), "width": Figure(y.numel())},
        ),
        "thrice": Variant(thrice_asleep, dtype="fp32", repeats=lambda prepared: 3),
        "constant": Variant(honest, dtype="fp32", finish=not_what_it_says),
        "drifts": Variant(drifts, dtype="fp32", prepare=with_a_state),
        "drifts_back": Variant(drifts, dtype="fp32", prepare=with_a_state, reset=lambda prepared: prepared[1].zero_()),
        "int4": Variant(honest, dtype="int4"),
    },
)
