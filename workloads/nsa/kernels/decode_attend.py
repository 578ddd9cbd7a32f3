"""Third part of a decode step: the sliding branch, and the selected branch over the chosen blocks.

A branch's keys are dealt to a few programs of each unit (a sequence and KV head) as items of a block's length, KEYS keys at a
time. As in the first part the keys are the rows of the matrix products and the heads their columns, so that a tile of 64 keys is
what Hopper's matrix unit takes, although few heads ask.

Where the window lies is known before the choice is made. So the programs of the sliding branch come first and don't wait for the
second part, which leaves most of the memory's pace unused while it chooses. Two or three of the chosen blocks lie in the window:
they are read twice, the second time from the L2. The first part is not launched early, so none of this begins before the
last step has ended, whose sums these would overwrite.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.decode_plan import Workspace, started_early
from workloads.nsa.kernels.decode_tile import load_tile, soften
from workloads.nsa.kernels.tiles import LOG2_E, MIN_ROWS, padded, precision

STAGES, NUM_WARPS = 3, 4


@triton.jit
def _decode_attend(
    q, k, v, ends, blocks, window_sums, window_tops, window_totals, chosen_sums, chosen_tops, chosen_totals,
    q_batch, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, ROWS: tl.constexpr,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM: tl.constexpr, V_DIM_PAD: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, WINDOW: tl.constexpr, KEYS: tl.constexpr, ITEMS_PAD: tl.constexpr,
    WINDOW_SPLITS: tl.constexpr, WINDOW_ROOM: tl.constexpr, CHOSEN_SPLITS: tl.constexpr, CHOSEN_ROOM: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One split of one branch of one unit; those for which nothing is left leave a sum of nothing."""
    if EARLY:
        gdc_launch_dependents()
    PIECES: tl.constexpr = (SELECT_LEN + KEYS - 1) // KEYS
    unit, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, kv_head = unit // KV_HEADS, unit % KV_HEADS
    end = tl.load(ends + batch).to(tl.int32)
    slot, member, dim, v_dim = tl.arange(0, ITEMS_PAD), tl.arange(0, ROWS), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    of_q = q + batch * q_batch + (kv_head * GROUP + member)[None, :] * q_head + dim[:, None]
    queries = tl.load(of_q, mask=(member < GROUP)[None, :] & (dim < DIM)[:, None], other=0.0)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    begin = tl.maximum(end - WINDOW, 0)
    start, items = begin + slot * SELECT_LEN, tl.cdiv(end - begin, SELECT_LEN)
    splits, at = WINDOW_SPLITS, unit * WINDOW_ROOM + split
    sums, tops, totals = window_sums, window_tops, window_totals
    if split >= WINDOW_SPLITS:
        if EARLY:
            gdc_wait()  # until here nothing was read that the parts before write
        block = tl.load(blocks + unit * NUM_SELECT + slot, mask=slot < NUM_SELECT, other=-1)
        start, items = block * SELECT_LEN, tl.sum((block >= 0).to(tl.int32), 0)
        split -= WINDOW_SPLITS
        splits, at = CHOSEN_SPLITS, unit * CHOSEN_ROOM + split
        sums, tops, totals = chosen_sums, chosen_tops, chosen_totals
    pieces = items * PIECES
    of_each = tl.cdiv(pieces, splits)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    weighted = tl.zeros([V_DIM_PAD, ROWS], dtype=tl.float32)
    for piece in tl.range(split * of_each, tl.minimum((split + 1) * of_each, pieces), num_stages=STAGES):
        within = piece % PIECES * KEYS + tl.arange(0, KEYS)
        key = tl.sum(tl.where(slot == piece // PIECES, start, 0), 0) + within
        there = (within < SELECT_LEN) & (key < end)
        keys, values = load_tile(k, v, key, there, k_token, v_token, DIM, DIM_PAD, V_DIM, V_DIM_PAD)
        products = tl.dot(keys, queries, input_precision=PRECISION) * scale_log2
        top, _, weights, shrink = soften(products, there[:, None], top)
        total = total * shrink + tl.sum(weights, 0)
        weighted *= shrink[None, :]
        weighted = tl.dot(tl.trans(values), weights.to(values.dtype), weighted, input_precision=PRECISION)
    real = member < GROUP_PAD
    tl.store(tops + at * GROUP_PAD + member, top, mask=real)
    tl.store(totals + at * GROUP_PAD + member, total, mask=real)
    to = (at * V_DIM + v_dim)[:, None] * GROUP_PAD + member[None, :]
    tl.store(sums + to, weighted, mask=(v_dim < V_DIM)[:, None] & real[None, :])


def decode_attend(
    q: Tensor, k: Tensor, v: Tensor, ends: Tensor, blocks: Tensor, workspace: Workspace, geometry: Geometry
) -> None:
    """Attend to the window and to `blocks` [B, Hkv, 1, n], and leave the partial sums in the workspace.

    q [B, 1, Hq, Dk]; k [B, N, Hkv, Dk], v [B, N, Hkv, Dv]; `ends` [B] tokens in the cache.
    """
    batch, _, heads, dim = q.shape
    kv_heads, v_dim, cut, window, chosen = k.shape[2], v.shape[-1], workspace.plan, workspace.window, workspace.chosen
    group = heads // kv_heads
    group_pad = triton.next_power_of_2(group)
    _decode_attend[(batch * kv_heads, cut.window_splits + cut.chosen_splits)](
        q, k, v, ends, blocks, window.sums, window.tops, window.totals, chosen.sums, chosen.tops, chosen.totals,
        q.stride(0), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=group_pad, ROWS=max(MIN_ROWS, group_pad),
        DIM=dim, DIM_PAD=padded(dim),
        V_DIM=v_dim, V_DIM_PAD=padded(v_dim),
        SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select, WINDOW=geometry.window, KEYS=cut.keys,
        ITEMS_PAD=triton.next_power_of_2(max(geometry.num_select, triton.cdiv(geometry.window, geometry.select_len))),
        WINDOW_SPLITS=cut.window_splits, WINDOW_ROOM=window.tops.shape[1],
        CHOSEN_SPLITS=cut.chosen_splits, CHOSEN_ROOM=chosen.tops.shape[1],
        PRECISION=precision(q), STAGES=STAGES,
        num_warps=NUM_WARPS, **started_early(q.device),
    )  # fmt: skip
