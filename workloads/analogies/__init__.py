"""Word analogies by 3CosAdd over a whole vocabulary, the same in fp32, fp16, int8 and ternary: accuracy, bytes and speed.

The report's "76.2% -> 100%" ends with hits among the ten best, on 25 questions, after the vocabulary was cut to an eighth.
"""

from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Figure, Incorrect, Inputs, Operation, Params, Variant, Work, Workload
from workloads.analogies import quality, questions, search, synthetic, vocabulary
from workloads.analogies.formats import FORMATS, Format
from workloads.analogies.questions import Asked
from workloads.analogies.vocabulary import Vocabulary

ARITHMETIC = {"fp32": "fp32", "fp16": "fp16", "int8": "int8", "ternary": "int8", "ternary_both": "int8"}
"""Of the products. Those of trits are of int8 numbers, on a CPU too, where they are carried out in fp32 without rounding."""

Output = tuple[Tensor, Tensor]


def load(params: Params, max_words: int) -> tuple[Vocabulary, Asked]:
    """Return the vocabulary of a case and its questions, read or made once a process.

    Raises FileNotFoundError for a file that is not there and ValueError for one that isn't what it should be: asked for by name,
    that is an error and not a thing that this device can't do.
    """
    made = params["synthetic"]
    key = (made["dim"], made["sections"], made["pairs"], made["noise"])
    return _load(params["embeddings"], params["questions"], params["lowercase"], max_words, key)


@cache
def _load(
    embeddings: str | None, asked: str | None, lowercase: bool, max_words: int, made: tuple[int, int, int, float]
) -> tuple[Vocabulary, Asked]:
    if embeddings is None:
        if asked is not None:
            raise ValueError(f"params.questions={asked} is about words, and without params.embeddings there are none; set both")
        words, own = synthetic.make(max_words, *made)
        return words, questions.look_up(own, words, lowercase=False)
    wanted = questions.read(asked or "igla_25")
    words = vocabulary.read(Path(embeddings).expanduser(), max_words, lowercase)
    return words, questions.look_up(wanted, words, lowercase)


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the unit vectors [words, dim] and `batch` of the questions [B, 4] on the device, and all questions."""
    words, asked = load(context.params, axes["max_vocab"])
    generator = torch.Generator().manual_seed(context.generator.initial_seed())  # the same questions on every device
    drawn = torch.randint(len(asked.rows), (axes["batch"],), generator=generator)
    return words.vectors.to(context.device), asked.rows[drawn].to(context.device), asked


def prepare(name: str, inputs: Inputs) -> Inputs:
    """Return the table as it is held: codes and the rows' factors; and the questions."""
    vectors, batch, asked = inputs
    if ARITHMETIC[name] == "int8":
        search.check(vectors.device)
    return *FORMATS[name].quantise(vectors), batch, asked


def run(stored: Format, codes: Tensor, scale: Tensor, batch: Tensor, asked: Asked) -> Output:
    """Return the ten best scores [B, 10], and the words."""
    return search.best(stored, codes, scale, batch)


def finish(stored: Format, output: Output, prepared: Inputs) -> Tensor:
    """Return the scores and, beside them, the true ones of the words that were chosen, [B, 20]: words that tie may change places.

    Raises Incorrect when a word of a question is among its answers.
    """
    scores, words = output
    codes, scale, batch, _ = prepared
    if (words[:, :, None] == batch[:, None, :3]).any():
        raise Incorrect("it answered with a word of the question")
    return torch.cat([scores.double(), search.exact(stored, codes, scale, batch, words)], dim=1)


def reference(stored: Format, vectors: Tensor, batch: Tensor, asked: Asked) -> Tensor:
    """Return the ten best true scores [B, 20], twice, of what is stored."""
    return search.reference(stored, vectors, batch).repeat(1, 2)


def figures(stored: Format, output: Output, prepared: Inputs) -> Mapping[str, Figure]:
    """Return accuracy over all questions, whatever the batch, and the bytes of the table."""
    codes, scale, _, asked = prepared
    return quality.figures(stored, codes, scale, asked)


def work(stored: Format, axes: Axes, params: Params, dtype: str) -> Work:
    """A product with every word; the table read once as it is held (without padding), ten scores and words written."""
    words, dim = load(params, axes["max_vocab"])[0].vectors.shape
    batch, scales = axes["batch"], 4 * words if stored.bits <= 8 else 0
    nbytes = words * dim * stored.bits / 8 + scales + batch * search.BEST * 12
    return Work(2.0 * batch * words * dim, nbytes, {"throughput_queries_per_s": batch})


REL_L2 = {"fp16": 2e-3, "int8": 5e-3, "ternary": 5e-3, "ternary_both": 1e-5}
"""Bounds by format: a few times what rounding a query does, and less than what leaving the best word out does."""


def _variant(name: str) -> Variant:
    own: dict[str, Any] = {
        "prepare": partial(prepare, name),
        "operation": name,
        "dtype": ARITHMETIC[name],
        "rel_l2": REL_L2.get(name),
    }
    stored = FORMATS[name]
    return Variant(partial(run, stored), finish=partial(finish, stored), figures=partial(figures, stored), **own)


WORKLOAD = Workload(
    inputs=inputs,
    variants={name: _variant(name) for name in FORMATS},
    operations={name: Operation(partial(reference, one), partial(work, one)) for name, one in FORMATS.items()},
)
