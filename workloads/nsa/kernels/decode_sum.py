"""Last part of a decode step: add up what the splits of the selected and sliding branches left, normalise, apply the gate.

Numbers of the output are spread over the threads, four to each, and a thread reads the partial results of several splits for them
at once: one after the other would cost the memory's latency each time, and this kernel is nothing but latency.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_wait

from workloads.nsa.kernels.decode_plan import CHUNK, Workspace, started_early

NUM_WARPS = 4

OUTPUTS_OF_WARP = 128
"""Partial results are read 16 bytes at a time, and all splits of a number by one thread, so that no thread waits for another."""


def outputs(count: int, num_warps: int) -> int:
    """Return how many of `count` numbers a program takes: a power of two, and a divisor, so that no load needs a mask."""
    return min(count & -count, OUTPUTS_OF_WARP * num_warps)


@triton.jit
def add(
    sums, tops, totals, first, offset, row, SPLITS: tl.constexpr, SIZE: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr
) -> tl.tensor:  # fmt: skip
    """The sum of SPLITS splits' partial results from number `first` on, normalised, for the numbers at `offset` of their rows.

    `sums` are [splits, SIZE], `tops` and `totals` [splits, ROWS]; a split that has nothing has -inf and 0 there.
    """
    highest = tl.full(offset.shape, float("-inf"), dtype=tl.float32)
    weight = tl.zeros(offset.shape, dtype=tl.float32)
    result = tl.zeros(offset.shape, dtype=tl.float32)
    at_once: tl.constexpr = min(CHUNK, SPLITS)
    for begin in range(0, SPLITS, at_once):
        split = first + begin + tl.arange(0, at_once)[:, None]
        top = tl.load(tops + split * ROWS + row[None, :])
        total = tl.load(totals + split * ROWS + row[None, :])
        part = tl.load(sums + split * SIZE + offset[None, :])
        new_highest = tl.maximum(highest, tl.max(top, 0))
        reference = tl.where(new_highest == float("-inf"), 0.0, new_highest)
        shrink, factor = tl.exp2(highest - reference), tl.exp2(top - reference[None, :])
        weight = weight * shrink + tl.sum(factor * total, 0)
        result = result * shrink + tl.sum(factor * part, 0)
        highest = new_highest
    return result / tl.where(weight > 0, weight, 1.0)


@triton.jit
def _decode_sum(
    gates, compressed, chosen_sums, chosen_tops, chosen_totals, window_sums, window_tops, window_totals, output,
    gate_batch, gate_head,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, V_DIM: tl.constexpr,
    CHOSEN: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, OUTPUTS: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """OUTPUTS numbers of the output of one unit."""
    unit = tl.program_id(1).to(tl.int64)
    batch, kv_head = unit // KV_HEADS, unit % KV_HEADS
    index = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    v_dim, head = index // GROUP_PAD, index % GROUP_PAD
    there = head < GROUP
    out_head = kv_head * GROUP + head
    gate = gates + batch * gate_batch + out_head * gate_head
    to_compressed = tl.load(gate, mask=there, other=0.0).to(tl.float32)
    to_selected = tl.load(gate + 1, mask=there, other=0.0).to(tl.float32)
    to_sliding = tl.load(gate + 2, mask=there, other=0.0).to(tl.float32)
    if EARLY:
        gdc_wait()  # until here nothing was read that the parts before write
    result = to_compressed * tl.load(compressed + unit * V_DIM * GROUP_PAD + index)
    size: tl.constexpr = V_DIM * GROUP_PAD
    result += to_selected * add(
        chosen_sums, chosen_tops, chosen_totals, unit * CHOSEN, index, head, CHOSEN, size, GROUP_PAD, CHUNK
    )
    result += to_sliding * add(
        window_sums, window_tops, window_totals, unit * WINDOW, index, head, WINDOW, size, GROUP_PAD, CHUNK
    )
    to = output + (batch * KV_HEADS * GROUP + out_head) * V_DIM + v_dim
    tl.store(to, result.to(output.dtype.element_ty), mask=there)


def decode_sum(gates: Tensor, workspace: Workspace, kv_heads: int, like: Tensor) -> Tensor:
    """Return the gated sum of all branches [B, 1, Hq, Dv] in the dtype of `like`, from what the parts before left.

    gates [B, 1, Hq, 3] for the compressed, selected and sliding branch.
    """
    batch, _, heads, _ = gates.shape
    group, v_dim, window, chosen = heads // kv_heads, workspace.compressed.shape[1], workspace.window, workspace.chosen
    group_pad = triton.next_power_of_2(group)
    output = torch.empty(batch, 1, heads, v_dim, dtype=like.dtype, device=like.device)
    of_each = outputs(v_dim * group_pad, NUM_WARPS)
    _decode_sum[(v_dim * group_pad // of_each, batch * kv_heads)](
        gates, workspace.compressed, chosen.sums, chosen.tops, chosen.totals, window.sums, window.tops, window.totals, output,
        gates.stride(0), gates.stride(2),
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=group_pad, V_DIM=v_dim,
        CHOSEN=chosen.tops.shape[1], WINDOW=window.tops.shape[1], CHUNK=CHUNK, OUTPUTS=of_each,
        num_warps=NUM_WARPS, **started_early(like.device),
    )  # fmt: skip
    return output
