"""Native Sparse Attention (arXiv 2502.11089): reference, branches and stages, prefill and decode, dispatch thresholds.

| module | idea |
|---|---|
| geometry | lengths, block counts and the closed forms of what is read |
| reference | the paper's equations in float64 |
| problem | the inputs of a case, shared by all workloads here |
| dense, sliding, compressed, selected | one attention each, in every way that this software has |
| selection | scores of blocks, and the choice of the best n |
| kernels | the Triton kernels: block scores, selected attention |
| flash, flex | FlashAttention-2 and FlexAttention as PyTorch ships them |
| prefill, decode, thresholds | the three workloads |
"""
