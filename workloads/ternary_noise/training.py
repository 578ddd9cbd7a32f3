"""Trains the classifiers: an MLP 64-256-10 without biases for every seed, all seeds side by side in one batched product.

Ternary models are trained as such (quantisation-aware): forward with weights rounded to {-1, 0, 1} times the mean of their
absolute values, as BitNet b1.58 does (arXiv 2402.17764), backward as if they had not been rounded (straight-through). Training is
on the CPU whatever is measured, so that every device gets the same models, up to the rounding of its CPU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from workloads.ternary_noise.digits import CLASSES, PIXELS, load

MOMENTUM = 0.9
Weights = tuple[Tensor, Tensor]
"""Of both layers, [seeds, in, out]."""


@dataclass(frozen=True)
class Recipe:
    """How the models are trained: `epochs` times over the images, `batch` at a time.

    Each seed has its own initial weights and its own order of the images.
    """

    seeds: int
    first_seed: int
    hidden: int
    epochs: int
    batch: int
    learning_rate: float

    @staticmethod
    def of(params: Mapping[str, Any]) -> "Recipe":
        """Return the recipe among a workload's params."""
        return Recipe(**{name: params[name] for name in Recipe.__dataclass_fields__})


def ternary(weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the trits of `weights` [seeds, in, out], as floats, and the scale [seeds, 1, 1] of each matrix: its mean |w|."""
    scale = weights.abs().mean(dim=(1, 2), keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)
    return (weights / scale).round().clamp(-1, 1), scale


def straight_through(weights: Tensor) -> Tensor:
    """Return the ternary weights; their gradient is passed on to `weights` unchanged."""
    trits, scale = ternary(weights)
    return weights + (trits * scale - weights).detach()


def forward(images: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the logits [seeds, n, 10] of images, [n, 64] or [seeds, n, 64]."""
    return torch.relu(images @ first) @ second


@cache
def train(recipe: Recipe, quantised: bool) -> Weights:
    """Return the trained float32 weights of all seeds, on the CPU: of ternary models if `quantised`. Once a process.

    By gradient descent with momentum, its rate falling along a cosine. torch.optim would do, but takes seconds to import.
    """
    digits = load()
    generators = [torch.Generator().manual_seed(recipe.first_seed + seed) for seed in range(recipe.seeds)]
    weights = [_initial(generators, PIXELS, recipe.hidden), _initial(generators, recipe.hidden, CLASSES)]
    momenta = [torch.zeros_like(one) for one in weights]
    rounded = straight_through if quantised else _as_they_are
    steps = len(digits.train) // recipe.batch
    for epoch in range(recipe.epochs):
        order = torch.stack([torch.randperm(len(digits.train), generator=generator) for generator in generators])
        for step, chosen in enumerate(order.split(recipe.batch, dim=1)[:steps]):
            with torch.enable_grad():
                logits = forward(digits.train[chosen], *(rounded(one) for one in weights))
                # The sum over the seeds: no seed's gradient depends on another's.
                loss = cross_entropy(logits.flatten(0, 1), digits.train_labels[chosen].flatten(), reduction="sum") / recipe.batch
                gradients = torch.autograd.grad(loss, weights)
            done = (epoch + step / steps) / recipe.epochs
            rate = recipe.learning_rate * (1 + math.cos(math.pi * done)) / 2
            with torch.no_grad():
                for one, momentum, gradient in zip(weights, momenta, gradients, strict=True):
                    one -= rate * momentum.mul_(MOMENTUM).add_(gradient)
    return weights[0].detach(), weights[1].detach()


def _initial(generators: list[torch.Generator], rows: int, columns: int) -> Tensor:
    """Return He's initial weights [seeds, rows, columns], each seed's from its own generator."""
    drawn = [torch.randn(rows, columns, generator=generator) for generator in generators]
    return (torch.stack(drawn) * math.sqrt(2 / rows)).requires_grad_()


def _as_they_are(weights: Tensor) -> Tensor:
    return weights
