"""The float64 reference is what the paper's equations say, held against loops in plain Python, and keeps their invariants."""

import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.nsa import oracle
from tests.nsa.cases import SEEDS, geometries, randn
from workloads.nsa import combine, prefill, reference
from workloads.nsa.geometry import Geometry
from workloads.nsa.problem import Shape

few = settings(max_examples=25, deadline=None)
BRANCHES = ["dense", "sliding", "compressed", "selected", "nsa"]


class Sequences(NamedTuple):
    """q [B, Hq, S, Dk], k [B, Hkv, S, Dk], v [B, Hkv, S, Dv], gates [B, Hq, S, 3] in float64, positions t [1, S]."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Tensor
    t: Tensor
    g: Geometry

    def scores(self) -> Tensor:
        return reference.block_scores(self.q, self.k, self.t, self.g)

    def blocks(self) -> Tensor:
        return reference.choose(self.scores(), self.t, self.g)

    def branch(self, name: str) -> Tensor:
        q, k, v, gates, t, g = self
        if name == "dense":
            return reference.dense(q, k, v, t)
        if name == "selected":
            return reference.selected(q, k, v, t, self.blocks(), g)
        if name == "nsa":
            return reference.nsa(q, k, v, t, gates, g)
        return getattr(reference, name)(q, k, v, t, g)


def sequences(g, seq_len, seed=0, batch=1, kv_heads=1, group=2, dim=3, v_dim=2) -> Sequences:
    q, k = randn(seed, batch, kv_heads * group, seq_len, dim), randn(seed + 1, batch, kv_heads, seq_len, dim)
    v, gates = randn(seed + 2, batch, kv_heads, seq_len, v_dim), randn(seed + 3, batch, kv_heads * group, seq_len, 3).sigmoid()
    return Sequences(q, k, v, gates, torch.arange(seq_len)[None], g)


@st.composite
def some(draw, max_len: int = 60, max_ratio: int = 4) -> Sequences:
    g = draw(geometries(max_ratio=max_ratio))
    sizes = {"batch": st.integers(1, 2), "kv_heads": st.integers(1, 2), "group": st.integers(1, 3), "v_dim": st.integers(1, 4)}
    return sequences(
        g, draw(st.integers(g.block_len, max_len)), draw(SEEDS), **{name: draw(size) for name, size in sizes.items()}
    )


def groups(s: Sequences):
    """Every sequence and KV head as lists, with its place: (b, kv), queries [h][S][Dk], keys [S][Dk], values [S][Dv]."""
    group = s.q.shape[1] // s.k.shape[1]
    for b in range(len(s.q)):
        for kv in range(s.k.shape[1]):
            heads = range(kv * group, (kv + 1) * group)
            yield b, heads, s.q[b, kv * group : (kv + 1) * group].tolist(), s.k[b, kv].tolist(), s.v[b, kv].tolist()


# ---- against the loops


@settings(max_examples=15, deadline=None)
@given(some(max_len=24), st.sampled_from(["dense", "sliding", "compressed"]))
def test_a_branch_is_what_loops_over_its_keys_find(s, branch):
    found = s.branch(branch)
    for b, heads, queries, keys, values in groups(s):
        for head, of_head in zip(heads, queries, strict=True):
            for t, query in enumerate(of_head):
                expected = getattr(oracle, branch)(query, keys, values, t, *([s.g] if branch != "dense" else []))
                assert found[b, head, t].tolist() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(some(max_len=24))
def test_block_scores_are_what_counting_shared_positions_finds(s):
    found = s.scores()
    for b, heads, queries, keys, _ in groups(s):
        for t in range(len(keys)):
            expected = oracle.block_scores(queries, keys, t, s.g)
            assert found[b, heads.start // len(heads), t].tolist() == pytest.approx(expected, abs=1e-12)


@settings(max_examples=15, deadline=None)
@given(some(max_len=24), st.data())
def test_the_selected_branch_reads_the_union_of_the_blocks_it_is_given(s, data):
    last = s.g.num_blocks(s.k.shape[2]) - 1
    chosen = st.lists(st.integers(0, last), max_size=s.g.num_select, unique=True)
    of_groups = [data.draw(chosen) for _ in groups(s)]
    blocks = torch.tensor([one + [-1] * (s.g.num_select - len(one)) for one in of_groups])
    shape = (*s.k.shape[:2], s.k.shape[2], -1)
    blocks = blocks.view(*s.k.shape[:2], 1, -1).expand(shape)
    found = reference.selected(s.q, s.k, s.v, s.t, blocks, s.g)
    for (b, heads, queries, keys, values), one in zip(groups(s), of_groups, strict=True):
        for head, of_head in zip(heads, queries, strict=True):
            for t, query in enumerate(of_head):
                expected = oracle.selected(query, keys, values, t, one, s.g)
                assert found[b, head, t].tolist() == pytest.approx(expected, abs=1e-12)


@few
@given(geometries(), st.integers(1, 60), SEEDS, st.integers(1, 4))
def test_the_choice_is_the_forced_blocks_and_the_best_others(g, seq_len, seed, levels):
    """`levels` of scores make ties frequent."""
    scores = torch.randint(levels, (1, 1, seq_len, g.num_blocks(seq_len)), generator=torch.Generator().manual_seed(seed)).double()
    found = reference.choose(scores, torch.arange(seq_len)[None], g)
    for t in range(seq_len):
        expected = oracle.choose(scores[0, 0, t].tolist(), t, g)
        assert found[0, 0, t].tolist() == expected + [-1] * (g.num_select - len(expected))


@few
@given(some())
def test_pooling_is_the_mean_of_each_complete_block(s):
    pooled = reference.pool(s.k, s.g)
    for b in range(len(s.k)):
        for kv in range(s.k.shape[1]):
            expected = oracle.pool(s.k[b, kv].tolist(), s.g)
            assert pooled[b, kv].tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


@few
@given(some())
def test_the_whole_is_the_gated_sum_of_its_branches(s):
    branches = [s.branch(name) for name in ("compressed", "selected", "sliding")]
    expected = sum(s.gates[..., i : i + 1] * branch for i, branch in enumerate(branches))
    torch.testing.assert_close(s.branch("nsa"), expected, rtol=0, atol=1e-14)


# ---- equation 9


@few
@given(geometries(), st.integers(1, 120))
def test_overlap_counts_shared_positions_in_strides(g, seq_len):
    count, blocks = g.num_compressed(seq_len), g.num_blocks(seq_len)
    expected = [[oracle.shared_positions(i, j, g) / g.stride for j in range(blocks)] for i in range(count)]
    assert reference.overlap(count, blocks, g).tolist() == expected


@few
@given(geometries(), st.integers(1, 120))
def test_overlap_is_equation_9_with_the_index_running_forward_over_the_block(g, seq_len):
    count, blocks = g.num_compressed(seq_len), g.num_blocks(seq_len)
    expected = torch.zeros(count, blocks, dtype=torch.float64)
    for j in range(blocks):
        for m in range(g.select_len // g.stride):
            for n in range(g.block_len // g.stride):
                i = g.select_len // g.stride * j + m - n
                if 0 <= i < count:
                    expected[i, j] += 1
    assert torch.equal(reference.overlap(count, blocks, g), expected)


@few
@given(geometries(), st.integers(1, 20))
def test_equation_9_as_printed_counts_tokens_beside_the_block_and_leaves_out_tokens_in_it(g, j):
    """Its index is (l'/d) j - m - n. Where l' = d there is no m, and both directions are one."""
    per_block, per_token = g.select_len // g.stride, g.block_len // g.stride
    printed = {per_block * j - m - n for m in range(per_block) for n in range(per_token)}
    inside = {i for i in range(per_block * (j + 2)) if oracle.shared_positions(i, j, g)}
    beside = {i for i in printed if i >= 0 and not oracle.shared_positions(i, j, g)}
    assert bool(inside - printed) == (per_block > 1)
    assert bool(beside) == (per_block > 1 and per_block * j >= per_token)


@few
@given(some())
def test_the_scores_of_all_blocks_sum_to_the_weights_times_their_strides(s):
    """Every compressed token lies in blocks with all of its l / d strides, and its weights sum to 1 in each head of the group."""
    sees = (s.t + 1 >= s.g.block_len).double()[:, None]
    expected = s.q.shape[1] // s.k.shape[1] * s.g.block_len / s.g.stride * sees
    torch.testing.assert_close(s.scores().sum(-1), expected.expand(*s.k.shape[:2], -1), rtol=0, atol=1e-12)


@few
@given(some())
def test_the_score_of_a_block_is_its_tokens_weights_times_their_multiplicity(s):
    pooled = reference.pool(s.k, s.g)
    p_cmp = reference.weights(s.q, pooled, reference.visible_compressed(s.t, pooled.shape[2], s.g)).sum(2)
    for j in range(s.g.num_blocks(s.k.shape[2])):
        share = [oracle.shared_positions(i, j, s.g) / s.g.stride for i in range(pooled.shape[2])]
        expected = (p_cmp * torch.tensor(share, dtype=torch.float64)).sum(-1)
        torch.testing.assert_close(s.scores()[..., j], expected, rtol=0, atol=1e-12)


@few
@given(some(), st.integers(1, 6))
def test_equal_heads_of_a_group_score_as_one_head_times_their_number(s, heads):
    one = s.q[:, : s.k.shape[1]]
    many = reference.block_scores(one.repeat_interleave(heads, 1), s.k, s.t, s.g)
    torch.testing.assert_close(many, heads * reference.block_scores(one, s.k, s.t, s.g), rtol=0, atol=1e-12)


# ---- what is seen


@few
@given(some(max_len=40), st.sampled_from(BRANCHES), st.data())
def test_the_future_changes_no_earlier_output(s, branch, data):
    at = data.draw(st.integers(0, s.k.shape[2] - 1))
    k, v, q = s.k.clone(), s.v.clone(), s.q.clone()
    for x in (k, v, q):
        x[:, :, at:] += 10 * torch.randn(x[:, :, at:].shape, dtype=x.dtype, generator=torch.Generator().manual_seed(at))
    torch.testing.assert_close(
        s._replace(q=q, k=k, v=v).branch(branch)[:, :, :at], s.branch(branch)[:, :, :at], rtol=0, atol=1e-12
    )


@few
@given(some(max_len=40), st.data())
def test_the_future_changes_no_earlier_choice(s, data):
    at = data.draw(st.integers(0, s.k.shape[2] - 1))
    k, q = s.k.clone(), s.q.clone()
    k[:, :, at:], q[:, :, at:] = 10 - k[:, :, at:], -q[:, :, at:]
    assert torch.equal(s._replace(q=q, k=k).blocks()[:, :, :at], s.blocks()[:, :, :at])


@few
@given(some(max_ratio=2), st.sampled_from(BRANCHES), st.data())
def test_a_row_alone_is_the_row_among_all(s, branch, data):
    """The gate checks rows one chunk at a time, each at its own position.

    l up to 2 d: beyond that, blocks may have the same compressed tokens, and rounding decides between them.
    """
    rows = torch.tensor([data.draw(st.integers(0, s.k.shape[2] - 1)) for _ in range(3)])
    alone = s._replace(q=s.q[:, :, rows], gates=s.gates[:, :, rows], t=rows[None])
    torch.testing.assert_close(alone.branch(branch), s.branch(branch)[:, :, rows], rtol=0, atol=1e-12)


@few
@given(some())
def test_a_query_that_sees_no_compressed_token_gets_zeros(s):
    blind = s.branch("compressed")[:, :, : s.g.block_len - 1]
    assert torch.equal(blind, torch.zeros_like(blind))


@pytest.mark.parametrize("branch", BRANCHES)
def test_a_prompt_shorter_than_a_compressed_token_has_none(branch):
    g = Geometry(8, 4, 4, 3, 4)
    found = sequences(g, 5).branch(branch)
    assert found.shape == (1, 2, 5, 2)
    if branch == "compressed":
        assert not found.any()


@few
@given(some())
def test_a_query_that_is_given_no_block_gets_zeros(s):
    nothing = torch.full((*s.k.shape[:3], s.g.num_select), -1)
    assert not reference.selected(s.q, s.k, s.v, s.t, nothing, s.g).any()


@few
@given(some())
def test_a_window_as_long_as_the_sequence_is_dense_attention(s):
    everything = s._replace(g=Geometry(1, 1, 1, 3, window=s.k.shape[2]))
    torch.testing.assert_close(everything.branch("sliding"), s.branch("dense"), rtol=0, atol=1e-12)


@few
@given(st.integers(3, 30), SEEDS, st.integers(1, 4))
def test_blocks_of_one_key_and_enough_of_them_are_dense_attention(seq_len, seed, group):
    s = sequences(Geometry(1, 1, 1, num_select=seq_len, window=1), seq_len, seed, group=group)
    torch.testing.assert_close(s.branch("selected"), s.branch("dense"), rtol=0, atol=1e-12)
    torch.testing.assert_close(s.branch("compressed"), s.branch("dense"), rtol=0, atol=1e-12)


@few
@given(some())
def test_enough_blocks_of_any_length_are_dense_attention(s):
    enough = Geometry(s.g.block_len, s.g.stride, s.g.select_len, max(3, s.g.num_blocks(s.k.shape[2])), s.g.window)
    torch.testing.assert_close(s._replace(g=enough).branch("selected"), s.branch("dense"), rtol=0, atol=1e-12)


# ---- the choice


@pytest.mark.parametrize(("t", "expected"), [
    (0, [0]),                    # first, own and the one before are one block
    (4, [0, 1]),                 # the one before is the first
    (8, [0, 1, 2]),
    (12, [0, 1, 2, 3]),
    (16, [0, 1, 3, 4]),
    (19, [0, 1, 3, 4]),
    (20, [0, 1, 4, 5]),
])  # fmt: skip
def test_forced_blocks_take_one_slot_where_they_coincide(t, expected):
    """All scores equal: n = 4 of blocks of 4 keys, so there is one slot beside the three forced ones, for the lowest index."""
    found = reference.choose(torch.ones(1, 1, 1, 6), torch.tensor([[t]]), Geometry(4, 4, 4, 4, 8))[0, 0, 0].tolist()
    assert found == expected + [-1] * (4 - len(expected))


def test_forced_blocks_are_chosen_though_they_score_worst():
    scores = torch.tensor([0.0, 5, 4, 3, 0, 0]).view(1, 1, 1, 6)
    assert reference.choose(scores, torch.tensor([[23]]), Geometry(4, 4, 4, 4, 8))[0, 0, 0].tolist() == [0, 1, 4, 5]


def test_ties_go_to_the_lowest_index():
    scores = torch.tensor([0.0, 1, 2, 2, 2, 1, 0, 0]).view(1, 1, 1, 8)
    assert reference.choose(scores, torch.tensor([[31]]), Geometry(4, 4, 4, 5, 8))[0, 0, 0].tolist() == [0, 2, 3, 6, 7]


def test_a_block_that_has_not_begun_is_not_chosen_however_it_scores():
    scores = torch.tensor([0.0, 0, 0, 9, 9, 9]).view(1, 1, 1, 6)
    assert reference.choose(scores, torch.tensor([[11]]), Geometry(4, 4, 4, 4, 8))[0, 0, 0].tolist() == [0, 1, 2, -1]


@few
@given(some())
def test_all_heads_of_a_group_read_the_same_blocks_and_every_group_its_own(s):
    assert s.blocks().shape == (*s.k.shape[:3], s.g.num_select)


@few
@given(some())
def test_a_chosen_block_counts_only_keys_up_to_the_query(s):
    keys = reference.chosen_keys(s.blocks(), s.t, s.k.shape[2], s.g)
    assert not (keys & ~reference.causal(s.t, s.k.shape[2])).any()


# ---- counters


@few
@given(some(), st.integers(1, 3))
def test_keys_counted_from_masks_and_indices_equal_the_closed_forms(s, seed):
    seq_len = s.k.shape[2]
    recent = torch.ones(seq_len, seq_len).tril().triu(1 - s.g.window)
    counted = {
        "dense": int(reference.causal(s.t, seq_len).sum()),
        "sliding": int(recent.sum()),
        "compressed": int(reference.visible_compressed(s.t, s.g.num_compressed(seq_len), s.g).sum()),
    }
    of_groups = reference.chosen_keys(s.blocks(), s.t, seq_len, s.g).sum((-1, -2)).unique().tolist()
    assert of_groups == [s.g.sums(seq_len)["selected"]]
    assert counted | {"selected": of_groups[0]} == s.g.sums(seq_len)


@few
@given(geometries(), st.integers(1, 3), st.booleans(), st.integers(1, 60), SEEDS)
def test_the_closed_forms_of_a_case_are_sums_over_its_batch(g, batch, ragged, more, seed):
    shape = Shape(batch, 2, 1, 3, 2, g.block_len + more, "fp32", g, ragged)
    each = [g.sums(length) for length in shape.lengths]
    pairs = prefill.reads(shape).pairs
    assert {name: pairs[name] for name in each[0]} == {name: sum(one[name] for one in each) for name in each[0]}
    assert pairs["whole"] == pairs["compressed"] + pairs["selected"] + pairs["sliding"]


def test_a_ragged_batch_goes_from_half_of_the_length_to_all_of_it():
    assert Shape(3, 1, 1, 1, 1, 101, "fp32", Geometry(4, 4, 4), ragged=True).lengths == [51, 76, 101]
    assert Shape(2, 1, 1, 1, 1, 40, "fp32", Geometry(), ragged=True).lengths == [32, 40]
    assert Shape(1, 1, 1, 1, 1, 101, "fp32", Geometry(4, 4, 4), ragged=True).lengths == [101]


# ---- gradients


@pytest.mark.parametrize("branch", BRANCHES)
def test_gradients_are_those_of_finite_differences(branch):
    g = Geometry(4, 2, 2, 3, 3)
    s = sequences(g, 9, dim=2, v_dim=1)
    blocks = s.blocks()

    def output(q, k, v, gates):
        if branch == "selected":
            return reference.selected(q, k, v, s.t, blocks, g)
        if branch == "nsa":
            return reference.nsa(q, k, v, s.t, gates, g, blocks)
        return s._replace(q=q, k=k, v=v).branch(branch)

    assert torch.autograd.gradcheck(output, tuple(x.clone().requires_grad_() for x in s[:4]), check_undefined_grad=False)


@pytest.mark.parametrize("gated_sum", [reference.combine, combine.gated_sum])
def test_gradients_of_the_gate_are_those_of_finite_differences(gated_sum):
    gates, *branches = (randn(i, 1, 3, 2, width).requires_grad_() for i, width in enumerate((3, 4, 4, 4)))
    assert torch.autograd.gradcheck(gated_sum, (gates, *branches))


@few
@given(SEEDS)
def test_the_gate_in_one_pass_is_the_gated_sum(seed):
    gates, *branches = (randn(seed + i, 2, 5, 3, width) for i, width in enumerate((3, 4, 4, 4)))
    torch.testing.assert_close(combine.gated_sum(gates, *branches), reference.combine(gates, *branches), rtol=0, atol=1e-14)


def test_zero_gates_leave_nothing_and_a_single_one_leaves_its_branch():
    branches = [randn(i, 1, 2, 2, 3) for i in range(3)]
    for kept in range(3):
        gates = torch.zeros(1, 2, 2, 3, dtype=torch.float64)
        assert not reference.combine(gates, *branches).any()
        gates[..., kept] = 1
        assert torch.equal(reference.combine(gates, *branches), branches[kept])


def test_weights_of_huge_scores_are_finite():
    q = torch.full((1, 1, 1, 1), 1e4, dtype=torch.float64)
    k = torch.tensor([1e4, -1e4], dtype=torch.float64).view(1, 1, 2, 1)
    found = reference.weights(q, k, torch.ones(1, 1, 1, 2, dtype=torch.bool))
    assert found.flatten().tolist() == [1.0, 0.0]
    assert math.isfinite(float(reference.attend(q, k, k, torch.ones(1, 1, 1, 2, dtype=torch.bool)).sum()))
