"""Second part of a decode step: sum the blocks' scores over the heads and choose the best n, in one program for each unit.

Which of several numbers are the best is found by comparing each with each, all at once: taking the largest n times over would
cost n reductions one after the other. For all blocks of a long cache that would be too many comparisons. They are cut into ROWS
rows, and a block that is among the best n stands in a row whose own best is among the rows' best n. So the rows are compared
first, and then only the blocks of n of them: 2 x 128 x 128 comparisons for 1,024 blocks. Numbers change places through memory:
where each thread needs all of them, reading them back is quicker than handing them round.

Beside it, more programs bring the compressed branch's partial sums together, which only the last part needs.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from workloads.nsa.geometry import FORCED_LOCAL, Geometry
from workloads.nsa.kernels.decode_plan import CHUNK, Workspace, rank_table, started_early
from workloads.nsa.kernels.decode_sum import add, outputs

NUM_WARPS = 8
"""One program has to keep a multiprocessor busy alone."""

SCORES_AT_ONCE = 2**15
"""Scores of blocks and heads that it holds: 128 registers in each of 256 threads."""

_FORCED_LOCAL = tl.constexpr(FORCED_LOCAL)


@triton.jit
def _sum_scores(
    scores, score_tops, block_scores, tops, totals, tiles, GROUP: tl.constexpr, SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCKS_PAD: tl.constexpr, GROUP_PAD: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Bring the tiles' scores to one reference, the log-sum-exp of each head, and sum over the heads, TILES tiles at a time."""
    head, split, block = tl.arange(0, GROUP_PAD), tl.arange(0, SPLITS_PAD), tl.arange(0, BLOCKS_PAD)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        there = tile < tiles
        at = (tile[:, None, None] * BLOCKS_PAD + block[None, :, None]) * GROUP_PAD + head[None, None, :]
        of_heads = tl.load(scores + at, mask=there[:, None, None], other=0.0)  # is on its way while the log-sum-exp is computed
        top = tl.load(score_tops + tile[:, None] * GROUP_PAD + head[None, :], mask=there[:, None], other=0.0)
        of_split, known = split[:, None] * GROUP_PAD + head[None, :], (split < SPLITS)[:, None]
        of_tops = tl.load(tops + of_split, mask=known, other=float("-inf"))
        of_totals = tl.load(totals + of_split, mask=known, other=0.0)
        highest = tl.max(of_tops, 0)
        highest = tl.where(highest == float("-inf"), 0.0, highest)
        total = tl.sum(of_totals * tl.exp2(of_tops - highest[None, :]), 0)
        lse = highest + tl.log2(tl.where(total > 0, total, 1.0))
        lse = tl.where(head < GROUP, lse, float("inf"))  # heads that only fill up have no weight
        factor = tl.exp2(top - lse[None, :])
        summed = tl.sum(of_heads * factor[:, None, :], 2)
        to = tile[:, None] * BLOCKS + block[None, :]
        tl.store(block_scores + to, summed, mask=there[:, None] & (block < BLOCKS)[None, :])


@triton.jit
def _rank(score, block, own):
    """A number for each block that is larger the better it is: forced ones first, then by score, then the lower index.

    Scores are not negative, so their bits are ordered as integers are. Blocks that have not begun come last. No two are equal.
    """
    forced = ((block == 0) | (block > own - _FORCED_LOCAL)) & (block <= own)
    bits = tl.where(forced, 0x7F800000, score.to(tl.int32, bitcast=True)).to(tl.int64)
    return tl.where(block <= own, (bits << 32) | (0x7FFFFFFF - block), -1 - block.to(tl.int64))


@triton.jit
def _choose(
    block_scores, ranks, places, blocks, own,
    NUM_SELECT: tl.constexpr, SELECT_PAD: tl.constexpr, ROWS: tl.constexpr, ROW_BLOCKS: tl.constexpr,
):  # fmt: skip
    """Write the best NUM_SELECT of the blocks up to `own`, ascending, then -1."""
    row, column, slot = tl.arange(0, ROWS), tl.arange(0, ROW_BLOCKS), tl.arange(0, SELECT_PAD)
    block = row[:, None] * ROW_BLOCKS + column[None, :]
    score = tl.load(block_scores + block, mask=block <= own, other=0.0)
    best = tl.max(_rank(score, block, own), 1)
    better = tl.sum((best[:, None] > best[None, :]).to(tl.int32), 0)
    tl.store(places + better, row, mask=better < SELECT_PAD)
    tl.debug_barrier()  # between threads, through memory
    candidate = tl.arange(0, SELECT_PAD * ROW_BLOCKS)
    block = tl.load(places + candidate // ROW_BLOCKS) * ROW_BLOCKS + candidate % ROW_BLOCKS
    score = tl.load(block_scores + block, mask=block <= own, other=0.0)
    tl.store(ranks + candidate, _rank(score, block, own))
    tl.debug_barrier()  # read back, they are where the comparison wants them; converted, each thread would gather its own
    better = tl.sum((tl.load(ranks + candidate)[:, None] > tl.load(ranks + candidate)[None, :]).to(tl.int32), 0)
    tl.store(places + better, block, mask=better < SELECT_PAD)
    tl.debug_barrier()
    count = tl.minimum(NUM_SELECT, own + 1)
    chosen = tl.load(places + slot)
    chosen = tl.where(slot < count, chosen, 0x7FFFFFFF)
    place = tl.sum((chosen[:, None] < chosen[None, :]).to(tl.int32), 0)
    tl.store(blocks + place, chosen, mask=slot < count)
    tl.store(blocks + slot, tl.full([SELECT_PAD], -1, tl.int32), mask=(slot >= count) & (slot < NUM_SELECT))


@triton.jit
def _decode_choose(
    ends, sums, tops, totals, scores, score_tops, block_scores, ranks, places, blocks, compressed, tiles_room,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, V_DIM: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, SELECT_PAD: tl.constexpr,
    BLOCKS: tl.constexpr, BLOCKS_PAD: tl.constexpr, TILES: tl.constexpr, ROWS: tl.constexpr, ROW_BLOCKS: tl.constexpr,
    SPLITS: tl.constexpr, SPLITS_PAD: tl.constexpr, CHUNK: tl.constexpr, OUTPUTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """The first program of a unit chooses, each other one brings OUTPUTS sums together."""
    part, unit = tl.program_id(0), tl.program_id(1).to(tl.int64)
    end = tl.load(ends + unit // KV_HEADS).to(tl.int32)
    own = (end - 1) // SELECT_LEN
    tiles = own // BLOCKS + 1
    if EARLY:
        gdc_launch_dependents()
        gdc_wait()  # until here nothing was read that the first part writes
    if part == 0:
        first = unit * tiles_room
        block_scores += first * BLOCKS
        _sum_scores(
            scores + first * BLOCKS_PAD * GROUP_PAD, score_tops + first * GROUP_PAD, block_scores,
            tops + unit * SPLITS * GROUP_PAD, totals + unit * SPLITS * GROUP_PAD, tiles,
            GROUP, SPLITS, SPLITS_PAD, BLOCKS, BLOCKS_PAD, GROUP_PAD, TILES,
        )  # fmt: skip
        tl.debug_barrier()  # other threads wrote the scores that one reads
        _choose(
            block_scores, ranks + unit * SELECT_PAD * ROW_BLOCKS, places + unit * SELECT_PAD, blocks + unit * NUM_SELECT, own,
            NUM_SELECT, SELECT_PAD, ROWS, ROW_BLOCKS,
        )  # fmt: skip
    else:
        index = (part - 1) * OUTPUTS + tl.arange(0, OUTPUTS)
        found = add(sums, tops, totals, unit * SPLITS, index, index % GROUP_PAD, SPLITS, V_DIM * GROUP_PAD, GROUP_PAD, CHUNK)
        tl.store(compressed + unit * V_DIM * GROUP_PAD + index, found)


def decode_choose(ends: Tensor, workspace: Workspace, kv_heads: int, group: int, geometry: Geometry) -> Tensor:
    """Return the chosen blocks [B, Hkv, 1, n] int32, ascending, then -1, from what `decode_compressed` left; `ends` [B]."""
    cut, units = workspace.plan, len(workspace.places)
    _, tiles, blocks_pad, group_pad = workspace.scores.shape
    parts, v_dim, select_pad = workspace.parts, workspace.compressed.shape[1], triton.next_power_of_2(geometry.num_select)
    rows, row_blocks = rank_table(cut.room_blocks, select_pad)
    blocks = torch.empty(units // kv_heads, kv_heads, 1, geometry.num_select, dtype=torch.int32, device=ends.device)
    splits = parts.tops.shape[1]
    of_each = outputs(v_dim * group_pad, NUM_WARPS)
    _decode_choose[(1 + v_dim * group_pad // of_each, units)](
        ends, parts.sums, parts.tops, parts.totals, workspace.scores, workspace.score_tops, workspace.block_scores,
        workspace.ranks, workspace.places, blocks, workspace.compressed, tiles,
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=group_pad, V_DIM=v_dim,
        SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select, SELECT_PAD=select_pad,
        BLOCKS=cut.blocks, BLOCKS_PAD=blocks_pad,
        TILES=max(1, min(triton.next_power_of_2(tiles), SCORES_AT_ONCE // (group_pad * blocks_pad))),
        ROWS=rows, ROW_BLOCKS=row_blocks, SPLITS=splits, SPLITS_PAD=triton.next_power_of_2(splits),
        CHUNK=CHUNK, OUTPUTS=of_each, num_warps=NUM_WARPS, **started_early(ends.device),
    )  # fmt: skip
    return blocks
