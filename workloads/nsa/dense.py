"""Dense causal attention, the baseline: FlashAttention-2 and cuDNN through PyTorch."""

from torch import Tensor
from torch.nn.attention import SDPBackend

from workloads.nsa import flash as fa
from workloads.nsa import sdpa


def flash(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """FlashAttention-2; on a CPU, PyTorch's own kernel of that name."""
    padded = fa.pad(v, q.shape[-1])
    if q.device.type == "cpu":
        output = sdpa.attention(q, k, padded, causal=q.shape[1] > 1, backend=SDPBackend.FLASH_ATTENTION)
    else:
        fa.check(q, k)
        output = fa.attention(q, k, padded, causal=True)[0]
    return output[..., : v.shape[-1]]


def cudnn(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The attention of cuDNN."""
    return sdpa.attention(q, k, v, causal=q.shape[1] > 1, backend=SDPBackend.CUDNN_ATTENTION)
