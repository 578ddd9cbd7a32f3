"""The numbers of Native Sparse Attention: lengths, block counts, and how many keys a query reads. Nothing here needs torch."""

from dataclasses import dataclass

FORCED_INITIAL, FORCED_LOCAL = 1, 2
"""Blocks that are always selected (section 4.1): the first, and the two that end at the query's own."""


@dataclass(frozen=True)
class Geometry:
    """Names of the paper's symbols: `block_len` l, `stride` d, `select_len` l', `num_select` n, `window` w, all in tokens.

    Positions count from 0; a query at position t sees keys 0..t. Raises ValueError for what the equations don't cover.
    """

    block_len: int = 32
    stride: int = 16
    select_len: int = 64
    num_select: int = 16
    window: int = 512

    def __post_init__(self) -> None:
        """Refuse lengths that the paper's formulas have no meaning for."""
        for name in ("block_len", "stride", "select_len", "window"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: expected at least 1")
        for name in ("block_len", "select_len"):
            if getattr(self, name) % self.stride:
                raise ValueError(f"{name}={getattr(self, name)}: expected a multiple of stride={self.stride}")
        forced = FORCED_INITIAL + FORCED_LOCAL
        if self.num_select < forced:
            raise ValueError(f"num_select={self.num_select}: expected at least {forced}, the blocks that are always selected")

    def num_compressed(self, seq_len: int) -> int:
        """Return how many compressed tokens `seq_len` tokens give: token j pools keys [j d, j d + l)."""
        return 0 if seq_len < self.block_len else (seq_len - self.block_len) // self.stride + 1

    def visible_compressed(self, t: int) -> int:
        """Return how many compressed tokens a query at position t may see: those whose keys all are at most t."""
        return self.num_compressed(t + 1)

    def num_blocks(self, seq_len: int) -> int:
        """Return how many selection blocks `seq_len` tokens give; the last may be incomplete."""
        return -(-seq_len // self.select_len)

    def selected_keys(self, t: int) -> int:
        """Return how many keys the selected blocks of a query at t hold within [0, t].

        The query's own block is always among them and counts only up to t; all others are whole.
        """
        if self.num_blocks(t + 1) <= self.num_select:
            return t + 1
        return (self.num_select - 1) * self.select_len + t % self.select_len + 1

    def window_keys(self, t: int) -> int:
        """Return how many keys the window (t - w, t] holds."""
        return min(self.window, t + 1)

    def sums(self, seq_len: int) -> dict[str, int]:
        """Return the keys read per KV head, summed over the queries 0..seq_len - 1, of each branch and of dense attention."""
        steps = range(seq_len)
        return {
            "dense": seq_len * (seq_len + 1) // 2,
            "sliding": sum(map(self.window_keys, steps)),
            "compressed": sum(map(self.visible_compressed, steps)),
            "selected": sum(map(self.selected_keys, steps)),
        }

    def seq_len_of(self, num_compressed: int) -> int:
        """Return the shortest length whose last query sees `num_compressed` compressed tokens."""
        return (num_compressed - 1) * self.stride + self.block_len
