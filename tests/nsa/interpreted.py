"""Runs the Triton kernels on a CPU, for tests/nsa/test_kernels.py: `TRITON_INTERPRET=1 python -m tests.nsa.interpreted 0 1`.

Triton looks at that variable when it is imported, so this is a process of its own. Prints, as JSON, how far each kernel was from
the float64 reference on each of CASES and PROMPTS, or on every second one, as in `0 2` and `1 2`.
"""

import json
import math
import random
import sys
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.nsa.cases import randn
from workloads.nsa import reference
from workloads.nsa.geometry import Geometry

PROGRAMS = 4
"""Programs of the kernels that have one for each query and KV head: the interpreter takes 20 ms for each."""


@dataclass(frozen=True)
class Kernels:
    """A shape: the queries are the last `queries` of `seq_len` positions; `seq_len` less `late` for each further sequence."""

    g: Geometry
    heads: int
    kv_heads: int
    seq_len: int
    queries: int
    dim: int = 16
    v_dim: int = 16
    batch: int = 1
    late: int = 0
    dtype: str = "float32"

    @property
    def positions(self) -> Tensor:
        """[B, R], of every query."""
        last = torch.arange(self.batch)[:, None] * -self.late + self.seq_len
        return last - self.queries + torch.arange(self.queries)


def drawn(seed: int) -> Kernels:
    """A small shape, the same for the same seed."""
    pick = random.Random(seed)
    d = pick.choice([1, 2, 3, 4, 8])
    g = Geometry(d * pick.randint(1, 4), d, d * pick.randint(1, 4), pick.randint(3, 6), 8)
    kv_heads, seq_len = pick.randint(1, 2), g.block_len + pick.randint(0, 60)
    queries = pick.randint(1, min(12, seq_len))
    late = pick.randint(0, seq_len - queries)
    return Kernels(
        g, kv_heads * pick.randint(1, 8), kv_heads, seq_len, queries, pick.choice([8, 16, 20, 24, 32]),
        pick.choice([4, 16, 20, 40]), pick.randint(1, 2), min(late, 7),
    )  # fmt: skip


CASES = {
    "group 1, l = 2 d": Kernels(Geometry(8, 4, 16, 4), 1, 1, 48, 48),
    "group 2, batch 2": Kernels(Geometry(8, 4, 16, 4), 4, 2, 41, 20, 16, 24, batch=2),
    "group 3, head dim 20": Kernels(Geometry(8, 4, 8, 4), 6, 2, 40, 16, 20, 20),
    "group 4, l = d = l'": Kernels(Geometry(4, 4, 4, 3), 4, 1, 37, 37),
    "group 8, l = 4 d": Kernels(Geometry(16, 4, 16, 3), 8, 1, 45, 20, 32, 16),
    "group 16, l = d": Kernels(Geometry(4, 4, 8, 3), 16, 1, 33, 12),
    "group 16, two KV heads": Kernels(Geometry(8, 4, 8, 4), 32, 2, 40, 6),
    "group 5 of 20 heads": Kernels(Geometry(8, 8, 8, 3), 20, 4, 30, 3),
    "l > l'": Kernels(Geometry(16, 4, 8, 4), 2, 1, 48, 24),
    "l = 4 l'": Kernels(Geometry(8, 2, 2, 5), 2, 1, 48, 48),
    "one key a block": Kernels(Geometry(1, 1, 1, 6), 2, 1, 20, 20),
    "the paper's lengths": Kernels(Geometry(), 16, 1, 1200, 3, 32, 16),
    "blocks of 96": Kernels(Geometry(32, 16, 96, 3), 2, 1, 500, 4),
    "more blocks than one step of the kernel": Kernels(Geometry(2, 2, 2, 4), 2, 1, 300, 4),
    "more slots than blocks": Kernels(Geometry(8, 4, 8, 12), 4, 2, 40, 20),
    "one block": Kernels(Geometry(4, 4, 64, 3), 2, 1, 30, 30),
    "the first queries see nothing": Kernels(Geometry(32, 8, 8, 3), 2, 1, 40, 40),
    "decode": Kernels(Geometry(8, 4, 16, 4), 16, 2, 101, 1, batch=2),
    "decode of sequences of other lengths": Kernels(Geometry(8, 4, 16, 4), 8, 2, 101, 1, batch=3, late=37),
    "values wider than keys": Kernels(Geometry(8, 4, 8, 4), 2, 1, 40, 10, 16, 72),
    "head dim 192": Kernels(Geometry(8, 4, 8, 4), 2, 1, 40, 4, 192, 128),
    "float16": Kernels(Geometry(8, 4, 8, 4), 4, 1, 48, 20, dtype="float16"),
} | {f"random {seed}": drawn(seed) for seed in range(6)}  # fmt: skip


@dataclass(frozen=True)
class Prompt:
    """A whole prompt for the kernels that only prefill has; small tiles, so that it takes several of them."""

    g: Geometry
    heads: int
    kv_heads: int
    seq_len: int
    dim: int = 16
    v_dim: int = 16
    batch: int = 1
    dtype: str = "float32"
    chunk: int = 16
    pieces: int = 1


PROMPTS = {
    "prompt, group 4": Prompt(Geometry(8, 4, 8, 5, 11), 8, 2, 70, 16, 24, chunk=32),
    "prompt, group 3, batch 2, in pieces": Prompt(Geometry(4, 4, 12, 4, 5), 3, 1, 75, 20, 16, batch=2, pieces=3),
    "prompt, group 1, window over all": Prompt(Geometry(2, 1, 4, 6, 99), 2, 2, 45, 16, 16, chunk=32),
    "prompt, group 16, float16": Prompt(Geometry(8, 8, 16, 3, 16), 16, 1, 53, 32, 16, dtype="float16"),
    "prompt, shorter than a block": Prompt(Geometry(8, 4, 64, 3, 3), 2, 1, 21),
}


def measure_prompt(c: Prompt, seed: int) -> dict[str, float]:
    """The largest errors of the kernels that only a whole prompt has."""
    from workloads.nsa import kernels
    from workloads.nsa.kernels.tiles import Tile

    dtype, g, at = getattr(torch, c.dtype), c.g, torch.arange(c.seq_len)[None]
    q = randn(seed, c.batch, c.heads, c.seq_len, c.dim, dtype=dtype).transpose(1, 2)  # strided, as models may have it
    k = randn(seed + 1, c.batch, c.seq_len, c.kv_heads, c.dim, dtype=dtype)
    v = randn(seed + 2, c.batch, c.seq_len, c.kv_heads, c.v_dim, dtype=dtype)
    gates = randn(seed + 3, c.batch, c.seq_len, c.heads, 3, dtype=dtype).sigmoid()
    wide, tile = Tile(32, 16, 4, 2), Tile(16, 16, 4, 1)
    heads_first = [x.transpose(1, 2).double() for x in (q, k, v)]

    def error(found: Tensor, truth: Tensor) -> float:
        return float((found.transpose(1, 2).double() - truth).abs().max())

    pooled = kernels.pool(k, v, g)
    means = [reference.pool(x, g) for x in heads_first[1:]]
    of_compressed, lse = kernels.band(q, *pooled, last_key=g.block_len - 1, stride=g.stride, tile=wide)
    from_pooled = [heads_first[0], *(x.transpose(1, 2).double() for x in pooled)]
    seen = reference.visible_compressed(at, pooled[0].shape[1], g)
    expected = lse_of(*from_pooled[:2], at, g)
    of_sliding, _ = kernels.band(q, k, v, window=g.window, tile=tile)
    chosen = reference.choose(reference.block_scores(*heads_first[:2], at, g), at, g)
    blocks = chosen.int().flip(-1).contiguous()  # in any order
    blocks[:, :, ::3, 1] = -1  # with none in the middle, and forced ones left out
    of_selected = reference.selected(*heads_first, at, blocks.long(), g)
    room = by_block.PART_BYTES
    by_block.PART_BYTES = room if c.pieces == 1 else 1
    found = kernels.by_block(q, k, v, blocks, g, chunk=c.chunk, tiles=(wide, tile))
    gated = kernels.by_block(q, k, v, blocks, g, (gates, of_compressed, of_sliding), chunk=c.chunk, tiles=(tile, tile))
    by_block.PART_BYTES = room
    branches = [x.transpose(1, 2).double() for x in (of_compressed, of_selected.transpose(1, 2).to(dtype), of_sliding)]
    whole = reference.combine(gates.transpose(1, 2).double(), *branches)
    return {
        "pool": math.hypot(*(error(one, mean) for one, mean in zip(pooled, means, strict=True))),  # NaN if one is
        "compressed": error(of_compressed, reference.attend(*from_pooled, seen)),
        "lse": float((lse.double() - expected).nan_to_num(0).abs().max()),
        "lse of none": int(((lse.isinf() != expected.isinf()) | lse.isnan()).sum()),
        "sliding": error(of_sliding, reference.sliding(*heads_first, at, g)),
        "by block": error(found, of_selected),
        "gated": error(gated, whole),
        "gate": error(kernels.gate(gates, *(x.transpose(1, 2).to(dtype) for x in branches)), whole),
    }


def measure(c: Kernels, seed: int) -> dict[str, float]:
    """The largest errors of the kernels, and how many rows were chosen otherwise than the reference does.

    The choice and the attention over it are for a few queries only, the last one among them.
    """
    from workloads.nsa import kernels

    dtype, g, at = getattr(torch, c.dtype), c.g, c.positions
    q = randn(seed, c.batch, c.heads, c.queries, c.dim, dtype=dtype).transpose(1, 2)  # strided, as models may have it
    k = randn(seed + 1, c.batch, c.seq_len, c.kv_heads, c.dim, dtype=dtype)
    v = randn(seed + 2, c.batch, c.seq_len, c.kv_heads, c.v_dim, dtype=dtype)
    blocks = g.num_blocks(c.seq_len)

    pooled = reference.pool(k.transpose(1, 2).double(), g).to(dtype)
    room = torch.nn.functional.pad(pooled, (0, 0, 0, 3), value=torch.nan).transpose(1, 2)  # a cache has room, never written
    lse = lse_of(q.transpose(1, 2).double(), pooled.double(), at, g)
    scores = kernels.block_scores(q, room, lse, at.int(), blocks, g)
    expected = of_pooled(q.transpose(1, 2).double(), pooled.double(), at, blocks, g)
    errors = (scores.double() - expected).masked_fill(after(at, blocks, g), 0).abs()

    few = torch.linspace(c.queries - 1, 0, max(1, PROGRAMS // (c.batch * c.kv_heads))).long().unique()
    q, at = q[:, few], at[:, few]
    heads_first = [x.transpose(1, 2).double() for x in (q, k, v)]
    truth = reference.block_scores(*heads_first[:2], at, g).float()
    unwritten = truth.masked_fill(after(at, blocks, g), torch.nan)
    levels = (truth * 4).round()  # many ties
    best, tied = reference.choose(truth, at, g), reference.choose(levels, at, g)
    mixed = best.flip(-1).int().contiguous()  # in any order, with none in the middle
    found = kernels.selected(q, beyond(k, at), beyond(v, at), mixed, at.int(), g)
    none = torch.full_like(mixed[:, :, :1], -1)
    return {
        "scores": float(errors.max()),
        "choice": int((kernels.choose(unwritten, at.int(), g) != best).any(-1).sum()),
        "tied choice": int((kernels.choose(levels, at.int(), g) != tied).any(-1).sum()),
        "selected": float((found.transpose(1, 2).double() - reference.selected(*heads_first, at, best, g)).abs().max()),
        "nothing selected": float(kernels.selected(q[:, :1], k, v, none, at[:, :1].int(), g).abs().max()),
    }


def after(at: Tensor, blocks: int, g: Geometry) -> Tensor:
    """The blocks that have not begun at these positions, whose scores are not written."""
    return torch.arange(blocks) > (at // g.select_len)[:, None, :, None]


def beyond(x: Tensor, at: Tensor) -> Tensor:
    """The same with NaN after the last query's position: what no query may look at."""
    x = x.clone()
    for sequence, last in enumerate(at[:, -1].tolist()):
        x[sequence, last + 1 :] = torch.nan
    return x


def lse_of(q: Tensor, pooled: Tensor, at: Tensor, g: Geometry) -> Tensor:
    """The log-sum-exp [B, Hq, R] that the compressed branch leaves: +inf where it saw nothing."""
    grouped = q.unflatten(1, (pooled.shape[1], -1))
    products = (grouped @ pooled.unsqueeze(2).mT) / q.shape[-1] ** 0.5
    seen = reference.visible_compressed(at, pooled.shape[2], g).unsqueeze(2)
    lse = products.masked_fill(~seen, -torch.inf).logsumexp(-1).flatten(1, 2)
    return lse.masked_fill(lse == -torch.inf, torch.inf).float()


def of_pooled(q: Tensor, pooled: Tensor, at: Tensor, blocks: int, g: Geometry) -> Tensor:
    """The reference's scores, from keys that are pooled, and rounded, already."""
    weights = reference.weights(q, pooled, reference.visible_compressed(at, pooled.shape[2], g))
    return (weights @ reference.overlap(pooled.shape[2], blocks, g)).sum(2)


if __name__ == "__main__":
    torch.set_num_threads(1)
    first, step = map(int, sys.argv[1:])
    import importlib

    by_block = importlib.import_module("workloads.nsa.kernels.by_block")  # the package has the function under this name
    both = [*((measure, one) for one in CASES.items()), *((measure_prompt, one) for one in PROMPTS.items())]
    mine = list(enumerate(both))[first::step]
    json.dump({name: function(case, seed) for seed, (function, (name, case)) in mine}, sys.stdout)
