"""A transformer block as Llama has it: RMSNorm, QKV, RoPE, attention, output projection; RMSNorm, SwiGLU. In PyTorch's operators.

Parameters are float32 and cast to the dtype of the activations where they are used, so that gradients and optimizer are float32
too: mixed precision with master weights, written out instead of by autocast.
"""

from collections.abc import Callable, Mapping

from torch import Tensor
from torch.nn import functional

from workloads.llm_kernels.ops import EPS, rotate
from workloads.train_step.shape import Shape

Attend = Callable[[Tensor, Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""(q [B, S, Hq, D], k and v [B, S, Hkv, D], gates [B, S, Hq, 3]) -> output [B, S, Hq, D] and chosen blocks, if it chooses any."""


def forward(
    weights: Mapping[str, Tensor], x: Tensor, tables: tuple[Tensor, Tensor], shape: Shape, attend: Attend
) -> tuple[Tensor, Tensor | None]:
    """Return the block's output [B, S, hidden] for x [B, S, hidden], and what `attend` chose."""

    def norm(x: Tensor, name: str) -> Tensor:
        return functional.rms_norm(x, (shape.hidden,), weights[name].to(x.dtype), EPS)

    def linear(x: Tensor, name: str) -> Tensor:
        return functional.linear(x, weights[name].to(x.dtype))

    normed = norm(x, "attention_norm")
    q = rotate(linear(normed, "q").unflatten(-1, (shape.heads, -1)), *tables)
    k = rotate(linear(normed, "k").unflatten(-1, (shape.kv_heads, -1)), *tables)
    v = linear(normed, "v").unflatten(-1, (shape.kv_heads, -1))
    gates = linear(normed, "branch_gates").sigmoid().unflatten(-1, (shape.heads, 3)) if "branch_gates" in weights else None
    attended, blocks = attend(q, k, v, gates)
    x = x + linear(attended.flatten(2), "o")
    normed = norm(x, "mlp_norm")
    return x + linear(functional.silu(linear(normed, "gate")) * linear(normed, "up"), "down"), blocks
