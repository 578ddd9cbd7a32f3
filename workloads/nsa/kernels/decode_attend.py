"""Third part of a decode step: the selected and the sliding branch over the union of their keys.

Both branches ask the same queries, and the window lies partly in chosen blocks. So the rows of the matrix product are the
group's heads twice, once for each branch, and a row's mask says which keys of a tile its branch reads: one pass over the union,
with one online softmax, and the 16 rows that a tensor core wants are filled by groups of 8 already.

What is to be read are items, listed by the second part: the n chosen blocks, then the other blocks that the window touches.
They are dealt to a few programs of each unit (a sequence and KV head), KEYS keys at a time. As in the first part the keys are
the rows of the matrix products and the heads their columns, so that a tile of 64 keys is what Hopper's matrix unit takes,
although few heads ask.
"""

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.decode_plan import Workspace, started_early
from workloads.nsa.kernels.decode_tile import load_tile, soften
from workloads.nsa.kernels.tiles import LOG2_E, padded, precision

STAGES, NUM_WARPS = 3, 4


@triton.jit
def _decode_attend(
    q, k, v, ends, items, sums, tops, totals,
    q_batch, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, scale_log2,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, GROUP_PAD: tl.constexpr, ROWS: tl.constexpr,
    DIM: tl.constexpr, DIM_PAD: tl.constexpr, V_DIM: tl.constexpr, V_DIM_PAD: tl.constexpr,
    SELECT_LEN: tl.constexpr, NUM_SELECT: tl.constexpr, WINDOW: tl.constexpr,
    KEYS: tl.constexpr, ITEMS_PAD: tl.constexpr, SPLITS: tl.constexpr, SPLITS_ROOM: tl.constexpr,
    PRECISION: tl.constexpr, STAGES: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """One split of one unit; those for which nothing is left leave a sum of nothing."""
    if EARLY:
        gdc_launch_dependents()
    PIECES: tl.constexpr = (SELECT_LEN + KEYS - 1) // KEYS
    split, unit = tl.program_id(0), tl.program_id(1).to(tl.int64)
    batch, kv_head = unit // KV_HEADS, unit % KV_HEADS
    end = tl.load(ends + batch).to(tl.int32)
    own = (end - 1) // SELECT_LEN
    slot, row, dim, v_dim = tl.arange(0, ITEMS_PAD), tl.arange(0, ROWS), tl.arange(0, DIM_PAD), tl.arange(0, V_DIM_PAD)
    member, slides = row % GROUP_PAD, row // GROUP_PAD == 1
    real = (member < GROUP) & (row < 2 * GROUP_PAD)
    of_q = q + batch * q_batch + (kv_head * GROUP + member)[None, :] * q_head + dim[:, None]
    queries = tl.load(of_q, mask=real[None, :] & (dim < DIM)[:, None], other=0.0)
    k += batch * k_batch + kv_head * k_head
    v += batch * v_batch + kv_head * v_head
    if EARLY:
        gdc_wait()  # until here nothing was read that the parts before write
    item = tl.load(items + unit * ITEMS_PAD + slot)
    pieces = tl.sum((item >= 0).to(tl.int32), 0) * PIECES
    of_each = tl.cdiv(pieces, SPLITS)
    chosen = tl.minimum(NUM_SELECT, own + 1)
    top = tl.full([ROWS], float("-inf"), dtype=tl.float32)
    total = tl.zeros([ROWS], dtype=tl.float32)
    weighted = tl.zeros([V_DIM_PAD, ROWS], dtype=tl.float32)
    for piece in tl.range(split * of_each, tl.minimum((split + 1) * of_each, pieces), num_stages=STAGES):
        index = piece // PIECES
        block = tl.sum(tl.where(slot == index, item, 0), 0)
        within = piece % PIECES * KEYS + tl.arange(0, KEYS)
        key = block * SELECT_LEN + within
        there = (within < SELECT_LEN) & (key < end)
        keys, values = load_tile(k, v, key, there, k_token, v_token, DIM, DIM_PAD, V_DIM, V_DIM_PAD)
        products = tl.dot(keys, queries, input_precision=PRECISION) * scale_log2
        seen = there[:, None] & tl.where(slides[None, :], (key >= end - WINDOW)[:, None], index < chosen)
        top, _, weights, shrink = soften(products, seen, top)
        total = total * shrink + tl.sum(weights, 0)
        weighted *= shrink[None, :]
        weighted = tl.dot(tl.trans(values), weights.to(values.dtype), weighted, input_precision=PRECISION)
    at = unit * SPLITS_ROOM + split
    tl.store(tops + at * ROWS + row, top)
    tl.store(totals + at * ROWS + row, total)
    to = (at * V_DIM + v_dim)[:, None] * ROWS + row[None, :]
    tl.store(sums + to, weighted, mask=(v_dim < V_DIM)[:, None])


def decode_attend(q: Tensor, k: Tensor, v: Tensor, ends: Tensor, workspace: Workspace, geometry: Geometry) -> None:
    """Attend to the items that `decode_choose` left in the workspace, and leave the partial sums there.

    q [B, 1, Hq, Dk]; k [B, N, Hkv, Dk], v [B, N, Hkv, Dv]; `ends` [B] tokens in the cache.
    """
    batch, _, heads, dim = q.shape
    kv_heads, v_dim, cut = k.shape[2], v.shape[-1], workspace.plan
    group = heads // kv_heads
    _decode_attend[(cut.attend_splits, batch * kv_heads)](
        q, k, v, ends, workspace.items, workspace.both_sums, workspace.both_tops, workspace.both_totals,
        q.stride(0), q.stride(2), k.stride(0), k.stride(1), k.stride(2), v.stride(0), v.stride(1), v.stride(2),
        dim**-0.5 * LOG2_E,
        KV_HEADS=kv_heads, GROUP=group, GROUP_PAD=triton.next_power_of_2(group), ROWS=workspace.both_tops.shape[2],
        DIM=dim, DIM_PAD=padded(dim),
        V_DIM=v_dim, V_DIM_PAD=padded(v_dim),
        SELECT_LEN=geometry.select_len, NUM_SELECT=geometry.num_select, WINDOW=geometry.window,
        KEYS=cut.keys, ITEMS_PAD=workspace.items.shape[1], SPLITS=cut.attend_splits, SPLITS_ROOM=workspace.both_tops.shape[1],
        PRECISION=precision(q), STAGES=STAGES,
        num_warps=NUM_WARPS, **started_early(q.device),
    )  # fmt: skip
