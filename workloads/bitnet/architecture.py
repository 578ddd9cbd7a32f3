"""The sizes of a BitNet b1.58 model by its config: how many parameters it must have, and the least work of a step.

The model of https://huggingface.co/microsoft/bitnet-b1.58-2B-4T (class BitNetForCausalLM in transformers): a Llama whose linear
layers are ternary, with a norm before the last linear layer of each attention and each MLP (the sub-norms).
"""

from dataclasses import dataclass
from typing import Any

from runner.worker.workload import BYTES_PER_ELEMENT, Work

MODEL_CLASS, MODEL_TYPE = "BitNetForCausalLM", "bitnet"
LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
"""The ternary layers of each decoder layer."""


@dataclass(frozen=True)
class Architecture:
    """What a config says; `packed` layers keep four weights in a byte in memory, others one in an element of the dtype."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    heads: int
    kv_heads: int
    head_dim: int
    max_positions: int
    tied: bool
    attention_bias: bool = False
    packed: bool = False

    @classmethod
    def of(cls, config: Any) -> "Architecture":
        """Return the sizes that a transformers config of a Llama or a BitNet has."""
        quantization = getattr(config, "quantization_config", None) or {}
        named = quantization if isinstance(quantization, dict) else vars(quantization)
        return cls(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            max_positions=config.max_position_embeddings,
            tied=bool(config.tie_word_embeddings),
            attention_bias=bool(getattr(config, "attention_bias", False)),
            packed=bool(named) and named.get("linear_class", "bitlinear") == "bitlinear",
        )

    @property
    def linear_weights(self) -> int:
        """Weights of the ternary layers, of all decoder layers together."""
        attention = 2 * self.hidden_size * self.head_dim * (self.heads + self.kv_heads)
        return self.num_layers * (attention + 3 * self.hidden_size * self.intermediate_size)

    @property
    def head_weights(self) -> int:
        """Weights of the layer that makes logits, which is the embedding where they are tied."""
        return self.vocab_size * self.hidden_size

    @property
    def sub_norms(self) -> int:
        """Parameters of the norms that a Llama does not have."""
        return self.num_layers * (self.hidden_size + self.intermediate_size)

    @property
    def parameters(self) -> int:
        """All parameters: embedding, logits, linear layers, the four norms of each decoder layer and the last one."""
        biases = (self.heads + 2 * self.kv_heads) * self.head_dim + self.hidden_size if self.attention_bias else 0
        norms = self.num_layers * (2 * self.hidden_size + biases) + self.hidden_size + self.sub_norms
        return self.head_weights * (1 if self.tied else 2) + self.linear_weights + norms

    def prefill(self, batch: int, prompt_len: int, dtype: str) -> Work:
        """The least work of reading prompts: logits of the last token only, attention over what each token may see."""
        pairs = prompt_len * (prompt_len + 1) // 2
        return self._work(batch, prompt_len, pairs, prompt_len, dtype)

    def decode(self, batch: int, prompt_len: int, dtype: str) -> Work:
        """The least work of one more token for each sequence, which sees `prompt_len` tokens and itself."""
        return self._work(batch, 1, prompt_len + 1, prompt_len + 1, dtype)

    def _work(self, batch: int, tokens: int, pairs: int, cached: int, dtype: str) -> Work:
        """Return the work for `tokens` new ones a sequence; a `cached` token's keys and values are read or written once."""
        attention = 4 * self.num_layers * self.heads * self.head_dim * pairs
        ops = batch * (2 * self.linear_weights * tokens + 2 * self.head_weights + attention)
        element = BYTES_PER_ELEMENT[dtype]
        weights = self.linear_weights * (0.25 if self.packed else element) + self.head_weights * element
        kv = batch * cached * self.num_layers * 2 * self.kv_heads * self.head_dim * element
        return Work(ops=float(ops), bytes=weights + kv, per_second={"throughput_tokens_per_s": float(batch * tokens)})
