"""Dense matmul: square sizes and the linear layers of known models, in every precision the device has.

C[m, n] = A[m, k] B[k, n]. A `layer` of a model has [out_features, in_features] = [n, k] and is run for m tokens. A multiply-add
counts as two operations; the least traffic reads A and B once and writes C once.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Context, Inputs, Unsupported, Variant, Work, Workload

OUTPUT_BYTES = {"fp32": 4, "tf32": 4, "fp16": 2, "bf16": 2, "int8": 4, "fp8": 2}
"""int8 accumulates into int32, fp8 writes bf16."""


def shape(axes: Axes, params: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return (m, n, k) of a case: a layer at m tokens, an explicit m x n x k, or a square n."""
    if "layer" in axes:
        out_features, in_features = params["layers"][axes["layer"]]
        return axes["m"], out_features, in_features
    n = axes["n"]
    return axes.get("m", n), n, axes.get("k", n)


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return A [m, k] and B [k, n], normal values; B is stored as [n, k], as the weight of a linear layer is."""
    m, n, k = shape(axes, context.params)
    return context.randn(m, k), context.randn(n, k).t()


def reference(a: Tensor, b: Tensor) -> Tensor:
    """The product in float64."""
    return a.double() @ b.double()


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """2 m n k operations; A, B and C moved once."""
    m, n, k = shape(axes, params)
    return Work(ops=2.0 * m * n * k, bytes=float((m * k + k * n) * BYTES_PER_ELEMENT[dtype] + m * n * OUTPUT_BYTES[dtype]))


def _cast(dtype: torch.dtype) -> Any:
    def prepare(inputs: Inputs) -> Inputs:
        return tuple(tensor.to(dtype) for tensor in inputs)

    return prepare


def _tf32_inputs(inputs: Inputs) -> Inputs:
    if inputs[0].device.type != "cuda" or torch.cuda.get_device_capability() < (8, 0):
        raise Unsupported("tf32 needs the tensor cores of SM 8.0 or newer")
    return inputs


def _tf32(a: Tensor, b: Tensor) -> Tensor:
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return a @ b
    finally:
        torch.backends.cuda.matmul.allow_tf32 = False


def _quantize(inputs: Inputs, dtype: torch.dtype, largest: float) -> Inputs:
    """Return A, B in `dtype` with one scale per row of A and per column of B, so that the largest value of each fits."""
    a, b = inputs
    scale_a = a.abs().amax(1, keepdim=True) / largest
    scale_b = b.abs().amax(0, keepdim=True) / largest
    a, b = a / scale_a, b / scale_b
    if dtype == torch.int8:
        a, b = a.round(), b.round()
    return a.to(dtype), b.to(dtype), scale_a, scale_b


def _int8_inputs(inputs: Inputs) -> Inputs:
    a, b = inputs
    if a.device.type == "cuda" and (a.shape[0] <= 16 or a.shape[1] % 8 or b.shape[1] % 8):
        raise Unsupported(f"torch._int_mm needs m > 16 and n, k divisible by 8, not m={a.shape[0]} n={b.shape[1]} k={a.shape[1]}")
    return _quantize(inputs, torch.int8, 127.0)


def _int8(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    product: Tensor = torch._int_mm(a, b)
    return product


def _dequantize(output: Tensor, prepared: Inputs) -> Tensor:
    _, _, scale_a, scale_b = prepared
    product: Tensor = output.double() * scale_a.double() * scale_b.double()
    return product


def _fp8_inputs(inputs: Inputs) -> Inputs:
    a, b = inputs
    if a.device.type != "cuda" or torch.cuda.get_device_capability() < (8, 9):
        raise Unsupported("fp8 needs the tensor cores of SM 8.9 or newer")
    if a.shape[1] % 16 or b.shape[1] % 16:
        raise Unsupported(f"fp8 matmul needs n and k divisible by 16, not n={b.shape[1]} k={a.shape[1]}")
    one = torch.ones((), device=a.device)
    largest = torch.finfo(torch.float8_e4m3fn).max
    scale_a, scale_b = a.abs().amax() / largest, b.abs().amax() / largest
    return (a / scale_a).to(torch.float8_e4m3fn), (b / scale_b).to(torch.float8_e4m3fn), one * scale_a, one * scale_b


def _fp8(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> Tensor:
    product: Tensor = torch._scaled_mm(a, b, scale_a=scale_a, scale_b=scale_b, out_dtype=torch.bfloat16)
    return product


def candidates(params: Mapping[str, Any], generator: torch.Generator, best: Sequence[Axes]) -> Iterator[dict[str, Any]]:
    """Yield shapes for a search, without end: cubes first (4096 is the yardstick), then by turns random ones and neighbours.

    Sizes are multiples of 128, the tile of most kernels; how the tiles fill the multiprocessors is what makes shapes differ.
    """

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    for n in (4096, 2048, 8192, 6144, 3072, 5120):
        yield {"m": n, "n": n, "k": n}
    while True:
        yield {"m": 128 * draw(8, 65), "n": 128 * draw(8, 65), "k": 512 * draw(2, 17)}
        near = dict(best[draw(0, len(best))]) if best else {"m": 4096, "n": 4096, "k": 4096}
        axis, step = ("m", "n", "k")[draw(0, 3)], (128, 256, 512, 1024)[draw(0, 4)]
        near[axis] = max(512, near[axis] + (step if draw(0, 2) else -step))
        yield near


WORKLOAD = Workload(
    inputs=inputs,
    reference=reference,
    work=work,
    candidates=candidates,
    variants={
        "fp32": Variant(torch.matmul, dtype="fp32"),
        "tf32": Variant(_tf32, dtype="tf32", prepare=_tf32_inputs),
        "fp16": Variant(torch.matmul, dtype="fp16", prepare=_cast(torch.float16)),
        "bf16": Variant(torch.matmul, dtype="bf16", prepare=_cast(torch.bfloat16)),
        "int8": Variant(_int8, dtype="int8", prepare=_int8_inputs, finish=_dequantize),
        "fp8": Variant(_fp8, dtype="fp8", prepare=_fp8_inputs),
    },
)
