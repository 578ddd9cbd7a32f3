"""Many rows of activations: the weights unpacked in each call, once for all rows, then a dense matrix product."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.ternary.forms import linear
from workloads.ternary.kernels.codes import multiple, numbers, planes, words
from workloads.ternary.packing import GROUP, GROUP_BYTES

GROUPS = 32
"""Groups of 256 weights of a program, over as many rows as they are."""

_GROUP = tl.constexpr(GROUP)


@triton.jit
def _unpack(packed, unpacked, count, row_groups, columns, GROUPS: tl.constexpr, PLANES: tl.constexpr, PAIRS: tl.constexpr):
    """Write `count` groups of [n, row_groups, words] as numbers [n, columns]: of a group, each plane is neighbours."""
    WORDS: tl.constexpr = _GROUP // PLANES
    group = (tl.program_id(0).to(tl.int64) * GROUPS + tl.arange(0, GROUPS))[:, None]
    word = tl.arange(0, WORDS)[None, :]
    held = tl.load(packed + group * WORDS + word, mask=group < count, other=0)
    row, first = group // row_groups, group % row_groups * _GROUP
    for plane in tl.static_range(PLANES):
        k = first + plane * WORDS + word
        there = (group < count) & (k < columns)
        tl.store(unpacked + row * columns + k, numbers(held, plane, unpacked.dtype.element_ty, PAIRS), mask=there)


def unpack(packed: Tensor, columns: int, dtype: torch.dtype) -> Tensor:
    """Return `multiple(dtype)` times the weights, [n, columns] in `dtype`, fp16 or bf16."""
    n, row_groups = packed.shape[0], packed.shape[1] // GROUP_BYTES
    unpacked = torch.empty(n, columns, dtype=dtype, device=packed.device)
    _unpack[(triton.cdiv(n * row_groups, GROUPS),)](
        words(packed, dtype), unpacked, n * row_groups, row_groups, columns,
        GROUPS=GROUPS, PLANES=planes(dtype), PAIRS=packed.is_cuda,
    )  # fmt: skip
    return unpacked


def unpacked_linear(x: Tensor, packed: Tensor, scale: float) -> Tensor:
    """Return x W^T * scale for x [m, k] in fp16 or bf16, in its dtype."""
    return linear(x, unpack(packed, x.shape[1], x.dtype), scale / multiple(x.dtype))
