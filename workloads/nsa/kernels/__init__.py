"""Triton kernels for what no library call covers, or covers more slowly.

Pooling, attention over a band of keys, block scores, the choice of the best n blocks, attention over them, and the gate;
`decode_*` are those of a decoding step.

One file each. With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they are tested without a GPU.
"""

from workloads.nsa.kernels.band import band
from workloads.nsa.kernels.block_scores import block_scores
from workloads.nsa.kernels.by_block import by_block, pays
from workloads.nsa.kernels.choose import choose
from workloads.nsa.kernels.gate import gate
from workloads.nsa.kernels.pool import pool
from workloads.nsa.kernels.selected import selected

__all__ = ["band", "block_scores", "by_block", "choose", "gate", "pays", "pool", "selected"]
