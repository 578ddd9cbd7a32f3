"""A training step of one transformer block, forward, backward and AdamW, with each attention that can be trained.

| module | idea |
|---|---|
| shape | the sizes of a case, its parameters, and its operations as MFU counts them |
| block | the block, in PyTorch's operators |
| attention | the attentions |
| step | the step, and what its optimizer must have done |
| reference | output and gradients in float64 |
"""

import math

import torch

from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Context, Inputs, Operation, Params, Unsupported, Work, Workload
from workloads.llm_kernels.ops import angles
from workloads.train_step import attention, reference
from workloads.train_step.reference import Problem
from workloads.train_step.shape import DTYPES, shape_of
from workloads.train_step.step import variant

OPTIMIZER_BYTES = 28
"""Of each parameter: itself and Adam's two moments read and written, its gradient written, in float32."""


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the problem of a case: weights that keep the size of what they are given, random input and target.

    All but the target are rounded to the case's dtype, so that an error is a variant's own. Raises Unsupported for a dtype that
    this device lacks.
    """
    shape = shape_of(axes, context.params)
    dtype = DTYPES[shape.dtype]
    if shape.dtype == "bf16" and context.device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise Unsupported("this GPU has no bf16 (SM 8.0 or newer); use workload.dtype=fp16")
    weights = {}
    for name, size in shape.parameters(sparse=True).items():
        drawn = context.randn(*size)
        scaled = drawn / math.sqrt(size[1]) if len(size) > 1 else 1 + drawn / 10
        weights[name] = scaled.to(dtype).float()
    x, target = (context.randn(shape.batch, shape.seq_len, shape.hidden) for _ in range(2))
    cos, sin = (table.to(dtype) for table in angles(shape.seq_len, shape.head_dim, context.device))
    return (Problem(weights, x.to(dtype), target, (cos, sin), shape),)


def operation(sparse: bool) -> Operation:
    """Return what a block with dense or with sparse attention computes."""

    def work(axes: Axes, params: Params, dtype: str) -> Work:
        shape, size = shape_of(axes, params), BYTES_PER_ELEMENT[dtype]
        activations = shape.tokens * shape.hidden * (3 * size + 4)  # input, output, the input's gradient; the target in float32
        least = OPTIMIZER_BYTES * shape.num_parameters(sparse) + activations
        return Work(shape.model_ops(sparse), float(least), {"throughput_tokens_per_s": float(shape.tokens)})

    def counters(axes: Axes, params: Params) -> dict[str, int]:
        return {"parameters_moved": shape_of(axes, params).num_parameters(sparse), "optimizer_steps": 1}

    return Operation(reference.sparse if sparse else reference.dense, work, counters)


WORKLOAD = Workload(
    inputs=inputs,
    operations={"dense": operation(sparse=False), "sparse": operation(sparse=True)},
    variants={
        "flash": variant(attention.flash),
        "cudnn": variant(attention.cudnn),
        "masked": variant(attention.masked),
        "flex": variant(attention.flex),
        "nsa": variant(attention.nsa, sparse=True),
    },
)
