"""What noise does to accuracy: the share of test images that a model still gets right, over the seeds, with an interval."""

import math

import torch
from scipy import stats
from torch import Tensor

from runner.worker.workload import Figure
from workloads.ternary_noise.corruption import Stored

CONFIDENCE = 0.95


def answered(logits: Tensor) -> Tensor:
    """Return whether a model answers an image [seeds, n]: all ten logits are finite. Without an answer it is wrong."""
    return logits.isfinite().all(-1)


def directions(logits: Tensor) -> Tensor:
    """Return logits [seeds, n, 10] for the gate, each image's with length 1 in float64, all zeros where there is no answer.

    Flipped exponent bits make logits of one model 10^8 times those of another; by their directions all models count alike. Argmax
    is the same.
    """
    finite = torch.where(answered(logits)[..., None], logits.double(), 0.0)
    return torch.nn.functional.normalize(finite, dim=-1, eps=1e-30)


def accuracies(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the share of right answers of each seed's model, [seeds] in float64."""
    return ((logits.argmax(-1) == labels) & answered(logits)).double().mean(-1)


def mean(values: Tensor) -> Figure:
    """Return the mean over the seeds with Student's t interval of 95%; without one where there is a single seed."""
    value, count = float(values.mean()), len(values)
    if count < 2:
        return Figure(value)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, count - 1)) * float(values.std()) / math.sqrt(count)
    return Figure(value, value - half, value + half)


def changed(clean: tuple[Stored, ...], noisy: tuple[Stored, ...]) -> Tensor:
    """Return the share of each seed's weights whose value is no longer what it was, [seeds]."""
    return (_flat(clean) != _flat(noisy)).double().mean(-1)


def cosine(clean: tuple[Stored, ...], noisy: tuple[Stored, ...]) -> Tensor:
    """Return the cosine of each seed's weights with what noise made of them, [seeds]; not finite where those are not.

    This is what the report gave as accuracy. For weights that are random trits it is 1 - p, whatever they are weights of.
    """
    return torch.nn.functional.cosine_similarity(_flat(clean), _flat(noisy), dim=-1)


def _flat(layers: tuple[Stored, ...]) -> Tensor:
    return torch.cat([layer.values(torch.float64).flatten(1) for layer in layers], dim=1)
