"""Runs the ternary kernels on a CPU, for tests/test_ternary.py: `TRITON_INTERPRET=1 python -m tests.ternary_interpreted`.

Triton looks at that variable when it is imported, so this is a process of its own. Prints, as JSON, the relative L2 error of each
of CASES against float64, and of whole variants.
"""

import json
import random
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from runner.worker.workload import Context
from workloads.ternary import WORKLOAD
from workloads.ternary.packing import pack2bit
from workloads.ternary.quantize import absmax_rows

SCALE = 0.7
VARIANTS = [("packed2bit", 1), ("packed2bit", 257), ("packed2bit_int8", 1), ("packed2bit_int8", 20)]
"""And how many rows: the interpreter has no matrix products in bfloat16."""


@dataclass(frozen=True)
class Layer:
    """m rows through n x k weights, on a GPU of so many multiprocessors."""

    m: int
    n: int
    k: int
    dtype: str = "float32"
    processors: int = 1


def drawn(seed: int) -> Layer:
    """Draw a shape, the same for the same seed."""
    pick = random.Random(seed)
    m = pick.randint(2, 90) if seed % 2 else 1
    dtype, processors = pick.choice(["float32", "float16", "int8"]), pick.choice([1, 40])
    return Layer(m, pick.randint(1, 100), pick.randint(1, 900), dtype, processors)


CASES = {
    "one row": Layer(1, 16, 512),
    "one row, fp16": Layer(1, 16, 512, "float16"),
    "one row, int8": Layer(1, 16, 512, "int8"),
    "one row, odd sizes": Layer(1, 13, 333),
    "one row, several steps": Layer(1, 9, 5000),
    "one row, its depth dealt to programs": Layer(1, 9, 5000, processors=40),
    "one weight": Layer(1, 1, 1),
    "two rows": Layer(2, 64, 512),
    "16 rows": Layer(16, 64, 512, "float16"),
    "17 rows, odd sizes": Layer(17, 33, 257),
    "17 rows, int8": Layer(17, 33, 257, "int8"),
    "64 rows, depth dealt, int8": Layer(64, 70, 1000, "int8", 40),
    "65 rows, odd sizes": Layer(65, 131, 129, "float16"),
    "130 rows, depth dealt": Layer(130, 130, 300, "float32", 40),
} | {f"random {seed}": drawn(seed) for seed in range(6)}


def fenced(x: Tensor, beyond: float) -> Tensor:
    """Return the same values with `beyond` behind them in memory, where no kernel may look."""
    room = torch.full((x.numel() + 4096,), beyond).to(x.dtype)
    room[: x.numel()] = x.flatten()
    return room[: x.numel()].view(x.shape)


def error(found: Tensor, truth: Tensor) -> float:
    """Return the relative L2 error, absolute where the truth is zero."""
    return float((found.double() - truth).norm() / (truth.norm() or 1))


def measure(layer: Layer, seed: int) -> dict[str, float]:
    """Return the error of the layer and how its depth was dealt; for int8 also how far activations are from x, in steps."""
    from workloads.ternary import kernels

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layer.m, layer.k, generator=generator)
    weights = torch.randint(-1, 2, (layer.n, layer.k), generator=generator, dtype=torch.int8)
    packed = pack2bit(weights)
    plan = kernels.plan(layer.m, layer.n, packed.shape[1], layer.processors)
    errors: dict[str, float] = {"splits": plan.splits}
    if layer.dtype == "int8":
        rounded, row_scales = kernels.int8_rows(fenced(x, torch.nan))
        place = [k // 256 * 256 + k % 128 // 32 * 64 + k % 32 * 2 + k % 256 // 128 for k in range(layer.k)]
        assert rounded.shape[1] == packed.shape[1] * 4
        assert int((rounded != 0).sum()) == int((rounded[:, place] != 0).sum())
        given, rounded = fenced(rounded, 127), rounded[:, place]
        values = rounded.double() * row_scales[:, None].double()
        errors["rounding"] = float(((values - x.double()).abs() / row_scales[:, None].double()).max())
        errors["largest"] = float((rounded.abs().amax(1) - absmax_rows(x)[0].abs().amax(1)).abs().max())
    else:
        given, row_scales = fenced(x.to(getattr(torch, layer.dtype)), torch.nan), None
        values = given.double()
    found = kernels.layer(given, fenced(packed, 255), SCALE, plan, torch.float32, row_scales)
    return errors | {"layer": error(found, values @ weights.double().t() * SCALE)}


def unpacking(n: int, k: int, dtype: torch.dtype) -> bool:
    """Whether the weights come back from unpacking, and nothing is written beside them."""
    from workloads.ternary.kernels import unpacked

    weights = torch.randint(-1, 2, (n, k), generator=torch.Generator().manual_seed(n), dtype=torch.int8)
    return torch.equal(unpacked.unpack(fenced(pack2bit(weights), 255), k, dtype), 2 * weights.to(dtype))


def variant(name: str, m: int) -> float:
    """Return the error of a variant of the workload, from its inputs on."""
    given = WORKLOAD.inputs(
        {"m": m, "layer": "odd"}, Context(torch.device("cpu"), {"layers": {"odd": [100, 700]}}, torch.Generator().manual_seed(m))
    )
    chosen = WORKLOAD.variants[name]
    prepared = chosen.prepare(given)
    output = chosen.run(*prepared)
    assert output.dtype == torch.bfloat16
    assert chosen.figures is not None
    figures = chosen.figures(output, prepared)
    assert round(figures["weight_mb"].value * 1e6) == 100 * 3 * 64
    return figures["rel_error"].value


if __name__ == "__main__":
    torch.set_num_threads(1)
    found = {name: measure(layer, seed) for seed, (name, layer) in enumerate(CASES.items())}
    unpacked = [unpacking(n, k, dtype) for n, k in ((1, 1), (7, 300), (40, 512)) for dtype in (torch.float16, torch.bfloat16)]
    json.dump({"kernels": found, "variants": [variant(*one) for one in VARIANTS], "unpacked": unpacked}, sys.stdout)
