"""Which queries chose a block: the choice [queries, n] turned round into one list for each chunk of queries, KV head and block.

Only *far* blocks are listed: those between the first block and the one before the query's own. They lie behind the query as a
whole, so attention over them needs no mask. The forced blocks are left to `merge`, where neighbouring queries share them.

Two passes and a cumulative sum: every pair counts itself in its list, which tells it its place there, and once all lists' lengths
are known it writes itself to that place. The order within a list depends on which program came first; nothing that is computed
from a list does, since each of its queries is a row of its own.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.nsa.geometry import Geometry

LIST_PAIRS = 1024
"""Pairs of query and slot that a program counts."""


@triton.jit
def _pairs(
    blocks, seq_len, num_blocks,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, CHUNK: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """The program's pairs, where each is in `blocks`, whether its block is far, and which list it then belongs to."""
    head = tl.program_id(1)
    pair = tl.program_id(0) * PAIRS + tl.arange(0, PAIRS)
    token = pair // NUM_SELECT
    at = head.to(tl.int64) * seq_len * NUM_SELECT + pair
    block = tl.load(blocks + at, mask=token < seq_len, other=-1)
    far = (block > 0) & (block < token // SELECT_LEN - 1)
    of = ((token // CHUNK).to(tl.int64) * tl.num_programs(1) + head) * num_blocks + block
    return pair, at, far, of


@triton.jit
def _count(
    blocks, counts, ranks, seq_len, num_blocks,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, CHUNK: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Count PAIRS pairs of one sequence and KV head in their lists, and note each one's place."""
    _, at, far, of = _pairs(blocks, seq_len, num_blocks, SELECT_LEN, NUM_SELECT, CHUNK, PAIRS)
    rank = tl.atomic_add(counts + of, 1, mask=far, sem="relaxed")
    tl.store(ranks + at, rank, mask=far)


@triton.jit
def _list(
    blocks, counts, ends, ranks, pairs, seq_len, num_blocks,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, CHUNK: tl.constexpr, PAIRS: tl.constexpr,
):  # fmt: skip
    """Write PAIRS pairs into their lists."""
    pair, at, far, of = _pairs(blocks, seq_len, num_blocks, SELECT_LEN, NUM_SELECT, CHUNK, PAIRS)
    begin = tl.load(ends + of, mask=far, other=0) - tl.load(counts + of, mask=far, other=0)
    tl.store(pairs + begin + tl.load(ranks + at, mask=far, other=0), pair, mask=far)


def lists(blocks: Tensor, geometry: Geometry, chunk: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the lists of `blocks` [B, Hkv, S, n], those of queries at 0..S - 1: pairs, lengths and ends.

    `pairs` holds them one behind the other, as query * n + slot; lengths and ends are [chunks of queries, B Hkv, blocks].
    """
    batch, kv_heads, seq_len, width = blocks.shape
    num_blocks, chunks = geometry.num_blocks(seq_len), triton.cdiv(seq_len, chunk)
    counts = torch.zeros(chunks, batch * kv_heads, num_blocks, dtype=torch.int32, device=blocks.device)
    ranks, pairs = torch.empty_like(blocks), torch.empty_like(blocks)
    grid = (triton.cdiv(seq_len * width, LIST_PAIRS), batch * kv_heads)
    lengths = {"SELECT_LEN": geometry.select_len, "NUM_SELECT": width, "CHUNK": chunk, "PAIRS": LIST_PAIRS}
    _count[grid](blocks, counts, ranks, seq_len, num_blocks, **lengths, num_warps=4)
    ends = counts.flatten().cumsum(0).view_as(counts)
    _list[grid](blocks, counts, ends, ranks, pairs, seq_len, num_blocks, **lengths, num_warps=4)
    return pairs, counts, ends
