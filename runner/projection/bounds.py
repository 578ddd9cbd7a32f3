"""The roofline of a step: no sooner than its bytes can be moved and its operations done, by the datasheet of one GPU.

What a bound leaves out, and a measured step doesn't: launches, activations, norms, softmax, sampling, and that neither a copy nor
a product of matrices reaches the datasheet's figure.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runner.projection.model import Model, Weights
from runner.spec import GpuSpec

OTHERS = "bf16"
"""The arithmetic of attention and of the output layer, whatever the layers' matrices have."""


@dataclass(frozen=True)
class Bound:
    """What `tokens` take at least: `memory_ms` to move the bytes, `compute_ms` for the operations (None: no such peak).

    `memory_gb` is what weights and KV cache occupy, in 10^9 bytes; `fits` is whether every card of this name has that much, by
    the least memory that its driver may report.
    """

    tokens: int
    memory_gb: float
    fits: bool
    memory_ms: float
    compute_ms: float | None

    @property
    def ms(self) -> float | None:
        """The longer of the two; None where one is not known."""
        return None if self.compute_ms is None else max(self.memory_ms, self.compute_ms)

    @property
    def by(self) -> str:
        """What it is bound by: `memory` or `compute`, `unknown` without a peak."""
        if self.compute_ms is None:
            return "unknown"
        return "memory" if self.memory_ms >= self.compute_ms else "compute"

    @property
    def tokens_per_s(self) -> float | None:
        """Tokens a second at most; None where the model doesn't fit or a peak is not known."""
        return self.tokens / self.ms * 1e3 if self.fits and self.ms else None


def decode(model: Model, weights: Weights, gpu: GpuSpec, batch: int, context: int, kv_bits: float = 16) -> Bound:
    """Return the bound of one decoding step: one token for each of `batch` sequences of `context` tokens, its own included."""
    cache = batch * context * model.kv_bytes(kv_bits)
    return _bound(
        gpu,
        weights,
        tokens=batch,
        held=weights.stored_bytes(model) + cache,
        moved=weights.read_bytes(model) + cache,
        linear_ops=2.0 * batch * model.linear,
        other_ops=2.0 * batch * model.head + model.attention_ops(batch * context),
    )


def prefill(model: Model, weights: Weights, gpu: GpuSpec, prompt: int, kv_bits: float = 16) -> Bound:
    """Return the bound of reading one prompt of `prompt` tokens: causal attention, and logits of the last token only."""
    cache = prompt * model.kv_bytes(kv_bits)
    return _bound(
        gpu,
        weights,
        tokens=prompt,
        held=weights.stored_bytes(model) + cache,
        moved=weights.read_bytes(model) + cache,
        linear_ops=2.0 * prompt * model.linear,
        other_ops=2.0 * model.head + model.attention_ops(prompt * (prompt + 1) / 2),
    )


def of_case(model: Model, weights: Weights, gpu: GpuSpec, case: Mapping[str, Any], kv_bits: float = 16) -> Bound:
    """Return the bound of a case: with a `prompt` that of reading it, else of a decoding step with its `batch` and `context`."""
    if "prompt" in case:
        return prefill(model, weights, gpu, case["prompt"], kv_bits)
    return decode(model, weights, gpu, case["batch"], case["context"], kv_bits)


def _bound(
    gpu: GpuSpec, weights: Weights, *, tokens: int, held: float, moved: float, linear_ops: float, other_ops: float
) -> Bound:
    peak, others = gpu.peak_tflops.get(weights.dtype), gpu.peak_tflops.get(OTHERS)
    compute_ms = None if peak is None or others is None else (linear_ops / peak + other_ops / others) / 1e9
    return Bound(tokens, held / 1e9, held <= gpu.match_memory_gb[0] * 2**30, moved / gpu.bandwidth_gbps / 1e6, compute_ms)
