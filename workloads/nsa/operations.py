"""What the variants compute: the truth, the least work and the closed form of the keys read, for each stage and the whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Operation, Params, Work
from workloads.nsa import reference, selection
from workloads.nsa.problem import Problem, Shape, at_rows, by_rows, keys_and_values, shape_of, take_rows
from workloads.nsa.variants import gradients, stacked

BRANCHES = ("compressed", "selected", "sliding")
INDEX_BYTES = 4

BACKWARD_OPS = 3.5
"""Matrix products of forward and backward (2 + 5) over those of forward (2), as FlashAttention counts them."""

BACKWARD_BYTES = 2.5
"""Queries, keys, values and output are read again, and as many gradients written but for the output's, which is read."""


@dataclass(frozen=True)
class Reads:
    """What a case reads, by stage: `pairs` of queries and keys per KV head, and keys `moved` from memory per KV head.

    Both are sums over the batch, as are the `queries`. In prefill a key is moved once for all queries; in decode, only what the
    one query reads.
    """

    queries: int
    pairs: Mapping[str, int]
    moved: Mapping[str, int]


def truth(name: str, p: Problem, blocks: Tensor | None = None) -> Tensor:
    """Return what the reference says of an operation at the checked rows: its output, or the gradients where a case has them.

    `blocks` [B, Hkv, R, n] replaces the choice of blocks of the whole.
    """
    if p.grad is None:
        return _output(name, p, blocks)
    leaves = [x.detach().double().requires_grad_() for x in (p.q, p.k, p.v, p.gates)]
    p = p._replace(q=leaves[0], k=leaves[1], v=leaves[2], gates=leaves[3], grad=take_rows(p.grad, p.rows).double())
    return stacked(gradients(_output(name, p, blocks), p)).detach()


def _output(name: str, p: Problem, blocks: Tensor | None) -> Tensor:
    k, v = keys_and_values(p)
    geometry = p.geometry
    if name == "dense":
        return by_rows(lambda q, t: reference.dense(q, k, v, t), p)
    if name == "sliding":
        return by_rows(lambda q, t: reference.sliding(q, k, v, t, geometry), p)
    if name == "compressed":
        return by_rows(lambda q, t: reference.compressed(q, k, v, t, geometry), p)
    if name == "selected":
        given = selection.blocks_at_rows(p.blocks, p)
        return by_rows(lambda q, t, chosen: reference.selected(q, k, v, t, chosen, geometry), p, given)
    chosen = best_blocks(p) if blocks is None else blocks
    gates = take_rows(p.gates, p.rows).double()
    return by_rows(lambda q, t, gate, chosen: reference.nsa(q, k, v, t, gate, geometry, chosen), p, gates, chosen)


def best_blocks(p: Problem) -> Tensor:
    """Return the reference's choice for the checked rows, [B, Hkv, R, n]."""
    return reference.choose(selection.true_scores(p), p.at, p.geometry)


def choice(p: Problem) -> Tensor:
    """The truth of the stage that chooses blocks: the true scores of the best ones."""
    return selection.truth_of_choice(p, best_blocks(p))


def scores_of_choice(blocks: Tensor, p: Problem) -> Tensor:
    """Bring chosen blocks [B, Hkv, S, n] to what `choice` returns."""
    return selection.truth_of_choice(p, selection.blocks_at_rows(blocks, p))


def settled(output: tuple[Any, Tensor], p: Problem) -> Tensor:
    """Bring the whole's output to the reference's choice where only near ties were decided otherwise."""
    found, blocks = output
    there = stacked(found) if p.shape.backward else at_rows(found, p)
    return selection.settle(there, selection.blocks_at_rows(blocks, p), p, lambda chosen: truth("whole", p, chosen))


def combination(p: Problem) -> Tensor:
    """The truth of the stage that combines the branches."""
    gates, *branches = (take_rows(x, p.rows).double() for x in (p.gates, *p.branches))
    return reference.combine(gates, *branches)


def operations(reads: Callable[[Shape], Reads]) -> dict[str, Operation]:
    """Return every operation by its stage's name, given what a case of this workload reads."""

    def attention(stage: str) -> Operation:
        def work(axes: Axes, params: Params, dtype: str) -> Work:
            shape, size = shape_of(axes, params), BYTES_PER_ELEMENT[dtype]
            read, width = reads(shape), shape.head_dim + shape.v_head_dim
            gates = 3 * read.queries * shape.heads if stage == "whole" else 0
            elements = (read.queries * shape.heads + read.moved[stage] * shape.kv_heads) * width + gates
            ops, least = (BACKWARD_OPS, BACKWARD_BYTES) if shape.backward else (1, 1)
            return Work(ops=2.0 * shape.heads * width * read.pairs[stage] * ops, bytes=float(elements * size * least))

        def counters(axes: Axes, params: Params) -> dict[str, int]:
            pairs = reads(shape_of(axes, params)).pairs
            if stage == "whole":
                return {f"{name}_keys": pairs[name] for name in BRANCHES} | {"keys_total": pairs["whole"]}
            return {f"{stage}_keys": pairs[stage]}

        return Operation(lambda p: truth(stage, p), work, counters)

    def scoring(axes: Axes, params: Params, dtype: str) -> Work:
        shape, size = shape_of(axes, params), BYTES_PER_ELEMENT[dtype]
        read = reads(shape)
        elements = (read.queries * shape.heads + read.moved["scoring"] * shape.kv_heads) * shape.head_dim
        chosen = read.queries * shape.kv_heads * shape.geometry.num_select * INDEX_BYTES
        return Work(ops=2.0 * shape.heads * shape.head_dim * read.pairs["compressed"], bytes=float(elements * size + chosen))

    def combine(axes: Axes, params: Params, dtype: str) -> Work:
        shape = shape_of(axes, params)
        outputs = reads(shape).queries * shape.heads
        elements = outputs * (4 * shape.v_head_dim + 3)
        return Work(ops=5.0 * outputs * shape.v_head_dim, bytes=float(elements * BYTES_PER_ELEMENT[dtype]))

    return {stage: attention(stage) for stage in ("dense", *BRANCHES, "whole")} | {
        "scoring": Operation(choice, scoring),
        "combine": Operation(combination, combine),
    }
