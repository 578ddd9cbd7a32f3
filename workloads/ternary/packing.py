"""Ternary weights in little memory: four a byte (2 bits each) for kernels to compute on, or five a byte (1.6 bits) to store.

Four a byte: 256 neighbouring weights of a row are 32 words of 16 bits, and word j holds the weights j, 32 + j, ... 224 + j, from
the lowest bits up. The same two bits of all 32 words are then 32 neighbours, as the activations are that they meet, and one
instruction on a register of 32 bits unpacks two neighbours. The two bits are the two's complement of the weight, 01 for 1 and 11
for -1, so that they can be moved to the top of a number of any type and be a multiple of the weight (kernels/codes.py).

Five a byte: base 3, the first weight the lowest digit, digits 0, 1, 2 for -1, 0, 1; 3^5 = 243 of the 256 values are used.

Rows are filled up with zero weights.
"""

import torch
from torch import Tensor

GROUP_BYTES, PLANES = 64, 8
GROUP = GROUP_BYTES // 2 * PLANES
"""Weights that are packed together, eight in a word of 16 bits."""

TRITS = 5
POWERS = tuple(3**digit for digit in range(TRITS))
ALIGNED = 8 * TRITS
"""Five a byte, a row has a multiple of this many weights: unpacked to 16 bits, rows then begin at multiples of 16 bytes."""


def _filled(weights: Tensor, multiple: int) -> Tensor:
    """Return the weights [n, k] with zeros behind each row; raises ValueError for values that are not ternary."""
    ternary = (weights == -1) | (weights == 0) | (weights == 1)
    if not bool(ternary.all()):
        raise ValueError(f"expected weights of -1, 0 and 1, not {weights[~ternary][0].item():g}")
    return torch.nn.functional.pad(weights.to(torch.int8), (0, -weights.shape[1] % multiple))


def pack2bit(weights: Tensor) -> Tensor:
    """Return int8 weights [n, k] as uint8 [n, 64 ceil(k / 256)]; raises ValueError for other values than -1, 0, 1."""
    codes: Tensor = (_filled(weights, GROUP) & 3).to(torch.uint8).unflatten(1, (-1, 2, PLANES // 2, GROUP_BYTES // 2))
    packed = codes[:, :, :, 0].clone()
    for plane in range(1, PLANES // 2):
        packed |= codes[:, :, :, plane] << 2 * plane
    return packed.mT.flatten(1)  # of a word, the byte with the lower planes first


def unpack2bit(packed: Tensor, columns: int) -> Tensor:
    """Return the int8 weights [n, columns] that were packed four a byte."""
    halves: Tensor = packed.unflatten(1, (-1, GROUP_BYTES // 2, 2)).mT
    codes = torch.stack([(halves >> 2 * plane & 3).to(torch.int8) for plane in range(PLANES // 2)], 3)
    return ((codes ^ 2) - 2).flatten(1)[:, :columns]


def pack5(weights: Tensor) -> Tensor:
    """Return int8 weights [n, k] as uint8 [n, 8 ceil(k / 40)]; raises ValueError for other values than -1, 0, 1."""
    digits: Tensor = (_filled(weights, ALIGNED) + 1).to(torch.uint8).unflatten(1, (-1, TRITS))
    packed = digits[:, :, TRITS - 1].clone()
    for digit in reversed(range(TRITS - 1)):
        packed = packed * 3 + digits[:, :, digit]
    return packed


def trits(dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the five weights of each of the 243 bytes, [243, 5]."""
    powers = torch.tensor(POWERS, device=device)
    return (torch.arange(3**TRITS, device=device)[:, None] // powers % 3 - 1).to(dtype)


def unpack5(packed: Tensor, table: Tensor, columns: int) -> Tensor:
    """Return the weights [n, columns] that were packed five a byte, in the dtype of `table`, as `trits` gives it."""
    return torch.nn.functional.embedding(packed.int(), table).flatten(1)[:, :columns]
