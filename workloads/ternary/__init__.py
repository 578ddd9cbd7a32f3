"""A linear layer with ternary weights: y = x W^T * scale, W in {-1, 0, 1} and one scale (BitNet b1.58, arXiv 2402.17764).

| module | idea |
|---|---|
| quantize | from real numbers to ternary weights and to int8 rows |
| packing | four weights a byte, or five |
| problem | the inputs of a case, the truth, the least work |
| forms | what every way of holding the weights has in common, and the variants' figures |
| dense | one number a weight: the reports' way, and dense matmuls |
| packed | weights packed: kernels on them, or unpacked for a dense matmul |
| peers | gemlite's kernels, for comparison |
| kernels | the kernels and how a layer is cut up for them |
"""

from runner.worker.workload import Workload
from workloads.ternary import problem
from workloads.ternary.dense import VARIANTS as DENSE
from workloads.ternary.packed import VARIANTS as PACKED
from workloads.ternary.peers import VARIANTS as PEERS

WORKLOAD = Workload(
    inputs=problem.inputs,
    reference=problem.reference,
    work=problem.OPERATIONS["dense"].work,
    operations=problem.OPERATIONS,
    variants={**DENSE, **PACKED, **PEERS},
)
