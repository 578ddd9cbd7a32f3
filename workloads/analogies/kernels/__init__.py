"""Triton kernels of the analogies workload; import them only where Triton is."""

from workloads.analogies.kernels.scores import scores

__all__ = ["scores"]
