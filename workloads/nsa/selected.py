"""The selected branch: every query attends to the keys of its chosen blocks [B, Hkv, S, n], -1 for none."""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from runner.worker.compilers import check_triton, has_triton
from runner.worker.workload import Unsupported
from workloads.nsa import flex as fx
from workloads.nsa.geometry import Geometry

CHUNK_BYTES = 2**30
"""Gathered keys and values that `gather` holds at a time, forward."""

MIN_FLEX_ROWS = 16
"""The least rows of a FlexAttention tile: the heads of a group, padded."""


def gather(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """Copy the chosen keys of every query together, then attend; a chunk of queries at a time. `at` [B, S] are positions."""
    batch, queries = q.shape[:2]
    kv_heads = k.shape[2]
    width = geometry.num_select * geometry.select_len
    per_query = batch * kv_heads * width * (k.shape[-1] + v.shape[-1]) * k.element_size()
    chunk = max(1, CHUNK_BYTES // per_query)
    within = torch.arange(geometry.select_len, device=q.device)
    of_batch = torch.arange(batch, device=q.device)[:, None, None, None]
    of_head = torch.arange(kv_heads, device=q.device)[:, None, None]
    # a key's gradient is a sum over the many queries that chose it, and indexing sums in the dtype it is given
    dtype, (k, v) = q.dtype, (x.float() if x.requires_grad else x for x in (k, v))
    outputs = []
    for start in range(0, queries, chunk):
        chosen = blocks[:, :, start : start + chunk].long()
        keys = (chosen[..., None] * geometry.select_len + within).flatten(-2)  # [B, Hkv, r, n l']
        seen = (chosen >= 0).repeat_interleave(geometry.select_len, -1) & (keys <= at[:, None, start : start + chunk, None])
        keys = keys.clamp(min=0).minimum(at[:, None, start : start + chunk, None])  # beyond the end there may be anything
        grouped = q[:, start : start + chunk].unflatten(2, (kv_heads, -1)).transpose(1, 2)  # [B, Hkv, r, h, Dk]
        rows, of_k, of_v = (x.flatten(0, 2).to(dtype) for x in (grouped, k[of_batch, keys, of_head], v[of_batch, keys, of_head]))
        visible = seen.flatten(0, 2)[:, None, None]
        output = torch.nn.functional.scaled_dot_product_attention(rows[:, None], of_k[:, None], of_v[:, None], visible)[:, 0]
        outputs.append(output.unflatten(0, chosen.shape[:3]).transpose(1, 2).flatten(2, 3))
    return torch.cat(outputs, 1)


def block_mask(blocks: Tensor, group: int, key_len: int, geometry: Geometry, at: Tensor) -> tuple[BlockMask, int]:
    """Return the chosen blocks as a block mask, and the rows of a query in it: its group's heads, padded to a tile.

    The query's own block is a partial block, masked by position; all others are full.
    """
    rows = max(MIN_FLEX_ROWS, 1 << (group - 1).bit_length())
    own = (at // geometry.select_len)[:, None, :, None]
    others = blocks.masked_fill(blocks == own, -1).sort(-1, descending=True).values
    full = others.clamp(min=0).int().contiguous()
    counts = (others >= 0).sum(-1).int()
    partial = torch.cat([own.expand(-1, blocks.shape[1], -1, -1), torch.zeros_like(others[..., 1:])], -1).int()
    positions = at[0].contiguous()

    def causal(b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
        return j <= positions[i // rows]

    mask = BlockMask.from_kv_blocks(
        torch.ones_like(counts),
        partial,  # as wide as `full`: the kernel finds both with the same strides
        counts,
        full,
        BLOCK_SIZE=(rows, geometry.select_len),
        mask_mod=causal,
        seq_lengths=(at.shape[1] * rows, key_len),
        compute_q_blocks=False,
    )
    return mask, rows


def flex(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, rows: int) -> Tensor:
    """FlexAttention with the heads of a group as neighbouring rows, so that a tile of queries is one token."""
    fx.check(q)
    kv_heads = k.shape[2]
    grouped = q.unflatten(2, (kv_heads, -1))
    group = grouped.shape[3]
    padded = torch.nn.functional.pad(grouped, (0, 0, 0, rows - group)).permute(0, 1, 3, 2, 4).flatten(1, 2)
    output = fx.attention(padded, k, v, mask, kernel_options={"BLOCK_M": rows, "BLOCK_N": min(64, mask.BLOCK_SIZE[1])})
    per_query: Tensor = output.unflatten(1, (-1, rows))[:, :, :group]
    return per_query.transpose(2, 3).flatten(2, 3)


def triton(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """The Triton kernels of this project; forward only: block by block where that moves fewer bytes, else query by query."""
    check_triton(q.device)
    from workloads.nsa import kernels

    if kernels.pays(q, k, v, geometry):
        return kernels.by_block(q, k, v, blocks, geometry)
    return kernels.selected(q, k, v, blocks, at, geometry)


def fastest(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, at: Tensor, geometry: Geometry) -> Tensor:
    """The Triton kernels where they can run; else, and where gradients are wanted, fla-core's, or gathered."""
    if not q.requires_grad and has_triton(q.device):
        return triton(q, k, v, blocks, at, geometry)
    try:
        check_fla(q, k)
    except Unsupported:
        return gather(q, k, v, blocks, at, geometry)
    return fla(q, k, v, blocks.transpose(1, 2).contiguous(), geometry)


def fla(q: Tensor, k: Tensor, v: Tensor, blocks: Tensor, geometry: Geometry) -> Tensor:
    """The Triton kernels of flash-linear-attention (fla-core); `blocks` [B, S, Hkv, n], as it wants them.

    Its own function is called, not `parallel_nsa`, which would pool all keys first even when given the blocks.
    """
    check_fla(q, k)
    from fla.ops.nsa.parallel import ParallelNSAFunction

    scale = q.shape[-1] ** -0.5
    output: Tensor = ParallelNSAFunction.apply(q, k, v, blocks, geometry.num_select, geometry.select_len, scale, None)
    return output


def check_fla(q: Tensor, k: Tensor) -> None:
    """Raise Unsupported where fla-core isn't there or has other limits."""
    if q.device.type != "cuda":
        raise Unsupported("fla-core's kernels need a GPU")
    try:
        import fla.ops.nsa  # noqa: F401
    except ImportError as error:
        raise Unsupported("fla-core isn't installed here: pip install fla-core") from error
    group = q.shape[2] // k.shape[2]
    if group < 16 or group & (group - 1):
        raise Unsupported(f"fla-core's kernels need 16, 32, ... query heads to a KV head, not {group}")
