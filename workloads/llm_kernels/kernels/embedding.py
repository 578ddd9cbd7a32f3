"""Rows of a table by their ids: one program copies COLUMNS columns of one row."""

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_COLUMNS = 4096


@triton.jit
def _embedding(ids, table, output, width, COLUMNS: tl.constexpr):
    """COLUMNS columns of the row of one token."""
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row = tl.load(ids + token).to(tl.int64)
    values = tl.load(table + row * width + column, mask=column < width)
    tl.store(output + token * width + column, values, mask=column < width)


def embedding(ids: Tensor, table: Tensor) -> Tensor:
    """Return table[ids], [T, width]; ids [T] int64, table [vocab, width]."""
    tokens, width = ids.numel(), table.shape[1]
    output = torch.empty(tokens, width, dtype=table.dtype, device=table.device)
    columns = min(MAX_COLUMNS, triton.next_power_of_2(width))
    _embedding[(tokens, triton.cdiv(width, columns))](ids, table, output, width, COLUMNS=columns, num_warps=4)
    return output
