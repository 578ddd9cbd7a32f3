"""Kernels on weights packed four a byte: for a few rows of activations in CUDA C++, for one or a tile of rows in Triton.

| module | idea |
|---|---|
| chosen | which of them computes a layer |
| few, few.cu | up to 16 rows at the pace of the memory: its launch and plan, and the kernel |
| codes | from packed words to numbers, in Triton |
| rows | activations to int8, a scale a row |
| vector, tile | one row by products and sums; several by tensor cores |
| unpacked | many rows: to 16-bit weights, for a dense product |
| plan, layer | how a layer is cut into their programs, and the sum where its depth was dealt to several |

With TRITON_INTERPRET=1 the Triton kernels run on a CPU, slowly, which is how they are tested without a GPU.
"""

from workloads.ternary.kernels.chosen import chosen
from workloads.ternary.kernels.layer import layer
from workloads.ternary.kernels.plan import Plan, plan
from workloads.ternary.kernels.rows import int8_rows

__all__ = ["Plan", "chosen", "int8_rows", "layer", "plan"]
