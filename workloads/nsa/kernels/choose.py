"""The best n blocks of every query: take the largest score again and again, in registers, then write them in order.

A row of scores is read once, n - 3 reductions over it are cheap beside that, and counting the taken ones gives each its place in
ascending order without a sort.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry


@triton.jit
def _choose(
    scores, positions, blocks, queries, num_blocks,
    KV_HEADS: tl.constexpr, SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The best NUM_SELECT blocks of one query and KV head."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // (KV_HEADS * queries)
    own = tl.load(positions + batch * queries + row % queries) // SELECT_LEN
    block = tl.arange(0, WIDTH)
    score = tl.load(scores + row * num_blocks + block, mask=block <= own, other=float("-inf"))
    forced = (block == 0) | ((block > own - 2) & (block <= own))
    score = tl.where(forced & (block <= own), float("inf"), score)
    taken = tl.zeros([WIDTH], dtype=tl.int32)
    for _ in range(tl.minimum(NUM_SELECT, own + 1)):
        best = tl.argmax(score, 0, tie_break_left=True)
        taken = tl.where(block == best, 1, taken)
        score = tl.where(block == best, float("-inf"), score)
    place = tl.cumsum(taken, 0) - 1
    tl.store(blocks + row * NUM_SELECT + place, block, mask=taken == 1)


def choose(scores: Tensor, positions: Tensor, geometry: Geometry) -> Tensor:
    """Return the chosen blocks [B, Hkv, S, n] int32, ascending, then -1; `positions` [B, S] int32 of the queries.

    Forced blocks, ties and blocks that have not begun are treated as in the reference.
    """
    batch, kv_heads, queries, num_blocks = scores.shape
    blocks = torch.full((batch, kv_heads, queries, geometry.num_select), -1, dtype=torch.int32, device=scores.device)
    width = triton.next_power_of_2(num_blocks)
    _choose[(batch * kv_heads * queries,)](
        scores, positions, blocks, queries, num_blocks,
        KV_HEADS=kv_heads, SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select, WIDTH=width,
        num_warps=max(1, min(8, width // 512)),
    )  # fmt: skip
    return blocks
