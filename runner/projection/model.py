"""A language model as its config.json has it, and what follows from that: parameters, bytes, operations."""

from dataclasses import dataclass

from runner.errors import RequestError

SIZES = ("layers", "hidden", "heads", "kv_heads", "head_dim", "intermediate", "vocab")


@dataclass(frozen=True)
class Model:
    """A decoder of Llama's kind: grouped-query attention, an MLP of three matrices, RMS norms, no biases.

    `source` is the repository on Hugging Face whose config.json has these sizes, `weights` the formats that it is projected in.
    `tied`: the output layer is the embedding. `sub_norms`: a norm more before the last matrix of each attention and each MLP,
    as BitNet has. `note` says what a reader must know of it.
    """

    source: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocab: int
    tied: bool
    weights: list[str]
    sub_norms: bool = False
    note: str = ""

    @property
    def linear(self) -> int:
        """Parameters of the matrices in all layers: query, key, value and output, then gate, up and down."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head(self) -> int:
        """Parameters of the output layer, from hidden state to logits; the embedding has as many."""
        return self.vocab * self.hidden

    @property
    def norms(self) -> int:
        """Parameters of all norms."""
        sub_norms = self.heads * self.head_dim + self.intermediate if self.sub_norms else 0
        return self.layers * (2 * self.hidden + sub_norms) + self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied embedding counts once."""
        return self.linear + self.head * (1 if self.tied else 2) + self.norms

    def attention_ops(self, pairs: float) -> float:
        """Operations of attention over `pairs` of a query and a key that it sees: scores and weighted values, in all layers."""
        return 4.0 * self.layers * self.heads * self.head_dim * pairs

    def kv_bytes(self, bits: float) -> float:
        """Bytes of the keys and values of one token, in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_dim * bits / 8

    def check(self, key: str) -> None:
        """Check what types can't say; `key` is where the model stands, for messages. Raises RequestError."""
        for name in SIZES:
            if getattr(self, name) < 1:
                raise RequestError(f"{key}.{name}={getattr(self, name)}: expected at least 1")
        if self.heads % self.kv_heads:
            raise RequestError(f"{key}.kv_heads={self.kv_heads}: expected a divisor of heads={self.heads}")


@dataclass(frozen=True)
class Weights:
    """How weights are stored: bits of one in the layers' matrices, and of one elsewhere (embedding, output layer, norms).

    `dtype` is the arithmetic of the matrices, by the name of its peak in a datasheet. All else computes in bf16.
    """

    linear_bits: float
    other_bits: float
    dtype: str

    def stored_bytes(self, model: Model) -> float:
        """Bytes of all parameters."""
        return (model.linear * self.linear_bits + (model.parameters - model.linear) * self.other_bits) / 8

    def read_bytes(self, model: Model) -> float:
        """Bytes that one step reads: everything but an embedding of its own, of which a token needs one row."""
        return (model.linear * self.linear_bits + (model.head + model.norms) * self.other_bits) / 8

    def check(self, key: str) -> None:
        """Check what types can't say. Raises RequestError."""
        for name in ("linear_bits", "other_bits"):
            if getattr(self, name) <= 0:
                raise RequestError(f"{key}.{name}={getattr(self, name):g}: expected more than 0")
