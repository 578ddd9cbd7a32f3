"""Analogy questions in the format of Google's questions-words.txt: `: section` lines, and below each, lines of four words.

`a b c d` asks what is to c as b is to a, and expects d. Lines that begin with // are comments. The format, and that file's 19,544
questions, are Mikolov et al.'s (arXiv 1301.3781).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from workloads.analogies.vocabulary import Vocabulary

SHIPPED = Path(__file__).parent
"""Where the sets are that have a name: `igla_25` is igla_25.txt here."""

Question = tuple[str, str, str, str]


@dataclass(frozen=True)
class Asked:
    """Questions all words of which are known, as rows of the vocabulary [questions, 4] on the CPU; and how many are not."""

    rows: Tensor
    oov: int


def read(name: str) -> list[Question]:
    """Return the questions of a file, or of a set that is shipped here and named without a suffix.

    Raises ValueError, naming the line, for one that isn't four words, and for a file without questions; FileNotFoundError when
    there is no such file.
    """
    shipped = SHIPPED / f"{name}.txt"
    path = shipped if Path(name).name == name and shipped.is_file() else Path(name).expanduser()
    if not path.is_file():
        known = ", ".join(sorted(one.stem for one in SHIPPED.glob("*.txt")))
        raise FileNotFoundError(
            f"params.questions={name}: no such file where this is measured; expected a path, or one of {known}"
        )
    found = list(parse(path.read_text(encoding="utf-8", errors="replace").splitlines(), str(path)))
    if not found:
        raise ValueError(f"{path} has no questions; expected lines of four words")
    return found


def parse(lines: Iterable[str], source: str) -> Iterable[Question]:
    """Yield the questions of `lines`; raises ValueError for a line of another kind."""
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith((":", "//")):
            continue
        words = line.split()
        if len(words) != 4:
            raise ValueError(f"{source}, line {number}: {len(words)} words, expected four, or a section as in ': family'")
        yield words[0], words[1], words[2], words[3]


def look_up(questions: Iterable[Question], vocabulary: Vocabulary, lowercase: bool) -> Asked:
    """Return the rows of the questions' words; raises ValueError when no question has all four in the vocabulary."""
    rows, oov = [], 0
    for question in questions:
        found = [vocabulary.rows.get(word.lower() if lowercase else word) for word in question]
        if None in found:
            oov += 1
        else:
            rows.append(found)
    if not rows:
        raise ValueError(
            f"none of the {oov} questions has all four words among the {len(vocabulary.rows)} of the vocabulary; "
            "raise workload.max_vocab or set workload.params.lowercase"
        )
    return Asked(torch.tensor(rows), oov)
