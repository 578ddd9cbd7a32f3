"""How a decode step is cut into programs: tiles by what fits a multiprocessor, splits by how many of them would be idle."""

import math
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.tiles import MIN_ROWS, padded

TILE_BYTES = 2**15
"""Keys and values of one tile: with the next one on its way, several programs fit into the 99 KiB of shared memory of Ada."""

MOST_COLUMNS = 64
"""Keys of a tile, compressed or not: what Hopper's matrix unit takes."""

COMPRESSED_PROGRAMS, ATTEND_PROGRAMS = 2, 2
"""Programs for each multiprocessor: what one reads while it waits must cover the memory's latency (see docs/kernels.md)."""

INTERPRETED_PROCESSORS = 8

FEW_SPLITS, MOST_COMPRESSED_SPLITS, MOST_ATTEND_SPLITS = 16, 64, 8
"""Partial results are added up afterwards, which takes the longer the more there are: over a few, each comes from two tiles."""

CHUNK = 8
"""Partial results that are read at once; there is room for a multiple of it, or for a smaller power of two."""


@dataclass(frozen=True)
class Plan:
    """What does not change from step to step, so that a CUDA graph holds for any length up to the cache's room.

    The cache has room for `room_blocks` selection blocks. Scoring looks at `blocks` selection blocks at a time, that is at
    `columns` compressed tokens, with `compressed_splits` programs for each sequence and KV head. Attention reads `keys` keys
    at a time with `attend_splits` programs.
    """

    room_blocks: int
    columns: int
    blocks: int
    tiles: int
    compressed_splits: int
    keys: int
    items: int
    attend_splits: int


def plan(batch: int, kv_heads: int, row_bytes: int, room: int, geometry: Geometry, processors: int) -> Plan:
    """Return the plan for sequences of up to `room` tokens; `row_bytes` are those of one key and one value."""
    fits = max(MIN_ROWS, 1 << (TILE_BYTES // row_bytes).bit_length() - 1)
    per_block, spill = geometry.select_len // geometry.stride, geometry.block_len // geometry.stride - 1
    columns = max(min(MOST_COLUMNS, fits), triton.next_power_of_2(per_block + spill))
    blocks = (columns - spill) // per_block
    tiles = triton.cdiv(geometry.num_blocks(room), blocks)
    units, worth_it = batch * kv_heads, max(FEW_SPLITS, triton.cdiv(tiles, 2))
    keys = max(MIN_ROWS, min(MOST_COLUMNS, fits, triton.next_power_of_2(geometry.select_len)))
    window_blocks = min(triton.cdiv(geometry.window - 1, geometry.select_len) + 1, geometry.num_blocks(room))
    items = geometry.num_select + window_blocks
    pieces = items * triton.cdiv(geometry.select_len, keys)
    return Plan(
        room_blocks=geometry.num_blocks(room),
        columns=columns,
        blocks=blocks,
        tiles=tiles,
        compressed_splits=max(1, min(tiles, worth_it, MOST_COMPRESSED_SPLITS, COMPRESSED_PROGRAMS * processors // units)),
        keys=keys,
        items=items,
        attend_splits=max(1, min(pieces, MOST_ATTEND_SPLITS, ATTEND_PROGRAMS * processors // units)),
    )


def can_start_early(device: torch.device) -> bool:
    """Whether a kernel may start before the one it depends on has ended, and wait for it there (SM 9.0 and newer)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def started_early(device: torch.device) -> dict[str, bool]:
    """Return the arguments of a kernel that does so, or of one that can't."""
    return {"EARLY": True, "launch_pdl": True} if can_start_early(device) else {"EARLY": False}


@dataclass(frozen=True)
class Workspace:
    """What the programs of a step leave for each other, in float32; one step at a time may use it.

    Per sequence and KV head: `sums` [splits, Dv, h] unnormalised outputs of the compressed branch, `tops` and `totals`
    [splits, h] the maximum they are relative to and the sum of weights; `scores` [tiles, blocks, h] the heads' block scores
    relative to `score_tops` [tiles, h]; `block_scores` [blocks]; `items` [n + blocks of a window] the chosen blocks, then
    what else the window touches, then -1; `compressed` [Dv, h] what the compressed branch came to. `both_*` are the sums of
    the selected and sliding branches.
    """

    plan: Plan
    sums: Tensor
    tops: Tensor
    totals: Tensor
    scores: Tensor
    score_tops: Tensor
    block_scores: Tensor
    items: Tensor
    compressed: Tensor
    both_sums: Tensor
    both_tops: Tensor
    both_totals: Tensor

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> "Workspace":
        """Return the workspace of steps with queries [B, 1, Hq, Dk] on a cache like k [B, N, Hkv, Dk], v [B, N, Hkv, Dv]."""
        processors = INTERPRETED_PROCESSORS
        if q.device.type == "cuda":
            processors = torch.cuda.get_device_properties(q.device).multi_processor_count
        batch, room, kv_heads, dim = k.shape
        v_dim = v.shape[-1]
        pads = sum(padded(width) for width in (dim, v_dim))
        cut = plan(batch, kv_heads, pads * k.element_size(), room, geometry, processors)
        units, group = batch * kv_heads, triton.next_power_of_2(q.shape[2] // kv_heads)
        blocks_pad = padded(cut.blocks)

        def room_for(*sizes: int, fill: float = 0.0) -> Tensor:
            return torch.full((units, *sizes), fill, dtype=torch.float32, device=q.device)

        rows = max(MIN_ROWS, 2 * group)
        first, second = (_room(splits) for splits in (cut.compressed_splits, cut.attend_splits))
        return cls(
            plan=cut,
            sums=room_for(first, v_dim, group),
            tops=room_for(first, group, fill=-math.inf),
            totals=room_for(first, group),
            scores=room_for(cut.tiles, blocks_pad, group),
            score_tops=room_for(cut.tiles, group),
            block_scores=room_for(cut.tiles * cut.blocks),
            items=torch.zeros(units, triton.next_power_of_2(cut.items), dtype=torch.int32, device=q.device),
            compressed=room_for(v_dim, group),
            both_sums=room_for(second, v_dim, rows),
            both_tops=room_for(second, rows, fill=-math.inf),
            both_totals=room_for(second, rows),
        )


def _room(splits: int) -> int:
    return 1 << (splits - 1).bit_length() if splits <= CHUNK else -(-splits // CHUNK) * CHUNK
