"""3CosAdd (Mikolov et al. 2013): the words whose vectors have the largest product with b - a + c, those of the question left out.

fp32 and fp16 tables are multiplied by torch. Tables of codes are multiplied as integers, a query quantised to int8 too: on a GPU
by a Triton kernel that reads the table as it is held; on a CPU a block of rows at a time in fp32, which is exact for sums this
small and several times as fast as torch's int8 product there.
"""

import torch
from torch import Tensor

from runner.worker.compilers import check_triton
from workloads.analogies.formats import Format, queries, rows

BEST = 10
BLOCK = 8192
"""Rows that are unpacked at a time on a CPU, and in the reference."""


def best(stored: Format, codes: Tensor, scale: Tensor, batch: Tensor) -> tuple[Tensor, Tensor]:
    """Return the BEST scores [B, 10], falling, and whose they are, of questions [B, 4]."""
    scores, words = scores_of(stored, codes, scale, batch).topk(BEST)
    return scores, words


def scores_of(stored: Format, codes: Tensor, scale: Tensor, batch: Tensor) -> Tensor:
    """Return the scores of all words [B, words]; those of the question's own are -inf."""
    query = queries(stored, codes, scale, batch, torch.float32)
    if codes.dtype.is_floating_point:
        scores = (query.to(codes.dtype) @ codes.mT).float()
    else:
        scores = _of_codes(stored, codes, scale, *_int8(query))
    return scores.scatter_(1, batch[:, :3], -torch.inf)


def check(device: torch.device) -> None:
    """Raise Unsupported where tables of codes can't be searched on `device`."""
    if device.type == "cuda":
        check_triton(device)


def exact(stored: Format, codes: Tensor, scale: Tensor, batch: Tensor, words: Tensor) -> Tensor:
    """Return the true scores of `words` [B, n], in float64, from what is stored."""
    query = queries(stored, codes, scale, batch, torch.float64)
    return torch.einsum("bd,bnd->bn", query, rows(stored, codes, scale, words, torch.float64))


def reference(stored: Format, vectors: Tensor, batch: Tensor) -> Tensor:
    """Return the BEST true scores [B, 10], falling, in float64; the table is gone through block by block."""
    codes, scale = stored.quantise(vectors)
    query = queries(stored, codes, scale, batch, torch.float64)
    found = query.new_empty(len(batch), 0)
    for start in range(0, len(codes), BLOCK):
        index = torch.arange(start, min(start + BLOCK, len(codes)), device=codes.device)
        scores = query @ rows(stored, codes, scale, index, torch.float64).mT
        scores.masked_fill_((batch[:, :3, None] == index).any(1), -torch.inf)
        scores = torch.cat([found, scores], dim=1)
        found = scores.topk(min(BEST, scores.shape[1])).values
    return found


def _int8(query: Tensor) -> tuple[Tensor, Tensor]:
    """Return queries as int8 and the scale of each; trits times a scale stay what they are, but for the unit."""
    scale = query.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (query / scale[:, None]).round().to(torch.int8), scale


def _of_codes(stored: Format, codes: Tensor, scale: Tensor, query: Tensor, query_scale: Tensor) -> Tensor:
    if codes.is_cuda:
        from workloads.analogies import kernels

        return kernels.scores(query, query_scale, codes, scale)
    numbers = query.float()
    products = [numbers @ stored.unpack(block).float().mT for block in codes.split(BLOCK)]
    return torch.cat(products, dim=1).mul_(scale).mul_(query_scale[:, None])
