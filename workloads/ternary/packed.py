"""Weights packed: four a byte, which kernels compute on; five a byte, unpacked for a dense matmul in each call."""

from typing import Any

import torch
from torch import Tensor

from runner.worker.compilers import check_triton
from runner.worker.workload import Incorrect, Variant
from workloads.ternary.forms import Hold, form, linear
from workloads.ternary.packing import pack2bit, pack5, trits, unpack2bit, unpack5


def _same_weights(unpacked: Tensor, weights: Tensor) -> None:
    """Raise Incorrect where packing lost something: the bytes that are counted must hold the weights."""
    if not torch.equal(unpacked.to(torch.int8), weights):
        raise Incorrect("the packed weights don't unpack to the weights of the layer")


def _two_bits(eight: bool) -> Hold:
    def hold(x: Tensor, weights: Tensor, scale: Tensor) -> tuple[Any, ...]:
        check_triton(x.device, "use packed5")
        from workloads.ternary import kernels

        packed = pack2bit(weights)
        _same_weights(unpack2bit(packed, weights.shape[1]), weights)
        compute = kernels.chosen(len(x), len(weights), weights.shape[1], eight, x.device)
        return x.to(torch.bfloat16), packed, float(scale), compute

    return hold


def _packed2bit(x: Tensor, packed: Tensor, scale: float, compute: Any) -> Tensor:
    """Activations come in 16 bits: where they are rounded to int8, that is in the time."""
    output: Tensor = compute(x, packed, scale)
    return output


def _five(x: Tensor, weights: Tensor, scale: Tensor) -> tuple[Any, ...]:
    packed, table = pack5(weights), trits(torch.bfloat16, weights.device)
    _same_weights(unpack5(packed, table, weights.shape[1]), weights)
    return x.to(torch.bfloat16), packed, float(scale), table


def _packed5(x: Tensor, packed: Tensor, scale: float, table: Tensor) -> Tensor:
    return linear(x, unpack5(packed, table, x.shape[1]), scale)


VARIANTS: dict[str, Variant] = {
    "packed2bit": form(_packed2bit, _two_bits(eight=False), "bf16", "packed2bit"),
    "packed2bit_int8": form(_packed2bit, _two_bits(eight=True), "int8", "packed2bit"),
    "packed5": form(_packed5, _five, "bf16", "packed5"),
}
