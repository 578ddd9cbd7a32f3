"""The operations of a language model's layers beside attention, each by PyTorch's operators, by torch.compile, and in Triton.

| module | idea |
|---|---|
| ops | the operations: inputs, PyTorch's own way, the truth, the least work |
| kernels | a Triton kernel for each |

Inputs are rounded to the case's dtype before anyone sees them, so that an error is a kernel's own.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from runner.worker.compilers import check_cpp, check_triton
from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Context, Inputs, Params, Unsupported, Variant, Work, Workload
from workloads.llm_kernels.ops import OPS, Sizes

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

MAX_RECOMPILES = 1000
"""Every shape is compiled for itself; the default of 8 would be an error at the ninth."""


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the operation's name and its arguments, normal values in the case's dtype.

    Raises Unsupported for a dtype that this device lacks, and for a size of the wrong kind.
    """
    op, dtype = str(axes["op"]), DTYPES[axes["dtype"]]
    if OPS[op].axis not in axes:
        raise Unsupported(f"{op} is measured over {OPS[op].axis}: give workload.{OPS[op].axis}=[16,1024] beside workload.op={op}")
    if axes["dtype"] == "bf16" and context.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Unsupported("this GPU has no bf16 (SM 8.0 or newer); use workload.dtype=fp16")

    def draw(*shape: int) -> Tensor:
        return context.randn(*shape).to(dtype)

    return op, *OPS[op].inputs(axes[OPS[op].axis], Sizes(**context.params), draw, context.generator)


def reference(op: str, *arguments: Any) -> Tensor:
    """The truth in float64."""
    return OPS[op].reference(*arguments)


def work(axes: Axes, params: Params, dtype: str) -> Work:
    """The least work of a case's operation."""
    op = OPS[axes["op"]]
    return op.work(axes[op.axis], Sizes(**params), BYTES_PER_ELEMENT[dtype])


def _eager(inputs: Inputs) -> Inputs:
    op, *arguments = inputs
    return OPS[op].eager, *arguments


@functools.cache
def _compiled(op: str) -> Callable[..., Tensor]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MAX_RECOMPILES
    torch._dynamo.config.accumulated_recompile_limit = MAX_RECOMPILES
    compiled: Callable[..., Tensor] = torch.compile(OPS[op].eager, dynamic=False, fullgraph=True)
    return compiled


def _compile(inputs: Inputs) -> Inputs:
    """Have the operation compiled: that happens in its first call, which has a time of its own."""
    op, *arguments = inputs
    device = next(one.device for one in arguments if isinstance(one, Tensor))
    check_cpp(device, "this variant")
    if device.type == "cuda":
        check_triton(device)  # what it generates for a GPU is Triton
    return _compiled(op), *arguments


def _triton(inputs: Inputs) -> Inputs:
    op, *arguments = inputs
    check_triton(next(one.device for one in arguments if isinstance(one, Tensor)))
    from workloads.llm_kernels import kernels

    return getattr(kernels, op), *arguments


def _call(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
    return function(*arguments)


WORKLOAD = Workload(
    inputs=inputs,
    reference=reference,
    work=work,
    variants={
        "eager": Variant(_call, prepare=_eager),
        "compile": Variant(_call, prepare=_compile),
        "triton": Variant(_call, prepare=_triton),
    },
)
