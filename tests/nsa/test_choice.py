"""The choice of blocks: PyTorch's form is the reference's, a choice that is as good passes, a worse one never does."""

import dataclasses
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.nsa.cases import SEEDS, axes, axes_of, check, failure, geometries, problem, randn
from workloads.nsa import combine, compressed, decode, prefill, reference, selected, selection, sliding
from workloads.nsa import problem as problems
from workloads.nsa.geometry import Geometry
from workloads.nsa.operations import best_blocks
from workloads.nsa.problem import Problem

PREFILL, DECODE = prefill.WORKLOAD, decode.WORKLOAD
few = settings(max_examples=25, deadline=None)


# ---- PyTorch's form


@few
@given(geometries(), st.integers(0, 60), SEEDS, st.integers(1, 2), st.integers(1, 3), st.integers(1, 3))
def test_scores_are_the_references(g, more, seed, batch, kv_heads, group):
    seq_len = g.block_len + more
    q, k = randn(seed, batch, seq_len, kv_heads * group, 3), randn(seed + 1, batch, seq_len, kv_heads, 3)
    at = torch.arange(seq_len)[None]
    pooled = reference.pool(k.transpose(1, 2), g).transpose(1, 2)
    found = selection.scores(q, pooled, at, g.num_blocks(seq_len), g)
    expected = reference.block_scores(q.transpose(1, 2), k.transpose(1, 2), at, g)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@few
@given(geometries(), st.integers(0, 60), SEEDS)
def test_the_strided_sum_is_the_product_with_the_table_of_overlaps(g, more, seed):
    seq_len = g.block_len + more
    count, blocks = g.num_compressed(seq_len), g.num_blocks(seq_len)
    weights = randn(seed, 2, 3, count).abs()
    found = selection.of_blocks(weights, blocks, g)
    torch.testing.assert_close(found, weights @ reference.overlap(count, blocks, g), rtol=0, atol=1e-12)


def test_pieces_of_the_work_give_what_the_whole_gives(monkeypatch: pytest.MonkeyPatch):
    """Scores, gathered keys and the reference are made for some queries at a time; how many is about memory alone."""
    case = axes_of(Geometry(8, 4, 8, 4, 16), seq_len=61)
    p = problem(PREFILL, case)[0]
    at = prefill.positions(p.shape, p.q.device)

    def everything():
        pooled = compressed.pool(p.k, p.geometry)
        scores = selection.scores(p.q, pooled, at, p.geometry.num_blocks(61), p.geometry)
        gathered = selected.gather(p.q, p.k, p.v, p.blocks, at, p.geometry)
        return scores, gathered, PREFILL.operations["whole"].reference(p)

    at_once = everything()
    monkeypatch.setattr(selection, "CHUNK_BYTES", 7 * 4 * 2 * 4 * 14)
    monkeypatch.setattr(selected, "CHUNK_BYTES", 7 * 2 * 2 * 32 * 16 * 4)
    monkeypatch.setattr(problems, "CHUNK_ELEMENTS", 7 * 2 * 4 * 61)
    for one, other in zip(at_once, everything(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


@few
@given(axes("seq_len", max_len=60), SEEDS)
def test_the_block_mask_of_flex_attention_holds_the_chosen_blocks(case, seed):
    """Full blocks are not masked, so only the query's own may be the partial one."""
    p = problem(PREFILL, case, seed)[0]
    at = prefill.positions(p.shape, p.q.device)
    mask, rows = selected.block_mask(p.blocks, p.shape.group, p.shape.seq_len, p.geometry, at)
    own = at[:, None, :] // p.geometry.select_len
    assert torch.equal(mask.kv_indices[..., 0], own.expand(-1, p.shape.kv_heads, -1))
    assert (mask.kv_num_blocks == 1).all()
    listed = torch.arange(p.geometry.num_select) < mask.full_kv_num_blocks[..., None]
    both = torch.cat([mask.full_kv_indices.masked_fill(~listed, -1), mask.kv_indices[..., :1]], -1)
    none = torch.full_like(p.blocks[..., :1], -1)
    assert torch.equal(both.sort(-1).values, torch.cat([none, p.blocks], -1).sort(-1).values)
    assert rows >= p.shape.group


# ---- a choice that is made otherwise

SABOTAGED = axes_of(Geometry(8, 4, 8, 5, 8), seq_len=93, batch=1)
"""12 blocks and 5 slots: two for the best beside the forced ones."""


def last(p: Problem) -> tuple[Tensor, int]:
    """The reference's choice for the last query of the first KV head, and where it is among all rows."""
    return best_blocks(p)[0, 0, -1], p.shape.seq_len - 1


def unchosen(p: Problem) -> list[int]:
    """Blocks that the last query does not read, the best first."""
    chosen, _ = last(p)
    scores = selection.true_scores(p)[0, 0, -1]
    return sorted(set(range(scores.shape[0])) - set(chosen.tolist()), key=lambda block: -float(scores[block]))


def with_last(p: Problem, row: list[int]) -> Tensor:
    """The reference's choice for all rows, with another one for the last query of the first KV head."""
    blocks = best_blocks(p).int()
    blocks[0, 0, -1] = torch.tensor(row)
    return blocks


def whole_with(p: Problem, blocks: Tensor) -> tuple[Tensor, Tensor]:
    """The whole, done right but for the choice: a block that is there twice is read once."""
    k, v = p.k.transpose(1, 2).double(), p.v.transpose(1, 2).double()
    of_selected = reference.selected(p.q.transpose(1, 2).double(), k, v, p.at, blocks, p.geometry)
    branches = (
        compressed.masked(p.q, p.k, p.v, compressed.mask(p.shape.seq_len, p.geometry, p.q.device), p.geometry),
        of_selected.transpose(1, 2).to(p.q.dtype),
        sliding.masked(p.q, p.k, p.v, sliding.mask(p.shape.seq_len, p.geometry, p.q.device)),
    )
    return combine.gated_sum(p.gates, *branches), blocks


def verdicts(case: dict[str, Any], p: Problem, blocks: Tensor) -> dict[str, str | None]:
    """Why the gate refuses the stage that chose these blocks, and the whole that used them; None where it doesn't."""
    scoring = dataclasses.replace(PREFILL.variants["scoring_torch"], run=lambda *_: blocks)
    whole = dataclasses.replace(PREFILL.variants["whole_masked"], run=lambda *_: whole_with(p, blocks))
    return {name: check(PREFILL, one, case, (p,)).failure for name, one in (("scoring", scoring), ("whole", whole))}


STAGES = pytest.mark.parametrize("stage", ["scoring", "whole"])


@STAGES
def test_the_references_choice_passes(stage):
    p = problem(PREFILL, SABOTAGED)[0]
    assert verdicts(SABOTAGED, p, best_blocks(p).int())[stage] is None


@STAGES
def test_the_order_of_the_blocks_does_not_matter(stage):
    p = problem(PREFILL, SABOTAGED)[0]
    assert verdicts(SABOTAGED, p, with_last(p, last(p)[0].flip(0).tolist()))[stage] is None


@STAGES
@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_best_block_replaced_by_a_bad_one_in_one_row_does_not_pass(stage, seed):
    p = problem(PREFILL, SABOTAGED, seed)[0]
    chosen, _ = last(p)
    scores = selection.true_scores(p)[0, 0, -1]
    free, bad = chosen[1:3], unchosen(p)[-1]
    best = int(free[scores[free].argmax()])
    assume(scores[bad] < 0.9 * scores[best])
    row = [bad if block == best else block for block in chosen.tolist()]
    assert verdicts(SABOTAGED, p, with_last(p, row))[stage] is not None


@STAGES
@pytest.mark.parametrize("slot", range(5))
def test_a_block_that_is_there_twice_does_not_pass(stage, slot):
    p = problem(PREFILL, SABOTAGED)[0]
    row = last(p)[0].tolist()
    row[slot] = row[slot - 1]
    assert verdicts(SABOTAGED, p, with_last(p, row))[stage] is not None


@STAGES
def test_the_best_block_twice_does_not_pass_though_it_scores_more_than_the_one_left_out(stage):
    p = problem(PREFILL, SABOTAGED)[0]
    row, scores = last(p)[0].tolist(), selection.true_scores(p)[0, 0, -1]
    row[1] = row[2] = max(row[1:3], key=lambda block: float(scores[block]))
    assert verdicts(SABOTAGED, p, with_last(p, row))[stage] is not None


@STAGES
@pytest.mark.parametrize("slot", range(5))
def test_a_slot_that_is_left_empty_does_not_pass(stage, slot):
    p = problem(PREFILL, SABOTAGED)[0]
    row = last(p)[0].tolist()
    row[slot] = -1
    assert verdicts(SABOTAGED, p, with_last(p, row))[stage] is not None


@STAGES
@pytest.mark.parametrize("slot", range(5))
def test_a_slot_that_is_left_empty_does_not_pass_where_no_compressed_token_reaches_the_querys_block(stage, slot):
    """At the first position of a block, which scores nothing there, and is read for being the query's own."""
    case = SABOTAGED | {"seq_len": 89}
    p = problem(PREFILL, case)[0]
    row = last(p)[0].tolist()
    row[slot] = -1
    assert verdicts(case, p, with_last(p, row))[stage] is not None


@STAGES
def test_a_block_from_the_future_does_not_pass(stage):
    """In the row of position 60, in block 7, with blocks up to 11 there."""
    p = problem(PREFILL, SABOTAGED)[0]
    for slot in range(5):
        blocks = best_blocks(p).int()
        blocks[0, 0, 60, slot] = 9
        assert verdicts(SABOTAGED, p, blocks)[stage] is not None


@STAGES
@pytest.mark.parametrize("slot", [0, 3, 4])
def test_a_forced_block_that_makes_room_for_another_one_does_not_pass(stage, slot):
    """Also not for one that scores better: the first block, the one before the query's own, and its own are always read."""
    p = problem(PREFILL, SABOTAGED)[0]
    row = last(p)[0].tolist()
    row[slot] = unchosen(p)[0]
    assert verdicts(SABOTAGED, p, with_last(p, sorted(row)))[stage] is not None


@STAGES
def test_a_choice_by_score_alone_does_not_pass(stage):
    """The best n of the blocks that have begun, none of them forced."""
    p = problem(PREFILL, SABOTAGED)[0]
    begun = torch.arange(12) <= p.at[0, :, None] // 8
    best = selection.true_scores(p).masked_fill(~begun, -1.0).topk(5)
    blocks = best.indices.masked_fill(best.values < 0, -1).int()
    assert verdicts(SABOTAGED, p, blocks)[stage] is not None


def tied(dtype: str, share: float) -> tuple[dict[str, Any], Problem, Tensor]:
    """A problem whose last query finds two blocks best beside the forced ones, half of the second's keys by `share` smaller."""
    case = axes_of(Geometry(8, 8, 8, 4, 8), seq_len=93, batch=1, heads=2, dtype=dtype)
    p = problem(PREFILL, case)[0]
    k = p.k.clone()
    k[0, 24:32] = p.q[0, -1] / p.q[0, -1].float().norm(dim=-1, keepdim=True) * 1.5
    k[0, 40:48] = k[0, 24:32]
    k[0, 40:44] *= 1 - share
    p = p._replace(k=k)
    assert last(p)[0].tolist() == [0, 3, 10, 11]
    return case, p, with_last(p, [0, 5, 10, 11])


@STAGES
def test_a_tie_decided_otherwise_passes(stage):
    assert verdicts(*tied("fp32", 0.0))[stage] is None


@STAGES
def test_a_near_tie_decided_otherwise_passes_in_16_bits(stage):
    case, p, blocks = tied("bf16", 2**-8)  # a bit of the keys
    best, second = selection.true_scores(p)[0, 0, -1, [3, 5]].tolist()
    assert (1 - selection.NEAR_TIE) * best < second < best
    assert verdicts(case, p, blocks)[stage] is None


@STAGES
def test_what_is_no_near_tie_does_not_pass_in_16_bits(stage):
    case, p, blocks = tied("bf16", 0.2)
    assert verdicts(case, p, blocks)[stage] is not None


def test_a_tie_decided_otherwise_does_not_excuse_a_wrong_output():
    case, p, blocks = tied("fp32", 0.0)
    found, _ = whole_with(p, blocks)
    found[0, -1] *= 1.01
    wrong = dataclasses.replace(PREFILL.variants["whole_masked"], run=lambda *_: (found, blocks))
    assert check(PREFILL, wrong, case, (p,)).failure is not None


def test_a_tie_decided_otherwise_does_not_excuse_reading_the_block_that_was_not_chosen():
    case, p, blocks = tied("fp32", 0.0)
    found, _ = whole_with(p, best_blocks(p).int())
    wrong = dataclasses.replace(PREFILL.variants["whole_masked"], run=lambda *_: (found, blocks))
    assert check(PREFILL, wrong, case, (p,)).failure is not None


@pytest.mark.parametrize("block_len", [1, 2, 4, 32])
@pytest.mark.parametrize("name", ["scoring_torch", "whole_masked"])
def test_an_honest_choice_in_bf16_passes_however_few_keys_a_compressed_token_pools(name, block_len):
    """The fewer, the larger the logits and what rounding does to them."""
    g = Geometry(block_len, block_len, block_len, 8, 16)
    for seed in range(2):
        case = axes_of(g, seq_len=400, batch=1, heads=2, head_dim=64, dtype="bf16")
        assert failure(PREFILL, name, case, seed) is None


@settings(max_examples=10, deadline=None)
@given(SEEDS)
@example(0)
def test_a_worse_choice_does_not_pass_in_decode(seed):
    case = axes_of(Geometry(8, 4, 8, 5, 8), context=93, batch=1)
    p = problem(DECODE, case, seed)[0]
    chosen = best_blocks(p)
    scores = selection.true_scores(p)[0, 0, 0]
    bad = min(set(range(12)) - set(chosen[0, 0, 0].tolist()), key=lambda block: float(scores[block]))
    assume(scores[bad] < 0.9 * scores[chosen[0, 0, 0, 1]])
    blocks = chosen.int()
    blocks[0, 0, 0, 1] = bad
    scoring = dataclasses.replace(DECODE.variants["scoring"], run=lambda *_: blocks)
    assert check(DECODE, scoring, case, (p,)).failure is not None
