"""The ternary weights that a quantised layer of transformers really multiplies with, by this project's own arithmetic.

There are three kinds: `AutoBitLinear` online (master weights, quantised at every call), `AutoBitLinear` offline (weights -1, 0
and 1, and a scale), `BitLinear` (four weights in a byte, and the reciprocal of the scale).
"""

from typing import Any

import torch
from torch import Tensor

PER_BYTE = 4
SMALLEST = 1e-5
"""Scales are held above this, as transformers does (BitNet b1.58, arXiv 2402.17764, equations 1 to 3)."""


def kind(layer: Any) -> str:
    """Return `online`, `offline`, `packed`, or `dense` for a layer that quantises nothing."""
    name = type(layer).__name__
    if name == "AutoBitLinear":
        return "online" if layer.online_quant else "offline"
    return "packed" if name == "BitLinear" else "dense"


def weights(layer: Any) -> tuple[Tensor, Tensor]:
    """Return a layer's weights as they enter the product, [out, in], and the scale that the product is multiplied by.

    They are -1, 0 and 1 if the layer is what it should be; float32 and float64.
    """
    found = kind(layer)
    if found == "packed":
        return unpack(layer.weight), 1 / layer.weight_scale.double()
    weight = layer.weight.detach().float()
    if found == "offline":
        return weight, layer.weight_scale.double()
    if found == "online":
        inverse = 1 / weight.abs().mean().clamp(min=SMALLEST)
        return (weight * inverse).round().clamp(-1, 1), 1 / inverse.double()
    return weight, torch.ones((), dtype=torch.float64, device=weight.device)


def unpack(packed: Tensor) -> Tensor:
    """Return [4 n, in] float32 from [n, in] bytes: bits 2 i and 2 i + 1 hold rows i n to (i + 1) n, as the weight plus 1."""
    shifts = torch.arange(PER_BYTE, device=packed.device, dtype=torch.uint8) * 2
    levels = (packed[None] >> shifts[:, None, None]) & 3
    return levels.flatten(0, 1).float() - 1


def fault(layer: Any) -> str | None:
    """Say why a layer is not ternary, None when it is."""
    if kind(layer) == "dense":
        return f"is a {type(layer).__name__}, which quantises neither weights nor activations"
    found, scale = weights(layer)
    if not bool(torch.isfinite(scale).all()) or not bool((scale != 0).all()):
        return "has a scale that is zero or not finite"
    if not bool(((found == 0) | (found.abs() == 1)).all()):
        values = found.unique()
        return f"has {len(values)} distinct weights from {values[0]:.3g} to {values[-1]:.3g}, not -1, 0 and 1"
    return None if bool(found.any()) else "has no weight but zeros"
