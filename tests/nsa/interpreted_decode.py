"""Runs the kernels of a decode step on a CPU: `TRITON_INTERPRET=1 python -m tests.nsa.interpreted_decode`.

Prints, as JSON, for each of CASES how far the steps were from the float64 reference and how many choices differed from its own.
What a step must not look at is NaN: the room of the cache, the compressed token that it has to emit itself, and what other
steps left.
"""

import dataclasses
import json
import sys

import torch
from torch import Tensor

from tests.nsa.cases import randn
from workloads.nsa import reference, step
from workloads.nsa.cache import Cache
from workloads.nsa.geometry import Geometry

WRITTEN_WHOLE = ("scores", "score_tops", "block_scores", "compressed")
SPLITS = {"parts": "compressed_splits", "window": "window_splits", "chosen": "chosen_splits"}


@dataclasses.dataclass(frozen=True)
class Steps:
    """One step at each of `lengths` (one list for each step), on one workspace: [sequence of the batch, ...] tokens each."""

    g: Geometry
    heads: int
    kv_heads: int
    lengths: tuple[tuple[int, ...], ...]
    dim: int = 16
    v_dim: int = 16
    room: int = 0
    dtype: str = "float32"
    levels: int = 0
    """Keys are rounded to so few values that many blocks tie, if not 0."""


PAPER = Geometry()
SMALL = Geometry(8, 4, 16, 4, 8)
CASES = {
    "group 1": Steps(SMALL, 1, 1, ((48,),)),
    "group 2, ragged": Steps(SMALL, 4, 2, ((101, 64),), 16, 24),
    "group 3, head dim 20": Steps(Geometry(8, 4, 8, 4, 8), 6, 2, ((40, 33, 8),), 20, 20),
    "group 4, a due token in the tile before the last": Steps(PAPER, 4, 1, ((992,),)),
    "group 8": Steps(PAPER, 8, 1, ((1008,),)),
    "group 16, the paper's lengths": Steps(PAPER, 16, 1, ((1000,),), 32, 16),
    "group 16, two KV heads, ragged": Steps(PAPER, 32, 2, ((700, 63),)),
    "l > l'": Steps(Geometry(16, 4, 8, 4, 8), 2, 1, ((48,),)),
    "l = 4 l'": Steps(Geometry(8, 2, 2, 5, 8), 2, 1, ((48,),)),
    "one key a block": Steps(Geometry(1, 1, 1, 6, 3), 2, 1, ((20,),)),
    "blocks of 96, a window that is no multiple": Steps(Geometry(32, 16, 96, 3, 100), 2, 1, ((500,),)),
    "many blocks": Steps(Geometry(2, 2, 2, 4, 8), 2, 1, ((300,),)),
    "values wider than keys": Steps(PAPER, 2, 1, ((640,),), 16, 72),
    "head dim 192": Steps(Geometry(8, 4, 8, 4, 8), 2, 1, ((40,),), 192, 128),
    "float16": Steps(SMALL, 4, 1, ((90,),), dtype="float16"),
    "ties": Steps(SMALL, 2, 1, ((150,),), levels=1),
    "a growing cache, from nothing to choose to a full choice": Steps(
        SMALL, 4, 2, tuple((n, max(1, n - 5)) for n in (1, 7, 8, 9, 12, 40, 64, 65, 120)), room=30
    ),
    "a cache that begins anew": Steps(SMALL, 2, 1, ((300,), (20,)), room=3),
}


def measure(c: Steps, seed: int) -> dict[str, float]:
    """Return the largest relative error of the steps' outputs, given their own choice, and how many rows of blocks differ."""
    dtype, batch, tokens = getattr(torch, c.dtype), len(c.lengths[0]), max(map(max, c.lengths)) + c.room
    keys = randn(seed + 1, batch, tokens, c.kv_heads, c.dim, dtype=torch.float32)
    if c.levels:
        keys = (keys * 0).add(torch.arange(tokens)[None, :, None, None] // c.g.select_len % 3 - 1.0)
    k, v = keys.to(dtype), randn(seed + 2, batch, tokens, c.kv_heads, c.v_dim, dtype=dtype)
    workspace, errors, differ = None, [], 0
    for number, lengths in enumerate(c.lengths):
        q = randn(seed + 10 + number, batch, c.heads, 1, c.dim, dtype=dtype).transpose(1, 2)
        gates = randn(seed + 30 + number, batch, 1, c.heads, 3, dtype=dtype).sigmoid()
        cache = fresh(k, v, lengths, c.g)
        workspace = workspace or step.workspace_for(q, cache)
        poison(workspace)
        found, blocks = step.whole_triton(q, gates, cache, None, workspace)
        for index, length in enumerate(lengths):
            one = slice(index, index + 1)
            at = torch.tensor([[length - 1]])
            exact = [x[one].transpose(1, 2).double() for x in (q, k[:, :length], v[:, :length], gates)]
            mine = blocks[one].long()
            best = reference.choose(reference.block_scores(exact[0], exact[1], at, c.g), at, c.g)
            truth = reference.nsa(*exact[:3], at, exact[3], c.g, mine)
            off = found[one].transpose(1, 2).double() - truth
            errors.append(off.norm() / truth.norm())
            differ += int((best != mine).any())
    return {"error": float(torch.stack(errors).max()), "differ": differ}  # NaN if any is


def fresh(k: Tensor, v: Tensor, lengths: tuple[int, ...], g: Geometry) -> Cache:
    """A cache with NaN behind the tokens, and where the compressed token belongs that is due at this very step."""
    cache = Cache.of(k.clone(), v.clone(), list(lengths), g)
    for index, length in enumerate(lengths):
        due = length >= g.block_len and (length - g.block_len) % g.stride == 0
        complete = g.num_compressed(length) - int(due)
        for x, end in ((cache.k, length), (cache.v, length), (cache.pooled_k, complete), (cache.pooled_v, complete)):
            x[index, end:] = torch.nan
    return cache


def poison(workspace: object) -> None:
    """Put NaN wherever a step has to write before it reads."""
    for name in WRITTEN_WHOLE:
        getattr(workspace, name).fill_(torch.nan)
    for name, splits in SPLITS.items():
        for left in vars(getattr(workspace, name)).values():
            left[:, : getattr(workspace.plan, splits)] = torch.nan


if __name__ == "__main__":
    torch.set_num_threads(1)
    json.dump({name: measure(case, 100 * seed) for seed, (name, case) in enumerate(CASES.items())}, sys.stdout)
