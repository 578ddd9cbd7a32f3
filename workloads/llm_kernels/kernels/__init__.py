"""A Triton kernel for each operation, as plain as it can be: tiles follow from a rule, nothing is tuned by trying.

With TRITON_INTERPRET=1 they run on a CPU, slowly, which is how they are tested without a GPU. All tensors are contiguous.
"""

from workloads.llm_kernels.kernels.elementwise import add, swiglu
from workloads.llm_kernels.kernels.embedding import embedding
from workloads.llm_kernels.kernels.gemv import gemv
from workloads.llm_kernels.kernels.matmul import matmul
from workloads.llm_kernels.kernels.rms_norm import rmsnorm, rmsnorm_flat
from workloads.llm_kernels.kernels.rope import rope
from workloads.llm_kernels.kernels.softmax import softmax

__all__ = ["add", "embedding", "gemv", "matmul", "rmsnorm", "rmsnorm_flat", "rope", "softmax", "swiglu"]
