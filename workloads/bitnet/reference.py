"""The same model once more, unfused and in float64: what transformers' logits and perplexity are held to.

Activations are quantised to 8 bits a token before every ternary layer, as the model does it. The product of these whole
numbers is taken in float32, where it is exact: no sum reaches 2^24. All else is float64. Of the model, only weights are used.
"""

import math
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Unsupported
from workloads.bitnet import ternary

TOKENS = 4096
"""Tokens taken through the layers at a time, which bounds the memory."""
EXACT = 2**24
ACTIVATIONS = {"relu2": lambda x: x.relu().square(), "silu": lambda x: x * x.sigmoid()}


@torch.no_grad()
def logits(model: Any, ids: Tensor, last_only: bool = False) -> Tensor:
    """Return float64 logits [batch, len, vocab] of token ids [batch, len]; `last_only`: [batch, vocab] of the last position.

    Raises Unsupported for a rotary embedding or an activation that this reference does not have.
    """
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default" or config.hidden_act not in ACTIVATIONS:
        found = f"{rope.get('rope_type')} and {config.hidden_act}"
        raise Unsupported(f"the reference has rope_type default and hidden_act relu2 or silu, not {found}")
    rows = max(1, TOKENS // ids.shape[1])
    return torch.cat([_logits(model, part, rope["rope_theta"], last_only) for part in ids.split(rows)])


def _logits(model: Any, ids: Tensor, theta: float, last_only: bool) -> Tensor:
    body = model.model
    x = body.embed_tokens.weight[ids].double()
    for layer in body.layers:
        x = x + attention(_norm(x, layer.input_layernorm), layer.self_attn, theta)
        x = x + mlp(_norm(x, layer.post_attention_layernorm), layer.mlp)
    found: Tensor = _norm(x[:, -1] if last_only else x, body.norm) @ model.lm_head.weight.double().T
    return found


def mlp(x: Tensor, layer: Any) -> Tensor:
    """The gated MLP of one layer on its normed float64 input [batch, len, hidden]."""
    gate = ACTIVATIONS[layer.config.hidden_act](_linear(x, layer.gate_proj))
    return _linear(_norm(gate * _linear(x, layer.up_proj), layer.ffn_sub_norm), layer.down_proj)


def attention(x: Tensor, layer: Any, theta: float) -> Tensor:
    """Causal attention of one layer on its normed float64 input; a KV head serves a group of query heads."""
    batch, length, _ = x.shape
    q, k, v = (
        _linear(x, one).reshape(batch, length, -1, layer.head_dim).transpose(1, 2)
        for one in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    angles = _angles(length, layer.head_dim, theta, x.device)
    q, k = _rotate(q, angles), _rotate(k, angles)
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    scores = q @ k.transpose(2, 3) / math.sqrt(layer.head_dim)
    future = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
    read = scores.masked_fill(future, -math.inf).softmax(-1) @ v
    return _linear(_norm(read.transpose(1, 2).reshape(batch, length, -1), layer.attn_sub_norm), layer.o_proj)


def _norm(x: Tensor, norm: Any) -> Tensor:
    scaled: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + norm.variance_epsilon) * norm.weight.double()
    return scaled


def _linear(x: Tensor, layer: Any) -> Tensor:
    """Quantise each token to -128 ... 127, multiply with the ternary weights, scale back."""
    scale = 127 / x.abs().amax(-1, keepdim=True).clamp(min=ternary.SMALLEST)
    levels = (x * scale).round().clamp(-128, 127)
    weight, weight_scale = ternary.weights(layer)
    exact = torch.float32 if 128 * weight.shape[1] < EXACT else torch.float64
    product = (levels.to(exact) @ weight.to(exact).T).double() / scale * weight_scale
    return product if layer.bias is None else product + layer.bias.double()


def _angles(length: int, head_dim: int, theta: float, device: torch.device) -> Tensor:
    """Return the rotation of pair i at position t, t theta^(-2 i / head_dim), as [length, head_dim / 2]."""
    frequencies = theta ** (-torch.arange(0, head_dim, 2, device=device, dtype=torch.float64) / head_dim)
    return torch.arange(length, device=device, dtype=torch.float64)[:, None] * frequencies


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs (i, i + head_dim / 2)."""
    first, second = x.chunk(2, -1)
    cos, sin = angles.cos(), angles.sin()
    return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)
