"""A tile of keys and values of a decode step, and one step of its softmax: keys are rows, the heads of a group columns."""

import triton
import triton.language as tl


@triton.jit
def load_tile(
    k, v, token, there, k_token, v_token,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM: tl.constexpr, V_DIM_PAD: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """The keys and values of these tokens [rows, ...], zeros where they are not `there`."""
    dim, v_dim = tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    at_k = k + token[:, None].to(tl.int64) * k_token + dim[None, :]
    keys = tl.load(at_k, mask=there[:, None] & (dim < DIM)[None, :], other=0.0)
    at_v = v + token[:, None].to(tl.int64) * v_token + v_dim[None, :]
    values = tl.load(at_v, mask=there[:, None] & (v_dim < V_DIM)[None, :], other=0.0)
    return keys, values


@triton.jit
def soften(products, seen, top) -> tl.tuple:
    """The columns' new maxima, what weights are relative to (0: nothing was seen), the weights, and what shrinks old sums."""
    products = tl.where(seen, products, float("-inf"))
    new_top = tl.maximum(top, tl.max(products, 0))
    reference = tl.where(new_top == float("-inf"), 0.0, new_top)
    return new_top, reference, tl.exp2(products - reference[None, :]), tl.exp2(top - reference)
