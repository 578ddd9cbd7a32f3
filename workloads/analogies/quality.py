"""How many questions were answered right, over all of them: at once, among the ten best, and the mean of one over the rank."""

from collections.abc import Mapping
from typing import Any

import torch
from scipy import stats
from torch import Tensor

from runner.worker.workload import Figure
from workloads.analogies.formats import Format
from workloads.analogies.questions import Asked
from workloads.analogies.search import BEST, scores_of

CHUNK_NUMBERS = 2**26
"""Scores of this many words and questions at a time."""


def ranks(stored: Format, codes: Tensor, scale: Tensor, questions: Tensor) -> Tensor:
    """Return the rank of the expected word among all words but the question's own, 1 for the best.

    A tie counts against it: it ranks after all words with the same score. A word of the question is never an answer; where one
    is expected, it ranks last.
    """
    found = []
    for batch in questions.split(max(1, CHUNK_NUMBERS // len(codes))):
        scores = scores_of(stored, codes, scale, batch)
        found.append((scores >= scores.gather(1, batch[:, 3:])).sum(1))
    return torch.cat(found)


def share(hits: int, count: int) -> Figure:
    """Return a share with Wilson's interval of 95%."""
    interval: Any = stats.binomtest(hits, count).proportion_ci(0.95, method="wilson")
    return Figure(hits / count, float(interval.low), float(interval.high))


def figures(stored: Format, codes: Tensor, scale: Tensor, asked: Asked) -> Mapping[str, Figure]:
    """Return what is said of a table: its accuracy on all questions that it has the words for, and its bytes."""
    rank = ranks(stored, codes, scale, asked.rows.to(codes.device)).cpu()
    return {
        "top1": share(int((rank == 1).sum()), len(rank)),
        "top10": share(int((rank <= BEST).sum()), len(rank)),
        "mrr": Figure(float((1 / rank.double()).mean())),
        "answered": Figure(len(rank)),
        "oov": Figure(asked.oov),
        "vocab_words": Figure(len(codes)),
        "embedding_mb": Figure((codes.nbytes + scale.nbytes) / 1e6),
    }
