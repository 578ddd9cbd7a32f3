"""A branch that is wrong in a way that sums hide, such as the last rows alone, does not pass the gate."""

import dataclasses

import pytest
import torch
from torch import Tensor

from runner.worker.gate import GateResult
from tests.nsa.cases import axes_of, check, problem
from workloads.nsa import compressed, decode, prefill, selected, sliding, step
from workloads.nsa.cache import Cache
from workloads.nsa.geometry import Geometry
from workloads.nsa.problem import Problem

G = Geometry(8, 4, 8, 4, window=16)
CASE = axes_of(G, seq_len=200, context=200)
DTYPES = pytest.mark.parametrize("dtype", ["fp32", "bf16"])


def longer(**lengths: int) -> Geometry:
    return dataclasses.replace(G, **lengths)


def last_rows(right: Tensor, wrong: Tensor, rows: int = 2) -> Tensor:
    """What is right but for the last rows."""
    return torch.cat([right[:, :-rows], wrong[:, -rows:]], 1)


def ahead(p: Problem) -> Tensor:
    """Every query sees the key after it too."""
    seen = sliding.mask(p.shape.seq_len, G, p.q.device)
    return sliding.masked(p.q, p.k, p.v, seen | seen.roll(1, 1).tril(1))


def honest(p: Problem, q: Tensor | None = None) -> Tensor:
    return sliding.masked(p.q if q is None else q, p.k, p.v, sliding.mask(p.shape.seq_len, G, p.q.device))


def pooled(p: Problem, shift: int, visible: Tensor | None = None) -> Tensor:
    """The compressed branch with keys that are pooled `shift` positions too late."""
    seen = compressed.mask(p.shape.seq_len, G, p.q.device) if visible is None else visible
    return compressed.masked(p.q, p.k.roll(-shift, 1), p.v.roll(-shift, 1), seen, G)


def seen_compressed(p: Problem, more: int) -> Tensor:
    """A mask of `more` compressed tokens than a query may see."""
    return compressed.mask(p.shape.seq_len, G, p.q.device).roll(more, 1) | compressed.mask(p.shape.seq_len, G, p.q.device)


def gathered(p: Problem, ahead: int = 0, blocks: Tensor | None = None) -> Tensor:
    at = prefill.positions(p.shape, p.q.device) + ahead
    return selected.gather(p.q, p.k, p.v, p.blocks if blocks is None else blocks, at, G)


SLIDING = {
    "a window of one key more": lambda p: sliding.loop(p.q, p.k, p.v, longer(window=17)),
    "a window of one key less": lambda p: sliding.loop(p.q, p.k, p.v, longer(window=15)),
    "a window of one key more in the last rows": lambda p: last_rows(
        honest(p), sliding.loop(p.q, p.k, p.v, longer(window=17))
    ),
    "the next key too": ahead,
    "the wrong scale": lambda p: honest(p, p.q * 1.1),
    "the wrong scale in the last row": lambda p: last_rows(honest(p), honest(p, p.q * 1.5), 1),
    "the heads of the other group": lambda p: sliding.masked(
        p.q, p.k.flip(2), p.v, sliding.mask(p.shape.seq_len, G, p.q.device)
    ),
    "heads that are interleaved": lambda p: honest(p, p.q[:, :, [0, 2, 1, 3]])[:, :, [0, 2, 1, 3]],
    "sequences that are exchanged": lambda p: honest(p).flip(0),
    "a last row of zeros": lambda p: last_rows(honest(p), torch.zeros_like(honest(p)), 1),
    "a last row that is not written": lambda p: last_rows(honest(p), torch.full_like(honest(p), torch.nan), 1),
}  # fmt: skip
COMPRESSED = {
    "keys that are pooled one position late": lambda p: pooled(p, 1),
    "a compressed token that is not complete": lambda p: pooled(p, 0, seen_compressed(p, 1)),
    "every compressed token in the last row but the first": lambda p: last_rows(
        pooled(p, 0), pooled(p, 0, seen_compressed(p, 0) & (torch.arange(49) > 0)), 1
    ),
    "pooling over one stride": lambda p: compressed.masked(
        p.q, p.k, p.v, compressed.mask(p.shape.seq_len, longer(block_len=4), p.q.device), longer(block_len=4)
    ),
}  # fmt: skip
SELECTED = {
    "a key after the query": lambda p: gathered(p, ahead=1),
    "the first block where there is none": lambda p: gathered(p, blocks=p.blocks.clamp(min=0)),
    "a block less in the last row": lambda p: last_rows(
        gathered(p), gathered(p, blocks=p.blocks.clone().index_fill_(3, torch.tensor([1]), -1)), 1
    ),
    "the blocks of the other group": lambda p: gathered(p, blocks=p.blocks.flip(1)),
    "the blocks of the row before": lambda p: gathered(p, blocks=p.blocks.roll(1, 2)),
}  # fmt: skip
WRONG = [
    (variant, what, found)
    for variant, ways in (("sliding_masked", SLIDING), ("compressed_masked", COMPRESSED), ("selected_gather", SELECTED))
    for what, found in ways.items()
]


def held(variant: str, run, dtype: str) -> GateResult:
    """What the gate finds of a variant that computes `run(problem)`."""
    case = CASE | {"dtype": dtype}
    p = problem(prefill.WORKLOAD, case)[0]
    return check(prefill.WORKLOAD, dataclasses.replace(prefill.WORKLOAD.variants[variant], run=lambda *_: run(p)), case, (p,))


@DTYPES
@pytest.mark.parametrize(("variant", "run"), [
    ("sliding_masked", honest), ("compressed_masked", lambda p: pooled(p, 0)), ("selected_gather", gathered),
])  # fmt: skip
def test_the_same_ways_without_a_fault_pass(variant, run, dtype):
    assert held(variant, run, dtype).failure is None


@DTYPES
@pytest.mark.parametrize(("variant", "what", "run"), WRONG, ids=[what for _, what, _ in WRONG])
def test_a_faulty_branch_does_not_pass(variant, what, run, dtype):
    assert held(variant, run, dtype).failure is not None


def test_the_error_of_one_late_row_is_too_small_for_the_sum_over_all_and_caught_by_row():
    """A row of 200 that is off by 6%: less than half a percent of all."""
    result = held("sliding_masked", lambda p: last_rows(honest(p), honest(p) * 1.06, 1), "bf16")
    assert result.rel_l2 < result.rel_l2_bound
    assert result.worst < result.worst_bound
    assert result.failure is not None
    assert "in one row" in result.failure


# ---- decode


def stepped(name: str, run, **case) -> GateResult:
    """What the gate finds of a stage of a decode step that computes `run(*prepared)`."""
    asked = CASE | case
    inputs = problem(decode.WORKLOAD, asked)
    return check(decode.WORKLOAD, dataclasses.replace(decode.WORKLOAD.variants[name], run=run), asked, inputs)


def shorter(cache: Cache, by: int = 1) -> Cache:
    """The cache without its last tokens."""
    return dataclasses.replace(cache, lengths=[length - by for length in cache.lengths], ends=cache.ends - by)


@pytest.mark.parametrize("lengths", ["equal", "ragged"])
@pytest.mark.parametrize(("name", "run"), [
    ("dense_flash", lambda q, cache, _: step.dense(q, shorter(cache))),
    ("sliding", lambda q, cache, _: step.sliding(q, shorter(cache))),
    ("compressed", lambda q, cache, _: step.compressed(q, shorter(cache, by=4))),
    ("selected", lambda q, cache, blocks, at, _: step.read_selected(q, cache, blocks, at - 1)),
    ("scoring", lambda q, cache, at, _: step.choose(-q, cache, at)),
])  # fmt: skip
def test_a_faulty_stage_of_a_step_does_not_pass(name, run, lengths):
    assert stepped(name, run, lengths=lengths).failure is not None


def test_a_step_that_reads_fewer_keys_than_the_closed_form_is_counted_out():
    variant = decode.WORKLOAD.variants["sliding"]

    def with_a_shorter_window(inputs):
        q, cache, p = variant.prepare(inputs)
        return q, dataclasses.replace(cache, geometry=longer(window=15)), p

    short = dataclasses.replace(variant, prepare=with_a_shorter_window)
    with pytest.raises(AssertionError, match=r"counted {'sliding_keys': 30}, expected {'sliding_keys': 32}"):
        check(decode.WORKLOAD, short, CASE, problem(decode.WORKLOAD, CASE))


def test_a_whole_step_that_chooses_fewer_blocks_is_counted_out():
    def fewer(q, gates, cache, at, _):
        output, blocks = step.whole(q, gates, cache, at)
        return output, blocks.index_fill(3, torch.tensor([1]), -1)

    with pytest.raises(AssertionError, match=r"counted .*selected_keys"):
        stepped("whole", fewer)
