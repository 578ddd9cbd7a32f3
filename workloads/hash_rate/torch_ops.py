"""SHA-256d of many nonces by PyTorch's integer operators: one kernel for each operation, every word a tensor [n] of int32.

int32 has the bits of an unsigned word and adds modulo 2^32; shifts to the right drag the sign along, which a mask removes.
Words that are the same for all nonces are tensors of one element, so rounds before the nonce comes in cost next to nothing.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from workloads.hash_rate.sha256 import DIGEST_PADDING, HEADER_PADDING, INITIAL, K, signed


def shift(word: Tensor, by: int) -> Tensor:
    """Shift to the right, zeros coming in."""
    return (word >> by) & ((1 << (32 - by)) - 1)


def rotate(word: Tensor, by: int) -> Tensor:
    """Rotate to the right."""
    return shift(word, by) | (word << (32 - by))


def compress(state: Sequence[Tensor], block: Sequence[Tensor]) -> list[Tensor]:
    """Return the state [8] after a block [16]; words broadcast against each other."""
    w = list(block)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        if t >= 16:
            s0 = rotate(w[1], 7) ^ rotate(w[1], 18) ^ shift(w[1], 3)
            s1 = rotate(w[14], 17) ^ rotate(w[14], 19) ^ shift(w[14], 10)
            w = [*w[1:], s1 + w[9] + s0 + w[0]]
        word = w[t] if t < 16 else w[15]
        first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (g ^ e & (f ^ g)) + signed(K[t]) + word
        second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + (a & (b | c) | b & c)
        a, b, c, d, e, f, g, h = first + second, a, b, c, d + first, e, f, g
    return [old + new for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def words(values: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return words as tensors of one int32."""
    return list(torch.tensor([signed(value) for value in values], dtype=torch.int32, device=device).split(1))


def fold(state: Sequence[int], block: Sequence[int], device: torch.device) -> list[int]:
    """Compress one block on the device, for known answers."""
    return [int(word) & 0xFFFFFFFF for word in compress(words(state, device), words(block, device))]


def sha256d(middle: Tensor, n: int) -> Tensor:
    """Return the digests of n nonces as words, [8, n] int32.

    `middle` [12] int32 is the state after the header's first block (8), the words between it and the nonce (3), the first nonce.
    """
    device = middle.device
    nonce = middle[11] + torch.arange(n, dtype=torch.int32, device=device)
    swapped = nonce << 24 | (nonce & 0xFF00) << 8 | shift(nonce, 8) & 0xFF00 | shift(nonce, 24)
    fixed = list(middle.split(1))
    state = compress(fixed[:8], [*fixed[8:11], swapped, *_constants(HEADER_PADDING, device)])
    return torch.stack(compress(_constants(INITIAL, device), [*state, *_constants(DIGEST_PADDING, device)]))


def _constants(values: Sequence[int], device: torch.device) -> list[Tensor]:
    """Return words by filling, which a CUDA graph can hold; copying from the host it can't."""
    return [torch.full((1,), signed(value), dtype=torch.int32, device=device) for value in values]
