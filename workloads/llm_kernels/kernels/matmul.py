"""x W^T + b: one program computes one tile of the output, walking along k; the bias is added before the result is rounded.

Programs are numbered so that GROUP rows of tiles are done column by column: those that run at once then share what is in L2.
The tiles follow from the number of rows, the dtype and the GPU's generation, not from trying.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

GROUP = 8


@triton.jit
def _matmul(
    x, weight, bias, output, m, n, k,
    TILE_M: tl.constexpr, TILE_N: tl.constexpr, TILE_K: tl.constexpr,
    GROUP: tl.constexpr, EVEN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the output; EVEN says that TILE_K divides k, so that no step along k needs a mask."""
    program = tl.program_id(0)
    tiles_m, tiles_n = tl.cdiv(m, TILE_M), tl.cdiv(n, TILE_N)
    first = program // (GROUP * tiles_n) * GROUP
    high = tl.minimum(tiles_m - first, GROUP)
    within = program % (GROUP * tiles_n)
    row = (first + within % high) * TILE_M + tl.arange(0, TILE_M)
    column = within // high * TILE_N + tl.arange(0, TILE_N)
    depth = tl.arange(0, TILE_K)
    # rows and columns beyond the end wrap around, so that reading needs no mask there; they are not written
    at_x = x + (row % m).to(tl.int64)[:, None] * k + depth[None, :]
    at_w = weight + (column % n).to(tl.int64)[None, :] * k + depth[:, None]
    sums = tl.zeros([TILE_M, TILE_N], dtype=tl.float32)
    for start in range(0, k, TILE_K):
        if EVEN:
            left, right = tl.load(at_x), tl.load(at_w)
        else:
            left = tl.load(at_x, mask=depth[None, :] < k - start, other=0.0)
            right = tl.load(at_w, mask=depth[:, None] < k - start, other=0.0)
        sums = tl.dot(left, right, sums, input_precision=PRECISION)
        at_x += TILE_K
        at_w += TILE_K
    sums += tl.load(bias + column % n).to(tl.float32)[None, :]
    at = row.to(tl.int64)[:, None] * n + column[None, :]
    tl.store(output + at, sums.to(output.dtype.element_ty), mask=(row[:, None] < m) & (column[None, :] < n))


def tiles(m: int, dtype: torch.dtype, hopper: bool) -> dict[str, Any]:
    """Return tile and launch sizes for m rows; all fit into the 99 KiB of shared memory of Ada, but those for Hopper alone."""
    if dtype == torch.float32:  # no tensor cores: their tf32 would be another precision
        return {"TILE_M": 16 if m <= 16 else 64, "TILE_N": 64, "TILE_K": 32, "num_warps": 4, "num_stages": 2}
    if m <= 64:
        return {"TILE_M": 16 if m <= 16 else 64, "TILE_N": 64, "TILE_K": 128, "num_warps": 4, "num_stages": 3}
    if hopper:
        return {"TILE_M": 128, "TILE_N": 256, "TILE_K": 64, "num_warps": 8, "num_stages": 3}
    return {"TILE_M": 128, "TILE_N": 128, "TILE_K": 32, "num_warps": 8, "num_stages": 4}


def matmul(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return x W^T + b, [m, n]; x [m, k], weight [n, k], bias [n]."""
    (m, k), n = x.shape, weight.shape[0]
    hopper = x.is_cuda and torch.cuda.get_device_capability(x.device) == (9, 0)
    sizes = tiles(m, x.dtype, hopper)
    output = torch.empty(m, n, dtype=x.dtype, device=x.device)
    programs = triton.cdiv(m, sizes["TILE_M"]) * triton.cdiv(n, sizes["TILE_N"])
    _matmul[(programs,)](
        x, weight, bias, output, m, n, k,
        GROUP=GROUP, EVEN=k % sizes["TILE_K"] == 0, PRECISION="ieee" if x.dtype == torch.float32 else "tf32", **sizes,
    )  # fmt: skip
    return output
