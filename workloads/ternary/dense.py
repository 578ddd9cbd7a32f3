"""One number a weight: the reports' two masked matmuls, and dense matmuls in four precisions."""

import torch
from torch import Tensor

from runner.worker.workload import Unsupported, Variant
from workloads.ternary.forms import Hold, form, linear
from workloads.ternary.quantize import absmax_rows


def _decomposed(x: Tensor, weights: Tensor, scale: Tensor) -> Tensor:
    """The reports' way: what adds and what subtracts, each as a dense fp32 matmul with a mask that is made anew in each call."""
    return (x @ (weights == 1).float().t() - x @ (weights == -1).float().t()) * scale


def _cast(dtype: torch.dtype) -> Hold:
    return lambda x, weights, scale: (x.to(dtype), weights.to(dtype), float(scale))


def _int8_inputs(x: Tensor, weights: Tensor, scale: Tensor) -> tuple[Tensor, ...]:
    (m, k), n = x.shape, weights.shape[0]
    if x.device.type == "cuda" and (m <= 16 or k % 8 or n % 8):
        raise Unsupported(f"torch._int_mm needs m > 16 and n, k divisible by 8, not m={m} n={n} k={k}; use packed2bit_int8")
    rounded, scales = absmax_rows(x)
    return rounded, weights, scales * scale


def _int8(x: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    product: Tensor = torch._int_mm(x, weights.t())
    return product


def _rescaled(product: Tensor, x: Tensor, weights: Tensor, scales: Tensor) -> Tensor:
    return product.double() * scales.double()


VARIANTS: dict[str, Variant] = {
    "decomposed": form(_decomposed, lambda x, weights, scale: (x, weights, scale), "fp32", "decomposed"),
    "dense_fp32": form(linear, _cast(torch.float32), "fp32"),
    "dense_fp16": form(linear, _cast(torch.float16), "fp16"),
    "dense_bf16": form(linear, _cast(torch.bfloat16), "bf16"),
    "dense_int8": form(_int8, _int8_inputs, "int8", finish=_rescaled),
}
