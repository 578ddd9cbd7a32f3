"""Triton kernels for what no library call covers: block scores, the choice of the best n blocks, and attention over them.

One file each. With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they are tested without a GPU.
"""

from workloads.nsa.kernels.block_scores import block_scores
from workloads.nsa.kernels.choose import choose
from workloads.nsa.kernels.selected import selected

__all__ = ["block_scores", "choose", "selected"]
