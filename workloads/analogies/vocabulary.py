"""Words with their vectors, read from a text file as GloVe and word2vec write it: a word and its numbers on each line.

GloVe's files have nothing else; word2vec's begin with a line of two whole numbers, words and dimensions. Both list the most
frequent words first, so the first `max_words` are a smaller vocabulary of the same embeddings.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

LEAST_WORDS = 16
"""The three words of a question, ten answers, and some to spare."""


@dataclass(frozen=True)
class Vocabulary:
    """Words by their row, and the rows: float32 vectors [words, dim] of length 1, on the CPU."""

    rows: Mapping[str, int]
    vectors: Tensor


def of(rows: Mapping[str, int], vectors: np.ndarray) -> Vocabulary:
    """Return the vocabulary of vectors of any length; 3CosAdd compares cosines, so only directions are kept."""
    return Vocabulary(rows, normalize(torch.from_numpy(vectors), dim=1))


def read(path: Path, max_words: int, lowercase: bool) -> Vocabulary:
    """Return the first `max_words` words of a text file, all that it has where these are fewer.

    A word that was there before, as it may be once `lowercase` has made two into one, is left out: the first is more frequent.

    Raises ValueError, naming the line, for one that is not a word and as many numbers as the first line has, and where fewer than
    LEAST_WORDS are left; FileNotFoundError when there is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"params.embeddings={path}: no such file where this is measured; a run elsewhere takes it along "
                                f"with launch.include=[{path}] and then finds it as {path.name}")  # fmt: skip
    rows: dict[str, int] = {}
    vectors: list[np.ndarray] = []
    for word, numbers in _lines(path):
        word = word.lower() if lowercase else word
        if word not in rows:
            rows[word] = len(vectors)
            vectors.append(numbers)
        if len(vectors) == max_words:
            break
    if len(vectors) < LEAST_WORDS:
        raise ValueError(f"{path} has {len(vectors)} words; analogies need {LEAST_WORDS} at least")
    return of(rows, np.stack(vectors))


def _lines(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield each word with its vector."""
    dim = 0
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        for number, line in enumerate(file, 1):
            fields = line.rstrip("\r\n ").split(" ")
            if number == 1 and len(fields) == 2 and all(field.isdecimal() for field in fields):
                dim = int(fields[1])
                continue
            dim = dim or len(fields) - 1
            # A few words of GloVe's 840B file have spaces in them, so numbers are counted from the end.
            word = " ".join(fields[:-dim]) if dim else ""
            if not word or (" " in word and _is_number(fields[-dim - 1])):
                raise ValueError(f"{path}, line {number}: {len(fields) - 1} numbers after a word, expected {dim}")
            try:
                vector = np.array(fields[-dim:], dtype=np.float32)
            except ValueError:
                raise ValueError(f"{path}, line {number}: expected a word and {dim} numbers") from None
            if not np.isfinite(vector).all():
                raise ValueError(f"{path}, line {number}: a number is not finite")
            yield word, vector


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
