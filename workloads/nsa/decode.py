"""NSA decode: one step on a cache at a stated context, each stage alone, the whole, and dense attention beside it."""

from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Inputs, Workload
from workloads.nsa import combine, selection, step
from workloads.nsa import operations as of
from workloads.nsa.cache import Cache
from workloads.nsa.problem import Problem, Shape, shape_of, tensors_of
from workloads.nsa.variants import variant

Arguments = tuple[Any, ...]


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the problem of a case: the cache holds `context` tokens a sequence, the query is the last of them."""
    shape = shape_of(axes, context.params)
    q, k, v, gates = tensors_of(shape, 1, context)
    branches = torch.stack([context.randn(*q.shape[:3], shape.v_head_dim).to(q.dtype) for _ in range(3)])
    at = torch.tensor(shape.lengths, device=q.device, dtype=torch.int32)[:, None] - 1
    cache = Cache.of(k, v, shape.lengths, shape.geometry)
    scores = selection.scores(q, cache.pooled_k, at, shape.geometry.num_blocks(shape.seq_len), shape.geometry)
    blocks = selection.choose_by_torch(scores, at, shape.geometry)
    return (Problem(q, k, v, gates, blocks, torch.zeros_like(at).long(), at, shape, branches),)


def reads(shape: Shape) -> of.Reads:
    """The one query reads what it may see, and only that is moved."""
    geometry, lengths = shape.geometry, shape.lengths
    pairs = {
        "dense": sum(lengths),
        "sliding": sum(geometry.window_keys(length - 1) for length in lengths),
        "compressed": sum(geometry.visible_compressed(length - 1) for length in lengths),
        "selected": sum(geometry.selected_keys(length - 1) for length in lengths),
    }
    pairs["whole"] = sum(pairs[name] for name in of.BRANCHES)
    return of.Reads(shape.batch, pairs, pairs | {"scoring": pairs["compressed"]})


def _cache(p: Problem) -> Cache:
    """A cache of the variant's own, so that no step sees what another wrote."""
    return Cache.of(p.k, p.v, p.shape.lengths, p.geometry)


def _query(p: Problem) -> Arguments:
    return p.q, _cache(p)


def _query_at(p: Problem) -> Arguments:
    return p.q, _cache(p), p.at


def _chosen(p: Problem) -> Arguments:
    return p.q, _cache(p), p.blocks, p.at


def _everything(p: Problem) -> Arguments:
    return p.q, p.gates, _cache(p), p.at


def _for_triton(p: Problem) -> Arguments:
    cache = _cache(p)
    return p.q, p.gates, cache, p.at, step.workspace_for(p.q, cache)


def _for_fla(p: Problem) -> Arguments:
    cache = _cache(p)
    step.check_fla(p.q, cache)
    counts = torch.arange(p.shape.batch + 1, device=p.q.device, dtype=torch.int32)
    return p.q, p.gates, cache, p.at, (counts, counts * p.shape.seq_len)


def _count(branch: str) -> Any:
    """Count what a branch's view of the cache holds."""
    views = {"dense": Cache.everything, "compressed": Cache.compressed, "sliding": Cache.window}
    return lambda output, prepared: {f"{branch}_keys": views[branch](prepared[1]).keys}


def _count_given(output: Tensor, prepared: Inputs) -> dict[str, int]:
    _, cache, blocks, at, _ = prepared
    return {"selected_keys": step.keys_read(blocks, at, cache.geometry)}


def _count_whole(output: tuple[Tensor, Tensor], prepared: Inputs) -> dict[str, int]:
    _, _, cache, at, *_ = prepared
    counts = {
        "compressed_keys": cache.compressed().keys,
        "selected_keys": step.keys_read(output[1], at, cache.geometry),
        "sliding_keys": cache.window().keys,
    }
    return counts | {"keys_total": sum(counts.values())}


WORKLOAD = Workload(
    inputs=inputs,
    operations=of.operations(reads),
    variants={
        "dense_flash": variant("dense", step.dense, _query, counters=_count("dense")),
        "dense_cudnn": variant("dense", step.dense_cudnn, _query, counters=_count("dense")),
        "compressed": variant("compressed", step.compressed, _query, counters=_count("compressed")),
        "scoring": variant("scoring", step.choose, _query_at, finish=of.scores_of_choice),
        "selected": variant("selected", step.read_selected, _chosen, counters=_count_given),
        "sliding": variant("sliding", step.sliding, _query, counters=_count("sliding")),
        "combine": variant("combine", combine.gated_sum, lambda p: (p.gates, *p.branches)),
        "whole": variant("whole", step.whole, _everything, finish=of.settled, counters=_count_whole),
        "whole_triton": variant("whole", step.whole_triton, _for_triton, finish=of.settled, counters=_count_whole),
        "whole_fla": variant("whole", step.whole_fla, _for_fla, finish=of.settled, counters=_count_whole),
    },
)
