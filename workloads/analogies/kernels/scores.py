"""Scores of a few int8 queries against every row of a table held in bytes or in two bits: one program for a tile of both.

The table is read once, as it is held; unpacked, it is never in memory. Sums are exact, in int32.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _scores(
    queries, query_scale, codes, row_scale, output,
    batch, words, row_bytes,
    PACKED: tl.constexpr, BATCH: tl.constexpr, WORDS: tl.constexpr, BYTES: tl.constexpr,
):  # fmt: skip
    """BATCH queries against WORDS rows, BYTES of a row at a time; in a packed byte are four numbers, a quarter of a row apart."""
    # Programs of the same rows come one after another, so that all queries but the first block find them in L2.
    query = tl.program_id(0) * BATCH + tl.arange(0, BATCH)
    word = tl.program_id(1) * WORDS + tl.arange(0, WORDS)
    asked, real = query < batch, word < words
    per_query = row_bytes * 4 if PACKED else row_bytes
    of_query = queries + query[:, None] * per_query
    of_row = codes + word.to(tl.int64)[None, :] * row_bytes
    total = tl.zeros([BATCH, WORDS], dtype=tl.int32)
    for start in range(0, row_bytes, BYTES):
        byte = start + tl.arange(0, BYTES)
        within = byte < row_bytes
        tile = tl.load(of_row + byte[:, None], mask=within[:, None] & real[None, :], other=0)
        for plane in tl.static_range(4 if PACKED else 1):
            numbers = ((tile >> (2 * plane)) & 3).to(tl.int8) - 1 if PACKED else tile
            at = of_query + plane * row_bytes + byte[None, :]
            part = tl.load(at, mask=asked[:, None] & within[None, :], other=0)
            total += tl.dot(part, numbers.to(tl.int8))
    scale = (
        tl.load(query_scale + query, mask=asked, other=0.0)[:, None] * tl.load(row_scale + word, mask=real, other=0.0)[None, :]
    )
    where = query.to(tl.int64)[:, None] * words + word[None, :]
    tl.store(output + where, total.to(tl.float32) * scale, mask=asked[:, None] & real[None, :])


def scores(queries: Tensor, query_scale: Tensor, codes: Tensor, row_scale: Tensor) -> Tensor:
    """Return the products in fp32 [B, words]: of `queries` int8 [B, dim'] times `query_scale`, and `codes` times `row_scale`.

    `codes` are int8 [words, dim'], or uint8 [words, dim' / 4]: packed.
    """
    (batch, _), (words, row_bytes) = queries.shape, codes.shape
    output = torch.empty(batch, words, dtype=torch.float32, device=codes.device)
    block = 16 if batch <= 16 else 32 if batch <= 32 else 64
    tile = 128
    _scores[(triton.cdiv(batch, block), triton.cdiv(words, tile))](
        queries, query_scale, codes, row_scale, output, batch, words, row_bytes,
        PACKED=codes.dtype == torch.uint8, BATCH=block, WORDS=tile, BYTES=32 if codes.dtype == torch.uint8 else 64, num_warps=4,
    )  # fmt: skip
    return output
