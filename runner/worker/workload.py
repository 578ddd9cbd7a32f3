"""What a workload declares: inputs for a case, the variants, the truth they are held to, and the work they do.

The engine knows nothing else about a workload. A module in `workloads/` ends with `WORKLOAD = Workload(...)`;
docs/adding-a-workload.md builds one in 30 lines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Axes = Mapping[str, Any]
Params = Mapping[str, Any]
Inputs = tuple[Any, ...]


class Unsupported(Exception):
    """Raised by `prepare` or `run` when a variant can't do this case on this device; the message is the reason."""


class Incorrect(Exception):
    """Raised by `prepare`, `run`, `finish` or `figures` when what is computed isn't what it should be; the message is the reason.

    For what comparing an output with a reference can't show: a model of another class, weights that are not ternary.
    """


@dataclass(frozen=True)
class Context:
    """What a workload may use to build its inputs: the device, the workload's params and a seeded generator."""

    device: torch.device
    params: Params
    generator: torch.Generator

    def randn(self, *shape: int) -> Tensor:
        """Fresh normal float32 values of `shape` on the device; never zeros, which run faster than real data."""
        return torch.randn(*shape, device=self.device, generator=self.generator)


@dataclass(frozen=True)
class Work:
    """The least that must be done: arithmetic operations (a multiply-add is two) and bytes read plus written, each once.

    `per_second` has what else a call gets done, by the name of the rate that this gives: `{"throughput_rows_per_s": 4096}`. The
    rate is the amount over the seconds of a call, so the amount is in the unit that the name says.
    """

    ops: float
    bytes: float
    per_second: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """A figure of a variant that is no time, as in an accuracy: with its interval where there is one."""

    value: float
    low: float | None = None
    high: float | None = None


def _once(inputs: Inputs) -> int:
    return 1


def _same(inputs: Inputs) -> Inputs:
    return inputs


def _output(output: Tensor, inputs: Inputs) -> Tensor:
    return output


@dataclass(frozen=True)
class Variant:
    """One way to compute the operation.

    `run(*prepared)` is what is timed. `prepare(inputs)` casts or packs once, outside the timing; `finish(output, prepared)`
    brings the output to the reference's shape and units, for the gate only. `dtype` names the arithmetic and so the peak it
    is held against (fp32, tf32, fp16, bf16, int8, fp8); empty, it is the case's axis `dtype`. `rel_l2`, a number or a
    function of the case's axes, replaces the policy's bound for that dtype where it gives one. `counters(output, prepared)`
    counts what was really done, to be compared with the closed form. `operation` names which of the workload's operations it
    computes, where there are several.

    `figures(output, prepared)` returns what is said of it beside times, by snake_case names with units, `{"weight_mb": ...}`.
    `repeats(prepared)` is how often one `run` does the operation, back to back: times are divided by it. A `run` that is not
    `capturable` is never recorded into a CUDA graph, as what talks to other processes must not be. `reset(prepared)` brings back
    the state that `run` changes, as an optimizer's; it is called before each run whose output is checked, and never timed.

    `prepare` and `run` raise Unsupported where this case can't be done on this device.
    """

    run: Callable[..., Any]
    dtype: str = ""
    prepare: Callable[[Inputs], Inputs] = _same
    finish: Callable[[Any, Inputs], Tensor] = _output
    rel_l2: float | Callable[[Axes], float | None] | None = None
    counters: Callable[[Any, Inputs], Mapping[str, int]] | None = None
    operation: str = ""
    figures: Callable[[Any, Inputs], Mapping[str, Figure]] | None = None
    repeats: Callable[[Inputs], int] = _once
    capturable: bool = True
    reset: Callable[[Inputs], None] | None = None

    def dtype_of(self, axes: Axes) -> str:
        """The name of the arithmetic on a case."""
        return self.dtype or str(axes["dtype"])


@dataclass(frozen=True)
class Operation:
    """What variants compute.

    `reference(*inputs)` is the truth in float64, `work(axes, params, dtype)` the least work, `counters(axes, params)` the closed
    form of what variants count.
    """

    reference: Callable[..., Tensor]
    work: Callable[[Axes, Params, str], Work]
    counters: Callable[[Axes, Params], Mapping[str, int]] | None = None


@dataclass(frozen=True)
class Workload:
    """A declared experiment.

    `inputs(axes, context)` returns the float32 tensors of a case; `reference`, `work` and `counters` are those of Operation.
    Where variants don't all compute the same (the stages of a step beside the whole), `operations` has each thing computed
    by the name that `Variant.operation` gives. `rates_by` names the timing (`wall`) that rates per second are formed from,
    where that is not the primary one: what waits for the host in every call is had at the host's pace.
    `candidates(params, generator, best)` yields the axes of cases that a search may try, given the `best` so far, fastest
    first.
    """

    inputs: Callable[[Axes, Context], Inputs]
    variants: Mapping[str, Variant]
    reference: Callable[..., Tensor] | None = None
    work: Callable[[Axes, Params, str], Work] | None = None
    counters: Callable[[Axes, Params], Mapping[str, int]] | None = None
    operations: Mapping[str, Operation] = field(default_factory=dict)
    rates_by: str = ""
    candidates: Callable[[Params, torch.Generator, Sequence[Axes]], Iterable[dict[str, Any]]] | None = None

    def computed_by(self, variant: str) -> Operation:
        """Return what a variant computes; raises ValueError when that is not declared."""
        name = self.variants[variant].operation
        if name in self.operations:
            return self.operations[name]
        if name or self.reference is None or self.work is None:
            raise ValueError(f"variant {variant} computes {name or 'the only operation'}, and the workload declares none such")
        return Operation(self.reference, self.work, self.counters)


BYTES_PER_ELEMENT = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 1, "fp8": 1}
"""Storage of one element by the name of its arithmetic; tf32 is stored as fp32."""


def tensors(value: Any) -> list[Tensor]:
    """Return every tensor inside nested tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, Mapping):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [tensor for item in value for tensor in tensors(item)]
    return []
