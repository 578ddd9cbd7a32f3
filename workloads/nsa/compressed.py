"""The compressed branch: every query attends to the pooled blocks that lie behind it.

The exact FlashAttention-2 form: which compressed tokens a query sees depends on (t + 1) // d alone. Group the queries by that
number; those in the same slot (t + 1) % d of each group then see one token more from group to group. That is ordinary
causal attention, aligned at the end, of n groups over n - l/d compressed tokens, with the d slots as a batch. One call, no
Python loop, and for one sequence the slots are a strided view of the queries.
"""

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask

from runner.worker.compilers import check_triton
from workloads.nsa import flash as fa
from workloads.nsa import flex as fx
from workloads.nsa import sdpa
from workloads.nsa.geometry import Geometry


def pool(x: Tensor, geometry: Geometry) -> Tensor:
    """Return the mean of keys [j d, j d + l) for every complete j: [B, S, H, D] -> [B, C, H, D], summed in float32.

    By strides first and then over l / d neighbours, so that each key is read once.
    """
    count = geometry.num_compressed(x.shape[1])
    if count == 0:
        return x[:, :0]
    per_block = geometry.block_len // geometry.stride
    strides = x[:, : (count + per_block - 1) * geometry.stride].unflatten(1, (-1, geometry.stride))
    sums = strides.sum(2, dtype=torch.float32)
    total: Tensor = sum((sums[:, offset : offset + count] for offset in range(1, per_block)), start=sums[:, :count])
    return (total / geometry.block_len).to(x.dtype)


def mask(seq_len: int, geometry: Geometry, device: torch.device) -> Tensor:
    """Which compressed tokens the queries from l - 1 on see, [S - l + 1, C]; the earlier ones see none."""
    last_key = torch.arange(geometry.num_compressed(seq_len), device=device) * geometry.stride + geometry.block_len - 1
    return last_key <= torch.arange(geometry.block_len - 1, seq_len, device=device)[:, None]


def masked(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, geometry: Geometry) -> Tensor:
    """PyTorch's attention with the mask written out."""
    blank = geometry.block_len - 1
    seeing = sdpa.attention(q[:, blank:], pool(k, geometry), pool(v, geometry), visible=visible)
    return torch.nn.functional.pad(seeing, (0, 0, 0, 0, blank, 0))


def loop(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> Tensor:
    """One call a query, as a first implementation is written; keys are pooled once."""
    k, v = pool(k, geometry), pool(v, geometry)
    blank = geometry.block_len - 1
    counts = [geometry.visible_compressed(t) for t in range(blank, q.shape[1])]
    seeing = [sdpa.attention(q[:, blank + i : blank + i + 1], k[:, :n], v[:, :n]) for i, n in enumerate(counts)]
    return torch.nn.functional.pad(torch.cat(seeing, 1), (0, 0, 0, 0, blank, 0))


def block_mask(seq_len: int, geometry: Geometry, device: torch.device) -> BlockMask:
    """The same mask for FlexAttention, for all queries."""
    block_len, stride = geometry.block_len, geometry.stride
    count = geometry.num_compressed(seq_len)
    return fx.block_mask(lambda b, h, i, j: j * stride + block_len - 1 <= i, seq_len, count, device)


def flex(q: Tensor, k: Tensor, v: Tensor, visible: BlockMask, geometry: Geometry) -> Tensor:
    """FlexAttention over the pooled keys."""
    return fx.attention(q, pool(k, geometry), pool(v, geometry), visible)


def triton(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Pool, then the Triton kernel of this project; results as those of `flash`; forward only."""
    check_triton(q.device)
    from workloads.nsa import kernels

    return triton_pooled(q, *kernels.pool(k, v, geometry), geometry)


def triton_pooled(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The same for keys and values that are pooled already."""
    from workloads.nsa import kernels

    return kernels.band(q, k, v, last_key=geometry.block_len - 1, stride=geometry.stride)


def flash(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """Pool, then FlashAttention-2 in the form above; returns output [B, S, Hq, Dv] and log-sum-exp [B, Hq, S]."""
    return flash_pooled(q, pool(k, geometry), pool(v, geometry), geometry)


def flash_pooled(q: Tensor, k: Tensor, v: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The same for keys and values that are pooled already."""
    fa.check(q, k)
    batch, seq_len, _, dim = q.shape
    stride = geometry.stride
    groups = seq_len // stride + 1  # the query before the first is an empty slot, so that slot 0 of group 0 is there
    visible = max(0, groups - geometry.block_len // stride)
    after = groups * stride - seq_len - 1
    slots = torch.nn.functional.pad(q, (0, 0, 0, 0, 1, after)).unflatten(1, (groups, stride)).transpose(1, 2)
    shared = (x[:, None, :visible].expand(-1, stride, -1, -1, -1).flatten(0, 1) for x in (k, fa.pad(v, dim)))
    output, log_sum_exp = fa.attention(slots.flatten(0, 1), *shared, causal=True)
    in_order = output.unflatten(0, (batch, stride)).transpose(1, 2).flatten(1, 2)[:, 1 : seq_len + 1, :, : v.shape[-1]]
    lse = log_sum_exp.unflatten(0, (batch, stride)).permute(0, 2, 3, 1).flatten(2)[:, :, 1 : seq_len + 1]
    return in_order, lse
