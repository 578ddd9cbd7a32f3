"""PyTorch's scaled dot-product attention with a named backend, for tensors in the layout [B, S, H, D]."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from runner.worker.workload import Unsupported


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    visible: Tensor | None = None,
    causal: bool = False,
    backend: SDPBackend | None = None,
) -> Tensor:
    """Return the output [B, Sq, Hq, Dv]; `visible` [B | 1, 1, Sq, Sk] or [Sq, Sk] says which keys a query sees.

    With `visible`, the KV heads are repeated for the query heads: only then do kernels other than the one that holds all
    scores take a mask. Raises Unsupported when the named backend can't do it.
    """
    grouped = q.shape[2] != k.shape[2]
    if visible is not None and grouped:
        k, v = (x.repeat_interleave(q.shape[2] // x.shape[2], 2) for x in (k, v))
        grouped = False
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    chosen: AbstractContextManager[None] = nullcontext() if backend is None else sdpa_kernel(backend)
    try:
        with chosen:
            output = torch.nn.functional.scaled_dot_product_attention(q, k, v, visible, is_causal=causal, enable_gqa=grouped)
    except RuntimeError as error:
        if backend is not None and any(words in str(error) for words in ("No available kernel", "No viable backend")):
            raise Unsupported(f"{backend.name} has no kernel for these shapes, this dtype or this device") from error
        raise
    return output.transpose(1, 2)


def flash_if_possible(q: Tensor, k: Tensor, v: Tensor, visible: Tensor | None = None) -> Tensor:
    """Attention without a causal mask by the kernel called flash where it can, else by whatever PyTorch takes."""
    fits = visible is None and k.shape[-1] == v.shape[-1] and k.shape[-1] % 8 == 0
    if q.device.type == "cuda":
        fits = fits and q.dtype != torch.float32 and torch.cuda.get_device_capability(q.device) >= (8, 0)
    return attention(q, k, v, visible=visible, backend=SDPBackend.FLASH_ATTENTION if fits else None)
