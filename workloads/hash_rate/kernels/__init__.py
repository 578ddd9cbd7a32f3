"""The Triton kernel of hash_rate. With TRITON_INTERPRET=1 it runs on a CPU, slowly, which is how it is tested without a GPU."""

from workloads.hash_rate.kernels.sha256d import fold, sha256d

__all__ = ["fold", "sha256d"]
