"""From a byte to four numbers by a shift and a mask: a weight's two bits on top of a number are a multiple of the weight.

In fp32, fp16 and bf16 the top two bits are the sign and the highest bit of the exponent: 01 is 2.0, 11 is -2.0 and 00 is zero.
In int8 they are 64, -64 and 0. The factor goes into the scale.
"""

import torch
import triton
import triton.language as tl

from workloads.ternary.packing import GROUP, GROUP_BYTES

_GROUP, _GROUP_BYTES = tl.constexpr(GROUP), tl.constexpr(GROUP_BYTES)


def multiple(dtype: torch.dtype) -> int:
    """Return how many times the weight it is that `numbers` gives in `dtype`."""
    return 64 if dtype == torch.int8 else 2


@triton.jit
def numbers(packed, PLANE: tl.constexpr, dtype: tl.constexpr) -> tl.tensor:
    """The weights in the two bits number PLANE of each byte, times `multiple(dtype)`."""
    if dtype == tl.int8:
        return ((packed << (6 - 2 * PLANE)) & 0xC0).to(tl.int8, bitcast=True)
    elif dtype == tl.float32:
        return ((packed.to(tl.uint32) << (30 - 2 * PLANE)) & 0xC0000000).to(tl.float32, bitcast=True)
    else:
        return ((packed.to(tl.uint16) << (14 - 2 * PLANE)) & 0xC000).to(dtype, bitcast=True)


@triton.jit
def column(byte, PLANE: tl.constexpr) -> tl.tensor:
    """Which weight of its row it is."""
    return byte // _GROUP_BYTES * _GROUP + PLANE * _GROUP_BYTES + byte % _GROUP_BYTES
