"""FlashAttention-2 as PyTorch ships it: causal, windowed or for unequal lengths, with the log-sum-exp beside the output."""

import torch
from torch import Tensor

from runner.worker.workload import Unsupported

MAX_HEAD_DIM = 256
MULTIPLE = 8
"""Head dims are multiples of this; torch pads none in the operator itself."""


def check(q: Tensor, k: Tensor) -> None:
    """Raise Unsupported where the kernel can't do these tensors [B, S, H, D]; v may differ from k in its head dim (see `pad`)."""
    if q.device.type != "cuda":
        raise Unsupported("FlashAttention-2 with a window or log-sum-exp is in PyTorch for CUDA only")
    if torch.cuda.get_device_capability(q.device) < (8, 0):
        raise Unsupported("FlashAttention-2 needs SM 8.0 or newer")
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise Unsupported(f"FlashAttention-2 takes fp16 and bf16, not {str(q.dtype).removeprefix('torch.')}")
    if q.shape[-1] > MAX_HEAD_DIM or q.shape[-1] % MULTIPLE:
        raise Unsupported(f"FlashAttention-2 takes head dims up to {MAX_HEAD_DIM} in steps of {MULTIPLE}, not {q.shape[-1]}")


def pad(v: Tensor, head_dim: int) -> Tensor:
    """Return v with zeros up to `head_dim`, which the kernel wants equal to the keys'; its padded output is cut off again."""
    if v.shape[-1] > head_dim:
        raise Unsupported(f"FlashAttention-2 takes values no wider than keys, not {v.shape[-1]} over {head_dim}")
    return v if v.shape[-1] == head_dim else torch.nn.functional.pad(v, (0, head_dim - v.shape[-1]))


def attention(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, window: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the output [B, Sq, Hq, D] and the natural log-sum-exp of the scaled scores [B, Hq, Sq].

    q [B, Sq, Hq, D], k and v [B, Sk, Hkv, D] with any strides but in the last dimension. `causal` aligns the last query with the
    last key; `window` counts the keys that a query sees, its own included. A query that sees no key gets zeros and +inf.
    """
    bounds = {} if window is None else {"window_size_left": window - 1, "window_size_right": 0}
    output, log_sum_exp, *_ = torch.ops.aten._flash_attention_forward(
        q, k, v, None, None, q.shape[1], k.shape[1], 0.0, causal, False, scale=q.shape[-1] ** -0.5, **bounds
    )
    return output, log_sum_exp
