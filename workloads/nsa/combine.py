"""The gate: the sum of the three branches, each weighted per token and query head (equation 5)."""

import torch
from torch import Tensor

from runner.worker.compilers import has_triton


def gated_sum(gates: Tensor, compressed: Tensor, selected: Tensor, sliding: Tensor) -> Tensor:
    """Return the gated sum; `gates` [B, S, Hq, 3] in the order of the arguments, branches [B, S, Hq, Dv].

    One Triton kernel on a GPU, PyTorch's operators elsewhere and where gradients are wanted.
    """
    parts = gates, compressed, selected, sliding
    wanted = torch.is_grad_enabled() and any(x.requires_grad for x in parts)
    if compressed.device.type == "cuda" and not wanted and has_triton(compressed.device):
        from workloads.nsa import kernels

        return kernels.gate(*parts)
    total = compressed * gates[..., 0:1]
    return total.addcmul_(selected, gates[..., 1:2]).addcmul_(sliding, gates[..., 2:3])
