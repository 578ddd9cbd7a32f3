"""FlexAttention as PyTorch ships it, compiled; mask and block mask are made in `prepare`, outside the timing."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from runner.worker.compilers import check_cpp
from runner.worker.workload import Unsupported

Mask = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(batch, head, query index, key index) -> whether the query sees the key; indices are tensors."""

MAX_RECOMPILES = 1000
"""Every shape is compiled for itself; the default of 8 would end in eager attention, which holds all scores."""


@functools.cache
def _compiled() -> Callable[..., Any]:
    import torch._dynamo

    torch._dynamo.config.recompile_limit = MAX_RECOMPILES
    torch._dynamo.config.accumulated_recompile_limit = MAX_RECOMPILES
    return torch.compile(flex_attention, dynamic=False)


def check(q: Tensor) -> None:
    """Raise Unsupported where FlexAttention can't be compiled: on a CPU without a C++ compiler, on an old GPU."""
    check_cpp(q.device, "FlexAttention")
    if q.device.type == "cuda" and torch.cuda.get_device_capability(q.device) < (8, 0):
        raise Unsupported("FlexAttention needs SM 8.0 or newer")
    if q.device.type == "cpu" and q.requires_grad:
        raise Unsupported("FlexAttention on a CPU has no backward")


def block_mask(visible: Mask, queries: int, keys: int, device: torch.device) -> BlockMask:
    """Return the block mask of `visible`, made without holding it for every pair where there are many."""
    return create_block_mask(visible, None, None, queries, keys, device=device, _compile=queries * keys > 2**24)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask, **options: Any) -> Tensor:
    """Return the output [B, Sq, Hq, Dv] of q [B, Sq, Hq, Dk], k and v [B, Sk, Hkv, ...]."""
    heads_first = (x.transpose(1, 2) for x in (q, k, v))
    output: Tensor = _compiled()(*heads_first, block_mask=mask, enable_gqa=q.shape[2] != k.shape[2], **options)
    return output.transpose(1, 2)
