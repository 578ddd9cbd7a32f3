"""Embeddings with planted analogies, for speed and for tests: they say nothing of the accuracy on words.

In each section, pairs of words differ by the same vector, but for noise. All else are random words. The planted ones come first,
so a larger vocabulary has the same questions among more wrong answers.
"""

from collections.abc import Mapping
from functools import cache
from itertools import permutations

import numpy as np

from workloads.analogies import vocabulary
from workloads.analogies.questions import Question
from workloads.analogies.vocabulary import Vocabulary


@cache
def make(words: int, dim: int, sections: int, pairs: int, noise: float, seed: int = 0) -> tuple[Vocabulary, list[Question]]:
    """Return a vocabulary and every question that two pairs of a section make, in both orders.

    A pair is x and x + r + `noise` e, where x, the section's r and e are normal vectors with a mean length of 1.

    Raises ValueError when the planted words alone are more than `words`.
    """
    planted = 2 * sections * pairs
    if words < planted:
        raise ValueError(f"max_vocab={words} is less than the {planted} planted words; raise it, or lower params.synthetic.pairs")
    draw = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray:
        return draw.standard_normal((*shape, dim), dtype=np.float32) / np.float32(dim**0.5)

    first, relation, error = normal(sections, pairs), normal(sections, 1), normal(sections, pairs)
    second = first + relation + np.float32(noise) * error
    vectors = np.concatenate([np.stack([first, second], axis=2).reshape(planted, dim), normal(words - planted)])
    names = [f"{side}{section}_{pair}" for section in range(sections) for pair in range(pairs) for side in "ab"]
    rows: Mapping[str, int] = {name: row for row, name in enumerate([*names, *(f"w{n}" for n in range(words - planted))])}
    questions: list[Question] = [
        (f"a{section}_{one}", f"b{section}_{one}", f"a{section}_{other}", f"b{section}_{other}")
        for section in range(sections)
        for one, other in permutations(range(pairs), 2)
    ]
    return vocabulary.of(rows, vectors), questions
