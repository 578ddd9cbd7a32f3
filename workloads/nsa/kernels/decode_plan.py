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

FEW_SPLITS, MOST_COMPRESSED_SPLITS, MOST_WINDOW_SPLITS, MOST_CHOSEN_SPLITS = 16, 64, 2, 8
"""Partial results are added up afterwards, which takes the longer the more there are: over a few, each comes from two tiles."""

CHUNK = 8
"""Partial results that are read at once; there is room for a multiple of it, or for a smaller power of two."""


@dataclass(frozen=True)
class Plan:
    """What does not change from step to step, so that a CUDA graph holds for any length up to the cache's room.

    The cache has room for `room_blocks` selection blocks. Scoring looks at `blocks` selection blocks at a time, that is at
    `columns` compressed tokens, with `compressed_splits` programs for each sequence and KV head. Attention reads `keys` keys
    at a time, those of the window with `window_splits` programs and those of chosen blocks with `chosen_splits`.
    """

    room_blocks: int
    columns: int
    blocks: int
    tiles: int
    compressed_splits: int
    keys: int
    window_splits: int
    chosen_splits: int


def plan(batch: int, kv_heads: int, row_bytes: int, room: int, geometry: Geometry, processors: int) -> Plan:
    """Return the plan for sequences of up to `room` tokens; `row_bytes` are those of one key and one value."""
    fits = max(MIN_ROWS, 1 << (TILE_BYTES // row_bytes).bit_length() - 1)
    per_block, spill = geometry.select_len // geometry.stride, geometry.block_len // geometry.stride - 1
    columns = max(min(MOST_COLUMNS, fits), triton.next_power_of_2(per_block + spill))
    blocks = (columns - spill) // per_block
    tiles = triton.cdiv(geometry.num_blocks(room), blocks)
    units, worth_it = batch * kv_heads, max(FEW_SPLITS, triton.cdiv(tiles, 2))
    keys = max(MIN_ROWS, min(MOST_COLUMNS, fits, triton.next_power_of_2(geometry.select_len)))
    pieces = triton.cdiv(geometry.select_len, keys)
    chosen_pieces = min(geometry.num_select, geometry.num_blocks(room)) * pieces
    window_pieces = triton.cdiv(min(geometry.window, room), geometry.select_len) * pieces
    programs = max(1, ATTEND_PROGRAMS * processors // units)
    return Plan(
        room_blocks=geometry.num_blocks(room),
        columns=columns,
        blocks=blocks,
        tiles=tiles,
        compressed_splits=max(1, min(tiles, worth_it, MOST_COMPRESSED_SPLITS, COMPRESSED_PROGRAMS * processors // units)),
        keys=keys,
        window_splits=min(window_pieces, MOST_WINDOW_SPLITS, programs),
        chosen_splits=min(chosen_pieces, MOST_CHOSEN_SPLITS, programs),
    )


def can_start_early(device: torch.device) -> bool:
    """Whether a kernel may start before the one it depends on has ended, and wait for it there (SM 9.0 and newer)."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def started_early(device: torch.device) -> dict[str, bool]:
    """Return the arguments of a kernel that does so, or of one that can't."""
    return {"EARLY": True, "launch_pdl": True} if can_start_early(device) else {"EARLY": False}


def rank_table(blocks: int, most: int) -> tuple[int, int]:
    """Return the rows, and the blocks of each, that so many blocks are cut into where `most` of them are chosen."""
    width = max(most, triton.next_power_of_2(blocks))
    rows = min(width, triton.next_power_of_2(math.isqrt(width * most)))
    return rows, width // rows


@dataclass(frozen=True)
class Parts:
    """What the splits of one branch leave, in float32, for each sequence and KV head.

    `sums` [units, splits, Dv, h] unnormalised outputs; `tops` and `totals` [units, splits, h] the maximum that they are relative
    to, and the sum of weights. A split that has nothing has -inf and 0 there.
    """

    sums: Tensor
    tops: Tensor
    totals: Tensor

    @classmethod
    def of(cls, units: int, splits: int, v_dim: int, group: int, device: torch.device) -> "Parts":
        """Return room for so many splits, and nothing in it."""
        room = 1 << (splits - 1).bit_length() if splits <= CHUNK else -(-splits // CHUNK) * CHUNK
        return cls(
            torch.zeros(units, room, v_dim, group, device=device),
            torch.full((units, room, group), -math.inf, device=device),
            torch.zeros(units, room, group, device=device),
        )


@dataclass(frozen=True)
class Workspace:
    """What the programs of a step leave for each other; one step at a time may use it.

    Per sequence and KV head: the `parts` of the compressed branch, of the `window` and of the `chosen` blocks; `scores` [tiles,
    blocks, h] the heads' block scores relative to `score_tops` [tiles, h]; `block_scores` [blocks], `ranks` those of the
    candidates and `places` [n] what changes places while blocks are chosen; `compressed` [Dv, h] what the compressed branch came
    to.
    """

    plan: Plan
    parts: Parts
    scores: Tensor
    score_tops: Tensor
    block_scores: Tensor
    ranks: Tensor
    places: Tensor
    compressed: Tensor
    window: Parts
    chosen: Parts

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

        def parts(splits: int) -> Parts:
            return Parts.of(units, splits, v_dim, group, q.device)

        def room_for(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(units, *sizes, dtype=dtype, device=q.device)

        most = triton.next_power_of_2(geometry.num_select)
        return cls(
            plan=cut,
            parts=parts(cut.compressed_splits),
            scores=room_for(cut.tiles, padded(cut.blocks), group),
            score_tops=room_for(cut.tiles, group),
            block_scores=room_for(cut.tiles * cut.blocks),
            ranks=room_for(most * rank_table(cut.room_blocks, most)[1], dtype=torch.int64),
            places=room_for(most, dtype=torch.int32),
            compressed=room_for(v_dim, group),
            window=parts(cut.window_splits),
            chosen=parts(cut.chosen_splits),
        )
