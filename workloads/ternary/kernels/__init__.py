"""Triton kernels on weights packed four a byte: for one row of activations, for a tile of rows, and from activations to int8.

With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they are tested without a GPU.
"""

from workloads.ternary.kernels.layer import layer
from workloads.ternary.kernels.plan import Plan, plan
from workloads.ternary.kernels.rows import int8_rows

__all__ = ["Plan", "int8_rows", "layer", "plan"]
