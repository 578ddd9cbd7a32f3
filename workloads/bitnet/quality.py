"""How well a model writes: perplexity on a text; whether what it writes for a few prompts repeats itself, and answers."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Unsupported

WINDOW = 1024
"""Tokens that are seen together at most. A longer text is cut into windows; what is left over at its end is not used."""


@torch.no_grad()
def perplexity(logits_of: Callable[[Tensor], Tensor], ids: Tensor, window: int = WINDOW) -> float:
    """Return exp(mean negative log-likelihood) of each token of `ids` [len] given those before it in its window.

    `logits_of` maps [1, len] to [1, len, vocab]. Raises Unsupported when there is no token to predict.
    """
    window = min(window, len(ids))
    if window < 2:
        raise Unsupported(f"the text has {len(ids)} tokens; perplexity needs two or more")
    total, count = 0.0, 0
    for start in range(0, len(ids) - window + 1, window):
        part = ids[None, start : start + window]
        logits = logits_of(part)[0, :-1].double()
        total += float((logits.logsumexp(-1) - logits.gather(1, part[0, 1:, None])[:, 0]).sum())
        count += window - 1
    try:
        return math.exp(total / count)
    except OverflowError:
        return math.inf


def repetition(tokens: Sequence[int], n: int = 4) -> float:
    """Return the share of n-grams that were there before, 0 where there is none."""
    grams = _grams(tokens, n)
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def distinct(tokens: Sequence[int], n: int = 2) -> float:
    """Return the share of different n-grams among all, 1 where there is none."""
    return 1 - repetition(tokens, n)


def _grams(tokens: Sequence[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(tokens[start : start + n]) for start in range(len(tokens) - n + 1)]


@dataclass(frozen=True)
class Quality:
    """Means over the prompts. `exact_match` is the share of those with an answer whose continuation has it."""

    exact_match: float
    repetition: float
    distinct_2: float


@torch.no_grad()
def generate(network: Any, tokenizer: Any, prompt: str, new_tokens: int) -> list[int]:
    """Return the greedy continuation of a prompt, at most `new_tokens` token ids."""
    ids = tokenizer(prompt, return_tensors="pt").input_ids.to(network.device)
    end = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    out = network.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new_tokens, do_sample=False, pad_token_id=end)
    continuation: list[int] = out[0, ids.shape[1] :].tolist()
    return continuation


def quality(network: Any, tokenizer: Any, prompts: Sequence[Mapping[str, Any]], new_tokens: int) -> Quality:
    """Generate for every prompt; an `answer` is a regular expression that must be found in the continuation."""
    written = [generate(network, tokenizer, one["prompt"], new_tokens) for one in prompts]
    asked = [(one["answer"], tokens) for one, tokens in zip(prompts, written, strict=True) if one.get("answer")]
    right = [bool(re.search(answer, tokenizer.decode(tokens))) for answer, tokens in asked]
    return Quality(_mean(right), _mean([repetition(one) for one in written]), _mean([distinct(one) for one in written]))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
