"""The forms that call FlashAttention-2, with an implementation of its contract in float64 in its place: exact to rounding."""

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.nsa.cases import SEEDS, geometries, randn
from workloads.nsa import compressed, flash, reference, selection, sliding, whole
from workloads.nsa.geometry import Geometry

EXACT: dict[str, Any] = {"rtol": 0, "atol": 1e-12}
few = settings(max_examples=40, deadline=None)
REAL = flash.attention


def contract(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window: int | None = None) -> tuple[Tensor, Tensor]:
    """What `workloads.nsa.flash.attention` says of itself, as one masked softmax in float64."""
    assert q.shape[-1] == k.shape[-1] == v.shape[-1], "one head dim for queries, keys and values"
    assert k.shape[1] == v.shape[1]
    assert q.stride(-1) == k.stride(-1) == v.stride(-1) == 1
    queries, keys, group = q.shape[1], k.shape[1], q.shape[2] // k.shape[2]
    own = torch.arange(queries)[:, None] + keys - queries  # the last query stands at the last key
    key = torch.arange(keys)
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        seen &= key <= own
    if window is not None:
        seen &= (key > own - window) & (key <= own)
    k, v = (x.repeat_interleave(group, 2) for x in (k, v))
    scores = torch.einsum("bihd,bjhd->bhij", q, k) / math.sqrt(q.shape[-1])
    lse = scores.masked_fill(~seen, -math.inf).logsumexp(-1)
    lse = lse.masked_fill(~seen.any(-1), math.inf)
    weights = (scores - lse[..., None]).exp().masked_fill(~seen, 0.0)
    return torch.einsum("bhij,bjhd->bihd", weights, v), lse


@pytest.fixture(autouse=True, scope="module")
def in_float64() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash, "check", lambda q, k: None)
        patch.setattr(flash, "attention", contract)
        yield


def test_the_stand_in_takes_what_the_real_one_takes():
    assert inspect.signature(contract) == inspect.signature(REAL)


class Tensors:
    """q, k, v in the layout [B, S, H, D] and in the reference's [B, H, S, D]."""

    def __init__(self, seed: int, batch: int, seq_len: int, kv_heads: int, group: int, dim: int, v_dim: int) -> None:
        self.q = randn(seed, batch, seq_len, kv_heads * group, dim)
        self.k, self.v = randn(seed + 1, batch, seq_len, kv_heads, dim), randn(seed + 2, batch, seq_len, kv_heads, v_dim)
        self.gates = randn(seed + 3, batch, seq_len, kv_heads * group, 3).sigmoid()
        self.heads_first = tuple(x.transpose(1, 2) for x in (self.q, self.k, self.v))
        self.t = torch.arange(seq_len)[None]
        self.at = self.t.expand(batch, -1).int()

    def pooled(self, g: Geometry) -> tuple[Tensor, Tensor]:
        return tuple(reference.pool(x, g).transpose(1, 2) for x in self.heads_first[1:])  # type: ignore[return-value]


@st.composite
def problems(draw) -> tuple[Geometry, Tensors]:
    g = draw(geometries(max_stride=8))
    seq_len = draw(st.integers(g.block_len, 120))
    dim = draw(st.sampled_from([2, 5, 8]))
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 4))
    return g, Tensors(draw(SEEDS), batch, seq_len, kv_heads, group, dim, draw(st.integers(1, dim)))


@few
@given(problems())
def test_the_compressed_branch_by_residues_is_the_reference(case):
    g, x = case
    found, _ = compressed.flash_pooled(x.q, *x.pooled(g), g)
    torch.testing.assert_close(found.transpose(1, 2), reference.compressed(*x.heads_first, x.t, g), **EXACT)


@few
@given(problems())
def test_its_log_sum_exp_is_that_of_the_scores_of_the_visible_compressed_tokens(case):
    g, x = case
    pooled, _ = x.pooled(g)
    _, found = compressed.flash_pooled(x.q, pooled, pooled, g)
    scores = torch.einsum("bihd,bjhd->bhij", x.q, pooled.repeat_interleave(x.q.shape[2] // pooled.shape[2], 2))
    seen = reference.visible_compressed(x.t, pooled.shape[1], g)
    expected = (scores / math.sqrt(x.q.shape[-1])).masked_fill(~seen, -math.inf).logsumexp(-1)
    torch.testing.assert_close(found, expected.masked_fill(expected == -math.inf, math.inf), **EXACT)


@few
@given(problems())
def test_the_log_sum_exp_gives_the_weights_of_the_block_scores(case):
    """What the Triton kernel does with it: p = exp(q k - lse), no second pass."""
    g, x = case
    pooled, _ = x.pooled(g)
    _, lse = compressed.flash_pooled(x.q, pooled, pooled, g)
    expected = reference.block_scores(*x.heads_first[:2], x.t, g)
    torch.testing.assert_close(scores_of(x.q, pooled, lse, x.t, expected.shape[-1], g), expected, **EXACT)


def scores_of(q: Tensor, pooled: Tensor, lse: Tensor, at: Tensor, num_blocks: int, g: Geometry) -> Tensor:
    group = q.shape[2] // pooled.shape[2]
    products = torch.einsum("bihd,bjhd->bhij", q, pooled.repeat_interleave(group, 2)) / math.sqrt(q.shape[-1])
    weights = (products - lse[..., None]).exp() * reference.visible_compressed(at, pooled.shape[1], g)
    return weights.unflatten(1, (-1, group)).sum(2) @ reference.overlap(pooled.shape[1], num_blocks, g)


@few
@given(problems())
def test_pooling_and_attention_in_one_call_are_the_same(case):
    g, x = case
    found, _ = compressed.flash(x.q.float(), x.k.float(), x.v.float(), g)
    torch.testing.assert_close(found.double().transpose(1, 2), reference.compressed(*x.heads_first, x.t, g), rtol=1e-5, atol=1e-5)


@few
@given(problems())
def test_the_sliding_branch_is_the_reference(case):
    g, x = case
    found = sliding.flash(x.q, x.k, x.v, g)
    torch.testing.assert_close(found.transpose(1, 2), reference.sliding(*x.heads_first, x.t, g), **EXACT)


def test_the_window_of_one_key_is_the_querys_own():
    x = Tensors(0, 1, 9, 1, 2, 4, 4)
    torch.testing.assert_close(sliding.flash(x.q, x.k, x.v, Geometry(1, 1, 1, 3, window=1)), x.v.expand(-1, -1, 2, -1), **EXACT)


@settings(max_examples=25, deadline=None)
@given(problems())
def test_the_fused_whole_is_the_reference(case):
    """With the choice and the pooling in float64 too, to see the order of its parts and gates to the last bits."""
    g, x = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "pool", lambda y, g: reference.pool(y.transpose(1, 2), g).transpose(1, 2))
        patch.setattr(selection, "has_triton", lambda device: False)
        patch.setattr(selection, "triton_choice", choice_in_float64)
        found, blocks = whole.fused(x.q, x.k, x.v, x.gates, x.at, g)
    q, k, v = x.heads_first
    best = reference.choose(scores := reference.block_scores(q, k, x.t, g), x.t, g)
    worth = [scores.gather(-1, one.clamp(min=0).long()).masked_fill(one < 0, 0).sort(-1).values for one in (blocks, best)]
    torch.testing.assert_close(*worth, **EXACT)
    expected = reference.nsa(q, k, v, x.t, x.gates.transpose(1, 2), g, blocks.long())
    torch.testing.assert_close(found.transpose(1, 2), expected, **EXACT)


def choice_in_float64(q: Tensor, pooled: Tensor, lse: Tensor, at: Tensor, g: Geometry) -> Tensor:
    return reference.choose(scores_of(q, pooled, lse, at, g.num_blocks(q.shape[1]), g), at, g).int()


@settings(max_examples=15, deadline=None)
@given(problems(), st.sampled_from(["compressed", "sliding", "nsa"]))
def test_gradients_are_the_references(case, name):
    """Of what is done around the kernel, whose own backward is PyTorch's; gathering sums a key's gradient in float32."""
    g, x = case
    leaves = [one.requires_grad_() for one in (x.q, x.k, x.v, x.gates)]
    q, k, v, gates = (one.transpose(1, 2) for one in leaves)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "pool", lambda y, g: reference.pool(y.transpose(1, 2), g).transpose(1, 2))
        patch.setattr(selection, "triton_choice", choice_in_float64)
        if name == "nsa":
            found, blocks = whole.fused(*leaves, x.at, g)
            expected = reference.nsa(q, k, v, x.t, gates, g, blocks.long())
        elif name == "compressed":
            found, expected = compressed.flash(*leaves[:3], g)[0], reference.compressed(q, k, v, x.t, g)
        else:
            found, expected = sliding.flash(*leaves[:3], g), reference.sliding(q, k, v, x.t, g)
    back = randn(0, *found.shape)
    ours = torch.autograd.grad(found, leaves, back, allow_unused=True)
    theirs = torch.autograd.grad(expected, leaves, back.transpose(1, 2), allow_unused=True)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4 if name == "nsa" else 1e-12)
