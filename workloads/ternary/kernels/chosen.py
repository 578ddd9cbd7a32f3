"""Which kernel computes a layer: the CUDA one for a few rows on a GPU, Triton's for more and where that can't be had.

From some hundred rows on a product with 16-bit activations is slower from packed weights than unpacking them first, for cuBLAS.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from workloads.ternary.kernels.few import Chip, few, kernel
from workloads.ternary.kernels.layer import layer
from workloads.ternary.kernels.plan import plan
from workloads.ternary.kernels.rows import int8_rows
from workloads.ternary.kernels.unpacked import unpacked_linear
from workloads.ternary.packing import GROUP, GROUP_BYTES

Compute = Callable[[Tensor, Tensor, float], Tensor]
"""From bf16 activations [m, k], packed weights [n, k] and their scale to the layer's output [m, n] in bf16."""

INTERPRETED_PROCESSORS = 8
MOST_PACKED = 256
"""Rows of 16-bit activations that weights are multiplied with as they are packed."""


def chosen(m: int, n: int, k: int, eight: bool, device: torch.device) -> Compute:
    """Return what computes m rows through n x k weights; `eight`: activations are rounded to int8 in it.

    The CUDA kernel is compiled here. Where NVRTC is missing, a warning says so and the Triton kernels take over.
    """
    processors = INTERPRETED_PROCESSORS
    if device.type == "cuda":
        chip = Chip.of(device)
        processors = chip.processors
        way = few(m, n, k, eight, chip)
        if way is not None:
            try:
                return kernel(m, n, k, eight, way, torch.cuda.current_device() if device.index is None else device.index)
            except (AttributeError, OSError, RuntimeError) as error:
                warnings.warn(f"the CUDA kernel for few rows was not to be had, so Triton's is used: {error}", stacklevel=2)
    if m > MOST_PACKED and not eight:
        return unpacked_linear
    tiles = plan(m, n, -(-k // GROUP) * GROUP_BYTES, processors)

    def in_16_bits(x: Tensor, packed: Tensor, scale: float) -> Tensor:
        return layer(x, packed, scale, tiles, x.dtype)

    def in_8_bits(x: Tensor, packed: Tensor, scale: float) -> Tensor:
        rounded, row_scales = int8_rows(x)
        return layer(rounded, packed, scale, tiles, x.dtype, row_scales)

    return in_8_bits if eight else in_16_bits
