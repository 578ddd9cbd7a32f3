"""Decoding: a prompt and then steps give what the whole prompt gives; the cache emits when due; a stage is alone."""

import dataclasses
import math
import sys
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.nsa.cases import SEEDS, axes_of, geometries, problem, randn
from workloads.nsa import compressed, decode, prefill, reference, sliding, step, whole
from workloads.nsa.cache import Cache
from workloads.nsa.geometry import Geometry

few = settings(max_examples=15, deadline=None)
TIGHT: dict[str, Any] = {"rtol": 1e-5, "atol": 1e-5}


class Stream(NamedTuple):
    """q [B, S, Hq, D], k and v [B, S, Hkv, D], gates [B, S, Hq, 3] of all tokens; the first `prompts` of each are the prompt."""

    q: Tensor
    k: Tensor
    v: Tensor
    gates: Tensor
    prompts: list[int]
    g: Geometry

    def filled(self, beyond: float = 0.0) -> Cache:
        """The cache after the prompts, with room for all; `beyond` fills the room."""
        k, v = self.k.clone(), self.v.clone()
        for sequence, length in enumerate(self.prompts):
            k[sequence, length:] = v[sequence, length:] = beyond
        return Cache.of(k, v, self.prompts, self.g)

    def at(self, x: Tensor, cache: Cache) -> Tensor:
        """The row of x [B, S, ...] at the last token of each sequence, [B, 1, ...]."""
        return x[torch.arange(len(x)), cache.ends - 1][:, None]

    def steps(self, cache: Cache):
        """Append token by token until one sequence is at its end."""
        while max(cache.lengths) < self.k.shape[1]:
            rows = torch.arange(len(self.k))
            cache.append(self.k[rows, cache.ends], self.v[rows, cache.ends])
            yield cache.ends[:, None].int() - 1


@st.composite
def streams(draw, max_len: int = 48, max_ratio: int = 4, ragged: bool | None = None) -> Stream:
    """Prompts shorter than a compressed token too."""
    g = draw(geometries(max_stride=4, max_ratio=max_ratio))
    seq_len = draw(st.integers(g.block_len + 1, max_len))
    batch, kv_heads, group = draw(st.integers(1, 2)), draw(st.integers(1, 2)), draw(st.integers(1, 3))
    prompts = [draw(st.integers(1, seq_len - 1))] * batch
    if ragged if ragged is not None else draw(st.booleans()):
        prompts = [draw(st.integers(1, seq_len - 1)) for _ in prompts]
    return stream(g, seq_len, prompts, draw(SEEDS), kv_heads, group)


def stream(g: Geometry, seq_len: int, prompts: list[int], seed: int = 0, kv_heads: int = 1, group: int = 2) -> Stream:
    sizes = ((kv_heads * group, 8), (kv_heads, 8), (kv_heads, 8), (kv_heads * group, 3))
    q, k, v, gates = (randn(seed + i, len(prompts), seq_len, *size, dtype=torch.float32) for i, size in enumerate(sizes))
    return Stream(q, k, v, gates.sigmoid(), prompts, g)


def in_one_go(s: Stream) -> tuple[Tensor, Tensor]:
    """The whole prompt by the variant that runs everywhere: output [B, S, Hq, D] and blocks [B, Hkv, S, n]."""
    seq_len = s.k.shape[1]
    at = torch.arange(seq_len, dtype=torch.int32).expand(len(s.k), -1)
    masks = sliding.mask(seq_len, s.g, s.q.device), compressed.mask(seq_len, s.g, s.q.device)
    return whole.masked(s.q, s.k, s.v, s.gates, at, s.g, *masks)


# ---- prefill and steps


@few
@given(streams(max_ratio=2))
def test_a_prompt_and_then_steps_give_what_the_whole_prompt_gives(s):
    """l up to 2 d: beyond that, blocks may have the same compressed tokens, and rounding decides between them."""
    expected, expected_blocks = in_one_go(s)
    cache = s.filled()
    for at in s.steps(cache):
        found, blocks = step.whole(s.at(s.q, cache), s.at(s.gates, cache), cache, at)
        torch.testing.assert_close(found, s.at(expected, cache), **TIGHT)
        assert torch.equal(blocks.transpose(1, 2), s.at(expected_blocks.transpose(1, 2), cache))


@few
@given(streams(), st.sampled_from(["dense", "compressed", "sliding"]))
def test_every_step_of_a_branch_is_its_row_of_the_whole_prompt(s, branch):
    heads_first = [x.transpose(1, 2).double() for x in (s.q, s.k, s.v)]
    t = torch.arange(s.k.shape[1])[None]
    expected = getattr(reference, branch)(*heads_first, t, *([s.g] if branch != "dense" else [])).transpose(1, 2)
    cache = s.filled()
    for _ in s.steps(cache):
        found = getattr(step, branch)(s.at(s.q, cache), cache)
        torch.testing.assert_close(found.double(), s.at(expected, cache), **TIGHT)


@few
@given(streams())
def test_every_step_chooses_blocks_as_good_as_the_whole_prompts(s):
    t = torch.arange(s.k.shape[1])[None]
    scores = reference.block_scores(s.q.transpose(1, 2).double(), s.k.transpose(1, 2).double(), t, s.g)
    best = reference.choose(scores, t, s.g)

    def worth(blocks: Tensor, of: Tensor) -> Tensor:
        return of.gather(-1, blocks.long().clamp(min=0)).masked_fill(blocks < 0, 0.0).sort(-1).values

    cache = s.filled()
    for at in s.steps(cache):
        blocks = step.choose(s.at(s.q, cache), cache, at)
        of, expected = (s.at(x.transpose(1, 2), cache).transpose(1, 2) for x in (scores, best))
        torch.testing.assert_close(worth(blocks, of), worth(expected, of), **TIGHT)
        assert torch.equal(blocks >= 0, expected >= 0)


@pytest.mark.parametrize("prompts", [[20], [20, 20], [20, 33], [3, 40]])
def test_a_hundred_steps_past_the_window_and_across_blocks(prompts):
    s = stream(Geometry(8, 4, 8, 4, window=12), 140, prompts, kv_heads=2)
    expected, _ = in_one_go(s)
    cache = s.filled()
    for at in s.steps(cache):
        found, _ = step.whole(s.at(s.q, cache), s.at(s.gates, cache), cache, at)
        torch.testing.assert_close(found, s.at(expected, cache), **TIGHT)
    assert max(cache.lengths) == 140 > 8 * s.g.window


@few
@given(streams(ragged=False), st.integers(1, 47))
def test_sequences_of_one_length_read_slices_and_give_what_masks_give(s, other):
    """A batch with one more sequence of another length is read with masks."""
    other = min(other, s.k.shape[1] - 1)
    more = Stream(*(torch.cat([x, x[:1]]) for x in s[:4]), [*s.prompts, other], s.g)
    even, ragged = s.filled(), more.filled()
    last = torch.tensor(more.prompts, dtype=torch.int32)[:, None] - 1
    for name in ("dense", "compressed", "sliding"):
        found = getattr(step, name)(s.at(s.q, even), even)
        again = getattr(step, name)(more.at(more.q, ragged), ragged)[:-1]
        torch.testing.assert_close(found, again, **TIGHT)
    blocks = step.choose(more.at(more.q, ragged), ragged, last)
    assert torch.equal(step.choose(s.at(s.q, even), even, last[:-1]), blocks[:-1])


STAGES = ["dense", "compressed", "sliding", "choose", "read_selected"]


def stage(name: str, s: Stream, cache: Cache) -> Tensor:
    """What a stage finds for the last tokens of the prompts."""
    at = cache.ends[:, None].int() - 1
    blocks = (step.choose(s.at(s.q, s.filled()), s.filled(), at),) if name == "read_selected" else ()
    return getattr(step, name)(s.at(s.q, cache), cache, *blocks, *((at,) if name in ("choose", "read_selected") else ()))


@pytest.mark.parametrize("name", STAGES)
@few
@given(streams())
def test_what_lies_beyond_the_end_of_a_sequence_does_not_matter(name, s):
    torch.testing.assert_close(stage(name, s, s.filled(beyond=1e4)), stage(name, s, s.filled()))


@pytest.mark.parametrize("name", STAGES)
def test_what_lies_beyond_the_end_may_be_memory_that_was_never_written_where_lengths_are_equal(name):
    s = stream(Geometry(8, 4, 8, 4, window=12), 60, [21, 21])
    torch.testing.assert_close(stage(name, s, s.filled(beyond=math.nan)), stage(name, s, s.filled()))


# ---- the cache


@few
@given(streams())
def test_the_compressed_tokens_of_every_step_are_the_pooled_keys_and_values(s):
    cache = s.filled()
    for _ in s.steps(cache):
        for pooled, source in ((cache.pooled_k, s.k), (cache.pooled_v, s.v)):
            for sequence, length in enumerate(cache.lengths):
                expected = reference.pool(source[sequence : sequence + 1, :length].transpose(1, 2).double(), s.g).transpose(1, 2)
                count = s.g.num_compressed(length)
                torch.testing.assert_close(pooled[sequence : sequence + 1, :count].double(), expected, **TIGHT)


@few
@given(streams(ragged=False))
def test_a_compressed_token_is_emitted_every_d_tokens_from_the_l_th_on(s):
    """Seen from the memory: nothing is written at any other step."""
    cache = s.filled()
    for _ in s.steps(cache):
        length = cache.lengths[0]
        before = s.filled()
        before.lengths, before.ends = list(cache.lengths), cache.ends
        before.k[:], before.v[:] = cache.k, cache.v
        before.pooled_k[:], before.pooled_v[:] = math.nan, math.nan
        before.emit()
        written = (~before.pooled_k.isnan()).all((0, 2, 3)).nonzero().flatten().tolist()
        due = length >= s.g.block_len and (length - s.g.block_len) % s.g.stride == 0
        assert written == ([(length - s.g.block_len) // s.g.stride] if due else [])
        assert torch.equal(before.pooled_k.isnan(), before.pooled_v.isnan())


@few
@given(streams())
def test_emitting_twice_is_emitting_once(s):
    cache = s.filled()
    for _ in s.steps(cache):
        once = cache.pooled_k.clone(), cache.pooled_v.clone()
        cache.emit()
        for kept, again, count in zip(once, (cache.pooled_k, cache.pooled_v), (cache.complete,) * 2, strict=True):
            for sequence, visible in enumerate(count):
                assert torch.equal(kept[sequence, :visible], again[sequence, :visible])


@few
@given(streams())
def test_a_view_holds_what_its_query_may_see(s):
    cache = s.filled()
    for _ in s.steps(cache):
        last = [length - 1 for length in cache.lengths]
        assert cache.everything().keys == sum(cache.lengths)
        assert cache.compressed().keys == sum(map(s.g.visible_compressed, last))
        assert cache.window().keys == sum(map(s.g.window_keys, last))


@few
@given(geometries(), st.integers(0, 60), SEEDS)
def test_keys_read_counts_the_union_and_only_up_to_the_query(g, t, seed):
    blocks = torch.randint(-1, g.num_blocks(t + 1) + 1, (1, 1, 1, g.num_select), generator=torch.Generator().manual_seed(seed))
    expected = {
        key for block in blocks.flatten().tolist() if block >= 0
        for key in range(block * g.select_len, (block + 1) * g.select_len) if key <= t
    }  # fmt: skip
    assert step.keys_read(blocks, torch.tensor([[t]]), g) == len(expected)


def test_keys_read_refuses_heads_that_read_different_numbers_of_keys():
    with pytest.raises(ValueError, match="KV heads read different numbers of keys"):
        step.keys_read(torch.tensor([[[[0, 1, 2]], [[0, 2, -1]]]]), torch.tensor([[11]]), Geometry(4, 4, 4, 3))


# ---- a stage is alone

OWN = {
    "dense": {"step.dense", "cache.Cache.everything", "dense.*"},
    "compressed": {"step.compressed", "compressed.masked", "compressed.loop", "compressed.flash", "compressed.flash_pooled"},
    "scoring": {"step.choose", "selection.scores", "selection.of_blocks", "selection.choose", "selection.torch_choice",
                "selection.choose_by_torch", "reference.choose"},
    "selected": {"step.read_selected", "selected.*"},
    "sliding": {"step.sliding", "cache.Cache.window", "sliding.*"},
    "combine": {"combine.*"},
}  # fmt: skip
"""Functions that a stage calls and no other one does."""


def called(action) -> set[str]:
    """The functions of workloads.nsa that run, as `module.name` and `module.*`."""
    names: set[str] = set()

    def note(frame, event, _):
        module = frame.f_globals.get("__name__", "")
        if event == "call" and module.startswith("workloads.nsa."):
            short = module.removeprefix("workloads.nsa.")
            names.update({f"{short}.{frame.f_code.co_qualname}", f"{short}.*"})

    sys.setprofile(note)
    try:
        action()
    finally:
        sys.setprofile(None)
    return names


def stages_in(workload, name: str, **case: Any) -> set[str]:
    """The stages that a variant calls."""
    variant = workload.variants[name]
    prepared = variant.prepare(problem(workload, axes_of(Geometry(8, 4, 8, 4, 12), seq_len=61, context=61, **case)))
    found = called(lambda: variant.run(*prepared))
    return {stage for stage, own in OWN.items() if own & found}


@pytest.mark.parametrize("lengths", ["equal", "ragged"])
@pytest.mark.parametrize(("name", "stage"), [
    ("dense_flash", "dense"), ("compressed", "compressed"), ("scoring", "scoring"), ("selected", "selected"),
    ("sliding", "sliding"), ("combine", "combine"),
])  # fmt: skip
def test_a_stage_of_a_step_calls_no_other(name, stage, lengths):
    assert stages_in(decode.WORKLOAD, name, lengths=lengths) == {stage}


@pytest.mark.parametrize(("name", "stage"), [
    ("dense_flash", "dense"), ("compressed_masked", "compressed"), ("compressed_loop", "compressed"), ("combine", "combine"),
    ("selected_gather", "selected"), ("sliding_masked", "sliding"), ("sliding_loop", "sliding"), ("scoring_torch", "scoring"),
])  # fmt: skip
def test_a_branch_of_prefill_calls_no_other(name, stage):
    assert stages_in(prefill.WORKLOAD, name) == {stage}


@pytest.mark.parametrize(("workload", "name"), [(decode.WORKLOAD, "whole"), (prefill.WORKLOAD, "whole_masked")])
def test_the_whole_calls_every_stage_and_no_dense_attention(workload, name):
    assert stages_in(workload, name) == set(OWN) - {"dense"}


READS = {
    "dense": {"k", "v"},
    "compressed": {"pooled_k", "pooled_v"},
    "choose": {"pooled_k"},
    "read_selected": {"k", "v"},
    "sliding": {"k", "v"},
}


@pytest.mark.parametrize("prompts", [[45, 45], [27, 45]])
@pytest.mark.parametrize("stage", READS)
def test_a_stage_reads_only_its_tensors_of_the_cache(stage, prompts):
    s = stream(Geometry(8, 4, 8, 4, window=12), 60, prompts)
    cache = s.filled()
    at = cache.ends[:, None].int() - 1
    given = {"choose": (at,), "read_selected": (step.choose(s.at(s.q, cache), cache, at), at)}.get(stage, ())
    others = {"k", "v", "pooled_k", "pooled_v"} - READS[stage]
    poisoned = dataclasses.replace(cache, **{name: torch.full_like(getattr(cache, name), math.nan) for name in others})
    expected = getattr(step, stage)(s.at(s.q, cache), cache, *given)
    assert torch.equal(getattr(step, stage)(s.at(s.q, cache), poisoned, *given), expected)


def test_a_window_reads_nothing_before_it():
    s = stream(Geometry(8, 4, 8, 4, window=12), 60, [45, 45])
    cache = s.filled()
    expected = step.sliding(s.at(s.q, cache), cache)
    cache.k[:, :33] = cache.v[:, :33] = math.nan
    assert torch.equal(step.sliding(s.at(s.q, cache), cache), expected)


def test_a_query_reads_nothing_but_its_blocks():
    s = stream(Geometry(8, 4, 8, 4, window=12), 60, [48])
    cache = s.filled()
    at, blocks = torch.tensor([[47]], dtype=torch.int32), torch.tensor([[[[0, 2, 4, 5]]]], dtype=torch.int32)
    expected = step.read_selected(s.at(s.q, cache), cache, blocks, at)
    for block in (1, 3):
        cache.k[:, block * 8 : block * 8 + 8] = cache.v[:, block * 8 : block * 8 + 8] = math.nan
    assert torch.equal(step.read_selected(s.at(s.q, cache), cache, blocks, at), expected)


def test_no_step_sees_what_another_variant_wrote():
    inputs = problem(decode.WORKLOAD, axes_of(Geometry(8, 4, 8, 4, 12), context=61))
    one, other = (decode.WORKLOAD.variants[name].prepare(inputs)[1] for name in ("compressed", "sliding"))
    one.pooled_k[:] = math.nan
    assert not other.pooled_k.isnan().any()
