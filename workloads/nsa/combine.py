"""The gate: the sum of the three branches, each weighted per token and query head (equation 5)."""

from torch import Tensor


def gated_sum(gates: Tensor, compressed: Tensor, selected: Tensor, sliding: Tensor) -> Tensor:
    """Return the gated sum; `gates` [B, S, Hq, 3] in the order of the arguments, branches [B, S, Hq, Dv]."""
    total = compressed * gates[..., 0:1]
    return total.addcmul_(selected, gates[..., 1:2]).addcmul_(sliding, gates[..., 2:3])
