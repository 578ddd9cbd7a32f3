"""Rows of a prompt's matrix products: TOKENS neighbouring queries times the heads of a group, padded, since they share keys."""

import triton
import triton.language as tl


@triton.jit
def rows_of(
    q, q_batch, q_token, q_head, batch, kv_head, first_token, seq_len,
    GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, TOKENS: tl.constexpr, DIM: tl.constexpr, DIM_PAD: tl.constexpr,
) -> tl.tuple:  # fmt: skip
    """Each row's token, member of the group and query head, whether there is such a query, and the queries [rows, DIM_PAD]."""
    row, dim = tl.arange(0, TOKENS * GROUP_PAD), tl.arange(0, DIM_PAD)
    token, member = first_token + row // GROUP_PAD, row % GROUP_PAD
    head = kv_head * GROUP + member
    real = (token < seq_len) & (member < GROUP)
    at = q + batch * q_batch + token[:, None].to(tl.int64) * q_token + head[:, None] * q_head + dim[None, :]
    return token, member, head, real, tl.load(at, mask=real[:, None] & (dim[None, :] < DIM), other=0.0)
