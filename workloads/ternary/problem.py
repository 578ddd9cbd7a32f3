"""The layer of a case: its inputs, its output in float64, and the least that each form of its weights must move.

Weights come from normal values by absmean, which makes some 31% of them zeros. A multiply-add counts as two operations in every
form, so that TFLOPS compare, although a ternary one needs no multiplication. Inputs and output are moved once, and so are the
weights, in the form that they are held in.
"""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Context, Inputs, Operation, Params, Work
from workloads.ternary.quantize import absmean

OUTPUT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2, "int8": 4}
"""Of a dense matmul; int8 accumulates into int32."""


def shape(axes: Axes, params: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (m, n, k) of a case: rows of activations, output features, input features."""
    n, k = params["layers"][axes["layer"]]
    return axes["m"], n, k


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return normal activations [m, k] in float32, ternary weights [n, k] in int8, and their scale."""
    m, n, k = shape(axes, context.params)
    weights, scale = absmean(context.randn(n, k))
    return context.randn(m, k), weights, scale


def reference(x: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    """Return x W^T * scale in float64."""
    return x.double() @ weights.double().t() * scale.double()


def _operation(bytes_of: Callable[[str], tuple[float, float, float]]) -> Operation:
    """Return the layer with weights, activations and outputs of `bytes_of(dtype)` bytes each."""

    def work(axes: Axes, params: Params, dtype: str) -> Work:
        m, n, k = shape(axes, params)
        of_weight, of_activation, of_output = bytes_of(dtype)
        moved = n * k * of_weight + m * k * of_activation + m * n * of_output
        return Work(ops=2.0 * m * n * k, bytes=moved, per_second={"throughput_rows_per_s": float(m)})

    return Operation(reference, work)


OPERATIONS = {
    "dense": _operation(lambda dtype: (BYTES_PER_ELEMENT[dtype], BYTES_PER_ELEMENT[dtype], OUTPUT_BYTES[dtype])),
    "decomposed": _operation(lambda dtype: (1, 4, 4)),  # int8 weights
    "packed2bit": _operation(lambda dtype: (1 / 4, 2, 2)),  # activations come, and outputs leave, in 16 bits
    "packed5": _operation(lambda dtype: (1 / 5, 2, 2)),
}
"""The same layer, by the form of its weights."""
