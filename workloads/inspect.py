"""What this machine is: its device held against the datasheet (see runner.gpus.compare), and how fast it copies memory.

The copy reads and writes `mib` MiB each. A CPU-sized cache holds the small sizes; the largest is the memory's bandwidth.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Inputs, Variant, Work, Workload


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return one buffer of `mib` MiB of normal float32 values."""
    return (context.randn(axes["mib"] * 2**20 // 4),)


def reference(source: Tensor) -> Tensor:
    """A copy holds what the source holds."""
    return source.double()


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """No arithmetic; every byte read once and written once."""
    return Work(ops=0.0, bytes=2.0 * axes["mib"] * 2**20)


def _with_target(inputs: Inputs) -> Inputs:
    return inputs[0], torch.full_like(inputs[0], math.nan)


def _copy(source: Tensor, target: Tensor) -> Tensor:
    return target.copy_(source)


def _kernel(source: Tensor, target: Tensor) -> Tensor:
    return torch.mul(source, 1.0, out=target)


WORKLOAD = Workload(
    inputs=inputs,
    reference=reference,
    work=work,
    variants={
        "copy": Variant(_copy, dtype="fp32", prepare=_with_target),
        "kernel": Variant(_kernel, dtype="fp32", prepare=_with_target),
    },
)
