"""Runs the Triton kernels on a CPU, for tests/test_llm_kernels.py: `TRITON_INTERPRET=1 python -m tests.llm_kernels_interpreted`.

Triton looks at that variable when it is imported, so this is a process of its own. Prints, as JSON, how far each kernel was from
the float64 reference on each of CASES: the largest error of an element, relative to itself plus the root mean square.
"""

import json
import sys

import torch

from runner.worker.workload import Context
from workloads.llm_kernels import WORKLOAD
from workloads.llm_kernels.ops import OPS

# Sizes that are no multiples of any tile, and ones that are; more than one program; less than one tile.
SIZES = {
    "odd": {"hidden": 100, "intermediate": 70, "vocab": 37, "heads": 5, "head_dim": 20},
    "even": {"hidden": 256, "intermediate": 128, "vocab": 512, "heads": 4, "head_dim": 16},
    "one": {"hidden": 1, "intermediate": 1, "vocab": 1, "heads": 1, "head_dim": 2},
}
WIDE = {"hidden": 5000, "intermediate": 3, "vocab": 17000, "heads": 40, "head_dim": 8}
"""More columns than a kernel holds at once; more heads than a program takes."""

COUNTS = {"add": 2500, "rmsnorm_flat": 5003, "gemv": 9, "matmul": 20, "embedding": 40}
DTYPES = ["fp32", "fp16", "bf16"]
PARTS = 2
"""Programs that the flat RMSNorm may have here, so that each does several steps; 1,024 would take seconds."""

Case = tuple[str, dict[str, int], int, str]
# The interpreter has no matrix products in bfloat16.
CASES: dict[str, Case] = {
    f"{op} {name} {dtype}": (op, sizes, 1 if name == "one" else COUNTS.get(op, 3), dtype)
    for op in OPS for name, sizes in SIZES.items() for dtype in (DTYPES if name == "odd" else ["fp32"])
    if (op, dtype) != ("matmul", "bf16")
} | {
    f"{op} wide {dtype}": (op, WIDE, count, dtype)
    for op, count in {"gemv": 5, "softmax": 2, "rmsnorm": 2, "rope": 2}.items() for dtype in ("fp32", "bf16")
} | {
    "embedding wide": ("embedding", {**WIDE, "vocab": 7}, 9, "bf16"),
} | {
    f"matmul {m} rows": ("matmul", {**SIZES["odd"], "intermediate": 300}, m, "fp16") for m in (16, 64, 65, 300)
}  # fmt: skip


def measure(case: Case, seed: int) -> float:
    """The largest error on one case; NaN where something was not written."""
    op, sizes, count, dtype = case
    context = Context(torch.device("cpu"), sizes, torch.Generator().manual_seed(seed))
    inputs = WORKLOAD.inputs({"op": op, "dtype": dtype, OPS[op].axis: count}, context)
    variant = WORKLOAD.variants["triton"]
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)  # fills what torch.empty returns with NaN
    found = variant.run(*variant.prepare(inputs)).double()
    torch.use_deterministic_algorithms(False)
    assert WORKLOAD.reference is not None
    expected = WORKLOAD.reference(*inputs)
    assert found.shape == expected.shape
    return float(((found - expected).abs() / (expected.abs() + expected.square().mean().sqrt())).max())


if __name__ == "__main__":
    from workloads.llm_kernels.kernels import rms_norm

    torch.set_num_threads(1)
    rms_norm.MAX_PROGRAMS = PARTS
    json.dump({name: measure(case, seed) for seed, (name, case) in enumerate(CASES.items())}, sys.stdout)
