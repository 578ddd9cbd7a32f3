"""gemlite's kernels (github.com/mobiusml/gemlite), in Triton with autotuning: its own BitNet layers, given the same weights."""

from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Incorrect, Unsupported, Variant
from workloads.ternary.forms import form


def _layer(name: str, x: Tensor, weights: Tensor, scale: Tensor) -> tuple[Any, ...]:
    """Return x in bf16, gemlite's packed weights, and its layer, tuned for this many rows."""
    if x.device.type != "cuda":
        raise Unsupported("gemlite's kernels need a GPU")
    try:
        from gemlite import helper
    except ImportError as error:
        raise Unsupported("gemlite isn't installed here: pip install gemlite") from error
    if weights.shape[1] % 32 or weights.shape[0] % 32:
        raise Unsupported(f"gemlite's layers need sizes divisible by 32, not {tuple(weights.shape)}")
    layer = getattr(helper, name)(device=x.device, dtype=torch.bfloat16).from_weights(weights.to(torch.bfloat16), scale)
    layer = layer.to(x.device)
    packed = layer.W_q
    if packed.nbytes != weights.numel() / 4:
        raise Incorrect(f"gemlite holds {packed.nbytes} bytes of weights, not a quarter of a byte each")
    rows = x.to(torch.bfloat16)
    layer(rows)  # tunes: some seconds
    return rows, packed, layer


def _run(x: Tensor, packed: Tensor, layer: Any) -> Tensor:
    output: Tensor = layer(x)
    return output


VARIANTS: dict[str, Variant] = {
    "gemlite": form(_run, lambda x, w, scale: _layer("A16W158_INT", x, w, scale), "bf16", "packed2bit"),
    "gemlite_int8": form(_run, lambda x, w, scale: _layer("A8W158_INT_dynamic", x, w, scale), "int8", "packed2bit"),
}
