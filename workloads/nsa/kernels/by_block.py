"""The selected branch of a whole prompt, block by block: lists of queries, attention over far blocks, then the merge.

The parts are n times as large as the output, so a long prompt is done in pieces of queries whose parts fit into PART_BYTES, two
launches a piece. Whether this is less work than one program a query is a matter of bytes, see `pays`.
"""

import torch
from torch import Tensor

from workloads.nsa.geometry import Geometry
from workloads.nsa.kernels.far import far
from workloads.nsa.kernels.lists import lists
from workloads.nsa.kernels.merge import merge
from workloads.nsa.kernels.tiles import Tile, far_tile, merge_tile, padded, room

PART_BYTES = 2**31
"""Room for parts: 8,192 queries of 64 heads of 128 with 16 blocks, in 16 bits; with half of it 65,536 tokens take 3% longer."""

CHUNK_LEAST, CHUNK_MOST = 256, 2048
"""Queries of a chunk: the lists are long enough to fill tiles, the queries of one KV head stay in L2."""


def chunk_of(num_blocks: int) -> int:
    """Queries of a chunk: four times as many as there are blocks, so that a list holds tens of them."""
    return max(CHUNK_LEAST, min(CHUNK_MOST, 1 << (4 * num_blocks - 1).bit_length()))


def pays(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> bool:
    """Whether block by block is less work: most blocks are far, and a block's keys and values more bytes than a part costs.

    A query for every key is a whole prompt; the kernels take the positions as 0..S - 1.
    """
    group, dim, v_dim = q.shape[2] // k.shape[2], q.shape[-1], v.shape[-1]
    per_block, per_part = geometry.select_len * (dim + v_dim), group * (dim + 2 * v_dim)
    far_enough = q.shape[1] >= 2 * geometry.num_select * geometry.select_len
    fits = far_tile(padded(dim), padded(v_dim), padded(geometry.select_len), q.element_size(), room(q.device)) is not None
    return q.shape[1] == k.shape[1] and far_enough and per_part < per_block and fits


def by_block(
    q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, geometry: Geometry,
    gated: tuple[Tensor, Tensor, Tensor] | None = None,
    chunk: int = 0, tiles: tuple[Tile, Tile] | None = None,
) -> Tensor:  # fmt: skip
    """Return the selected branch [B, S, Hq, Dv], or, given gates and the compressed and the sliding branch, the gated sum.

    q [B, S, Hq, Dk] at 0..S - 1; `blocks` [B, Hkv, S, n], each at most once, -1 for none.
    """
    batch, seq_len, heads, dim = q.shape
    v_dim, size = v.shape[-1], q.element_size()
    width = blocks.shape[-1]
    chunk = chunk or chunk_of(geometry.num_blocks(seq_len))
    if tiles is None:
        of_far = far_tile(padded(dim), padded(v_dim), padded(geometry.select_len), size, room(q.device))
        assert of_far is not None, "see pays()"
        tiles = of_far, merge_tile(padded(dim), padded(v_dim), size, room(q.device))
    per_chunk = batch * heads * width * v_dim * size * chunk
    piece = chunk * max(1, min(PART_BYTES // per_chunk, -(-seq_len // chunk)))
    blocks = blocks.contiguous()
    if gated is not None:
        gated = gated[0].contiguous(), gated[1].contiguous(), gated[2].contiguous()
    listed = lists(blocks, geometry, chunk)
    kv_heads = k.shape[2]
    parts = torch.empty(batch, kv_heads, piece, width, heads // kv_heads, v_dim, dtype=q.dtype, device=q.device)
    lse = torch.empty(parts.shape[:-1], dtype=torch.float32, device=q.device)
    output = torch.empty(batch, seq_len, heads, v_dim, dtype=q.dtype, device=q.device)
    for first in range(0, seq_len, piece):
        far(q, k, v, listed, parts, lse, geometry, chunk, first // chunk, tiles[0])
        merge(q, k, v, blocks, parts, lse, output, gated, geometry, first, tiles[1])
    return output
