"""The sizes of a case: its parameters, and the operations of a training step by the convention that MFU is stated in."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from runner.worker.workload import Axes, Params
from workloads.nsa.geometry import Geometry

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}

BRANCHES = ("compressed", "selected", "sliding")


@dataclass(frozen=True)
class Shape:
    """One transformer block and its batch; `geometry` holds the lengths of Native Sparse Attention."""

    batch: int
    seq_len: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    dtype: str
    geometry: Geometry

    @property
    def head_dim(self) -> int:
        """Width of a head."""
        return self.hidden // self.heads

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.batch * self.seq_len

    def parameters(self, sparse: bool) -> dict[str, tuple[int, ...]]:
        """Return the shapes of the block's parameters; sparse attention has gates of its own, three for each head."""
        kv = self.kv_heads * self.head_dim
        shapes: dict[str, tuple[int, ...]] = {
            "attention_norm": (self.hidden,),
            "q": (self.hidden, self.hidden),
            "k": (kv, self.hidden),
            "v": (kv, self.hidden),
            "o": (self.hidden, self.hidden),
            "mlp_norm": (self.hidden,),
            "gate": (self.intermediate, self.hidden),
            "up": (self.intermediate, self.hidden),
            "down": (self.hidden, self.intermediate),
        }
        return shapes | ({"branch_gates": (3 * self.heads, self.hidden)} if sparse else {})

    def num_parameters(self, sparse: bool) -> int:
        """Return how many numbers the optimizer updates."""
        return sum(torch.Size(shape).numel() for shape in self.parameters(sparse).values())

    def pairs(self, sparse: bool) -> int:
        """Return the pairs of query and visible key of a head, over the batch; of sparse attention those of its branches."""
        of_one = self.geometry.sums(self.seq_len) if sparse else {"dense": self.seq_len * (self.seq_len + 1) // 2}
        return self.batch * sum(of_one[branch] for branch in (BRANCHES if sparse else ("dense",)))

    def model_ops(self, sparse: bool) -> float:
        """Return the operations of forward and backward: 6 T N + 12 heads head_dim pairs.

        N are the weights of linear layers, T the tokens. This is appendix B of PaLM (arXiv 2204.02311) for one layer, but with
        the pairs that a causal mask leaves, about half of all. A backward counts twice its forward; what an attention kernel
        computes again in its backward is not counted, nor are norms, activations and the optimizer.
        """
        weights = sum(torch.Size(shape).numel() for shape in self.parameters(sparse).values() if len(shape) > 1)
        return 6.0 * self.tokens * weights + 12.0 * self.heads * self.head_dim * self.pairs(sparse)


def shape_of(axes: Axes, params: Params) -> Shape:
    """Return the sizes of a case."""
    nsa: Mapping[str, int] = params["nsa"]
    batch, seq_len, hidden, intermediate, heads, kv_heads = (
        int(axes[name]) for name in ("batch", "seq_len", "hidden", "intermediate", "heads", "kv_heads")
    )
    return Shape(batch, seq_len, hidden, intermediate, heads, kv_heads, str(axes["dtype"]), Geometry(**nsa))
