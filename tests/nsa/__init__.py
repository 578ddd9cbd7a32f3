"""Native Sparse Attention: the equations, the branches, decoding, the kernels, and the requests that use them."""
