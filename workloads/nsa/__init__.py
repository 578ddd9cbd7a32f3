"""Native Sparse Attention (arXiv 2502.11089): reference, branches and stages, prefill and decode, dispatch thresholds.

| module | idea |
|---|---|
| geometry | lengths, block counts and the closed forms of what is read |
| reference | the paper's equations in float64 |
| problem, operations | the inputs of a case; what is computed: truth, least work, keys read |
| dense, sliding, compressed, selected | one attention each, in every way that this software has |
| selection, combine | scores of blocks and the choice of the best n; the gate |
| whole | all of it for a prompt |
| peer | fla-core's kernels, for comparison |
| cache, step | a decoding step's cache, and the same stages on it |
| kernels | the Triton kernels: block scores, choice, selected attention |
| flash, flex, sdpa | FlashAttention-2, FlexAttention and scaled dot-product attention as PyTorch ships them |
| variants | from a function to a variant, forward or forward and backward |
| prefill, decode | the two modules that workloads name |
"""
