"""The best n blocks of every query: halve the range in which the last of them scores, then write those above it in order.

A row of scores is read once. The forced blocks are in anyway, so n - 3 others are wanted. Scores are sums of weights, never
negative, and the bits of such floats are ordered as whole numbers: counting how many are at least some number, and halving the
range of that number, finds the score of the last block in 31 counts at most, and stops as soon as the count is right.
Equal scores are settled by index, with a running count, which gives all of them their places in order without a sort too.

A count is one `redux` instruction of a warp on SM 8.0 and newer. One warp has a row of up to 2,048 blocks, so nothing waits at a
barrier; rows whose query stands early, with few blocks behind it, look at a quarter or half of the width.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry


@triton.jit
def _best(scores, blocks, own, SELECTED: tl.constexpr, WIDTH: tl.constexpr):
    """Write the best SELECTED of the blocks 0..own < WIDTH, from their scores, in ascending order; own >= SELECTED."""
    block = tl.arange(0, WIDTH)
    forced = ((block == 0) | (block > own - 2)) & (block <= own)
    free = (block > 0) & (block < own - 1)
    score = tl.load(scores + block, mask=free, other=0.0)
    key = tl.where(free, tl.maximum(score.to(tl.int32, bitcast=True), 0), -1)
    wanted: tl.constexpr = SELECTED - 3
    above = tl.max(key, 0) + 1  # fewer than `wanted` are at least this
    least = tl.maximum(above - 33554432, 0)  # at least `wanted` are this: the largest / 16, or 0
    found = tl.sum((key >= least).to(tl.int32), 0)
    least = tl.where(found >= wanted, least, 0)
    while (above - least > 1) & (found != wanted):
        middle = least + (above - least) // 2
        many = tl.sum((key >= middle).to(tl.int32), 0)
        above = tl.where(many >= wanted, above, middle)
        found = tl.where(many >= wanted, many, found)
        least = tl.where(many >= wanted, middle, least)
    better, equal = forced | (key > least), key == least
    spare = SELECTED - tl.sum(better.to(tl.int32), 0)
    taken = better | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= spare))
    place = tl.cumsum(taken.to(tl.int32), 0) - 1
    tl.store(blocks + place, block, mask=taken)


@triton.jit
def _choose(
    scores, positions, blocks, queries, num_blocks,
    KV_HEADS: tl.constexpr, SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, SLOTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """The best NUM_SELECT blocks of one query and KV head."""
    row = tl.program_id(0).to(tl.int64)
    batch = row // (KV_HEADS * queries)
    own = tl.load(positions + batch * queries + row % queries) // SELECT_LEN
    slot = tl.arange(0, SLOTS)
    blocks += row * NUM_SELECT
    if own < NUM_SELECT:
        tl.store(blocks + slot, tl.where(slot <= own, slot, -1), mask=slot < NUM_SELECT)
    elif own < WIDTH // 4:
        _best(scores + row * num_blocks, blocks, own, NUM_SELECT, WIDTH // 4 if WIDTH >= 128 else WIDTH)
    elif own < WIDTH // 2:
        _best(scores + row * num_blocks, blocks, own, NUM_SELECT, WIDTH // 2 if WIDTH >= 64 else WIDTH)
    else:
        _best(scores + row * num_blocks, blocks, own, NUM_SELECT, WIDTH)


def choose(scores: Tensor, positions: Tensor, geometry: Geometry) -> Tensor:
    """Return the chosen blocks [B, Hkv, S, n] int32, ascending, then -1; `positions` [B, S] int32 of the queries.

    Forced blocks, ties and blocks that have not begun are treated as in the reference; scores are not negative.
    """
    batch, kv_heads, queries, num_blocks = scores.shape
    blocks = torch.empty(batch, kv_heads, queries, geometry.num_select, dtype=torch.int32, device=scores.device)
    width = max(32, triton.next_power_of_2(num_blocks))
    _choose[(batch * kv_heads * queries,)](
        scores, positions, blocks, queries, num_blocks,
        KV_HEADS=kv_heads, SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select,
        SLOTS=triton.next_power_of_2(geometry.num_select), WIDTH=width, num_warps=max(1, min(8, width // 2048)),
    )  # fmt: skip
    return blocks
