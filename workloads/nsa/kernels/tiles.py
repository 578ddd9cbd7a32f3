"""What the kernels share: the least tile of a matrix product, how precise products are, and the sizes of tiles by rule."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

LOG2_E = 1.4426950408889634
"""Exponentials are powers of two on a GPU."""

MIN_ROWS = 16
"""The least rows, columns and depth of a tl.dot."""


SHARED_KIB = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227}
"""Shared memory of one block by SM version (CUDA programming guide, compute capabilities); 99 on 8.6, 8.9, 12.0 and others."""


@dataclass(frozen=True)
class Tile:
    """Rows (tokens x heads) of a program, the keys of a step, warps, the steps that are under way, and registers of a thread."""

    rows: int
    keys: int
    warps: int
    stages: int
    registers: int | None = None


def precision(x: Tensor) -> str:
    """Products of float32 are done in float32; Triton's default would round them to tf32."""
    return "ieee" if x.dtype == torch.float32 else "tf32"


def padded(size: int) -> int:
    """The next size that a matrix product takes: a power of two, MIN_ROWS at least."""
    return max(MIN_ROWS, 1 << (size - 1).bit_length())


@functools.cache
def room(device: torch.device) -> int:
    """Shared memory that a program can have, in bytes; interpreted, as much as on SM 9.0."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else (9, 0)
    return SHARED_KIB.get(capability, 99) * 1024


def attention_tile(dim_pad: int, v_dim_pad: int, element_size: int, room: int) -> Tile:
    """The tile of attention over a band: 64 rows for one warp group, so that two programs fit on a multiprocessor of SM 9.0.

    Measured there at head dim 128 only, where 128 rows in one program were slower by little.
    """
    for rows, keys, warps, stages in ((64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)):
        if element_size * (rows * dim_pad + stages * keys * (dim_pad + v_dim_pad)) <= 0.9 * room:
            return Tile(rows, keys, warps, stages)
    return Tile(16, 16, 4, 1)


def score_tile(dim_pad: int, element_size: int, room: int) -> Tile:
    """The tile of the block scores: keys alone and no wide sum, so that 128 rows fit twice."""
    for rows, keys, warps, stages in ((128, 64, 8, 3), (128, 64, 8, 2), (64, 64, 4, 2), (32, 64, 4, 2)):
        if element_size * dim_pad * (rows + stages * keys) <= 0.9 * room:
            return Tile(rows, keys, warps, stages)
    return Tile(16, 64, 4, 1)


def far_tile(dim_pad: int, v_dim_pad: int, keys: int, element_size: int, room: int) -> Tile | None:
    """The tile of attention over one block at a time, whose keys and values stay; None where they have no room.

    Nothing is loaded ahead: without a second buffer for queries four programs fit on a multiprocessor of SM 9.0 instead of three.
    """
    if keys > 128:
        return None
    for rows in (64, 32, 16):
        needed = element_size * (keys * (dim_pad + v_dim_pad) + rows * (dim_pad + v_dim_pad))
        if needed <= 0.9 * room:
            return Tile(rows, keys, 4, 1)
    return None


def merge_tile(dim_pad: int, v_dim_pad: int, element_size: int, room: int) -> Tile:
    """The tile of the merge: 4 queries of 16 heads. With 168 registers three programs of 128 threads fit on a multiprocessor."""
    for rows, keys in ((64, 32), (32, 32)):
        if element_size * (rows + keys) * (dim_pad + v_dim_pad) <= 0.9 * room:
            return Tile(rows, keys, 4, 1, 168 if element_size == 2 and dim_pad <= 128 and v_dim_pad <= 128 else None)
    return Tile(16, 16, 4, 1)
