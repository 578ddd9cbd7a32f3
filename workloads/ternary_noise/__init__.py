"""Task accuracy of small trained classifiers whose weights are disturbed: ternary, int8 and fp16, by value and by bit.

The report gave the cosine of a random ternary matrix with a copy, each weight of which was replaced with probability p, as
"accuracy retention". That is 1 - p by arithmetic and says nothing of any task; it is here too, as the figure `cosine`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Context, Figure, Incorrect, Inputs, Operation, Variant, Work, Workload
from workloads.ternary_noise import accuracy
from workloads.ternary_noise.corruption import CORRUPT, STORE, Stored
from workloads.ternary_noise.digits import CLASSES, PIXELS, TEST_IMAGES, load
from workloads.ternary_noise.training import Recipe, forward, train

Layers = tuple[Stored, Stored]

VARIANTS = {
    "ternary": ("ternary", "values"),
    "ternary_bits": ("ternary", "bits"),
    "int8_values": ("int8", "values"),
    "int8_bits": ("int8", "bits"),
    "fp16_values": ("fp16", "values"),
    "fp16_bits": ("fp16", "bits"),
}
"""The number format of the weights, and the kind of noise."""


@dataclass(frozen=True)
class Models:
    """The models of all seeds in one number format, trained and disturbed, on the CPU, and the accuracy they need at `least`."""

    clean: Layers
    noisy: Layers
    labels: Tensor
    least: float


@cache
def stored(recipe: Recipe, number_format: str) -> Layers:
    """Return the trained models of all seeds in a number format; int8 and fp16 are rounded from the same float32 models."""
    first, second = train(recipe, quantised=number_format == "ternary")
    return STORE[number_format](first), STORE[number_format](second)


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the test images [n, 64] on the device and, by variant, its models."""
    digits, recipe = load(), Recipe.of(context.params)
    models = {}
    for index, (name, (number_format, kind)) in enumerate(VARIANTS.items()):
        # The generator's seed is the case's; each variant has noise of its own, the same on every device.
        generator = torch.Generator().manual_seed(context.generator.initial_seed() + index)
        clean = stored(recipe, number_format)
        first, second = (CORRUPT[kind](layer, axes["noise_pct"] / 100, generator) for layer in clean)
        models[name] = Models(clean, (first, second), digits.test_labels, context.params["min_accuracy"])
    return digits.test.to(context.device), models


def prepare(name: str, inputs: Inputs) -> Inputs:
    """Return the images, both layers' noisy weights in float32 on the device, and the models they are of.

    Raises Incorrect when the models were not good before there was noise.
    """
    images, models = inputs
    own = models[name]
    least = float(_clean_accuracies(own).min())
    if not least > own.least:
        raise Incorrect(f"without noise a model is right on {least:.1%} of the test images, not on more than {own.least:.0%}")
    return images, *(layer.values().to(images.device) for layer in own.noisy), own


def run(images: Tensor, first: Tensor, second: Tensor, models: Models) -> Tensor:
    """Return the logits [seeds, n, 10] of all noisy models on all test images."""
    return forward(images, first, second)


def reference(name: str, images: Tensor, models: Mapping[str, Models]) -> Tensor:
    """Return the logits' directions in float64, from the weights as they are stored."""
    first, second = (layer.values(torch.float64).to(images.device) for layer in models[name].noisy)
    return accuracy.directions(forward(images.double(), first, second))


def figures(logits: Tensor, prepared: Inputs) -> Mapping[str, Figure]:
    """Return accuracy, what is left of that without noise, how many weights really changed, and the report's cosine."""
    models: Models = prepared[-1]
    logits = logits.cpu()
    noisy, clean = accuracy.accuracies(logits, models.labels), _clean_accuracies(models)
    found = {
        "accuracy": accuracy.mean(noisy),
        "accuracy_retained": accuracy.mean(noisy / clean),
        "true_flip_rate": accuracy.mean(accuracy.changed(models.clean, models.noisy)),
        "no_answer": accuracy.mean((~accuracy.answered(logits)).double().mean(-1)),
    }
    cosines = accuracy.cosine(models.clean, models.noisy)
    return found | ({"cosine": accuracy.mean(cosines)} if cosines.isfinite().all() else {})


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """Both layers of all models on all test images; images, weights and logits moved once, in float32."""
    seeds, hidden, images = params["seeds"], params["hidden"], TEST_IMAGES
    weights = seeds * (PIXELS * hidden + hidden * CLASSES)
    nbytes = 4.0 * (images * PIXELS + weights + seeds * images * CLASSES)
    return Work(2.0 * images * weights, nbytes, {"throughput_images_per_s": seeds * images})


def _clean_accuracies(models: Models) -> Tensor:
    first, second = (layer.values() for layer in models.clean)
    return accuracy.accuracies(forward(load().test, first, second), models.labels)


def _finish(logits: Tensor, prepared: Inputs) -> Tensor:
    return accuracy.directions(logits)


def _variant(name: str) -> Variant:
    return Variant(run, dtype="fp32", operation=name, prepare=partial(prepare, name), finish=_finish, figures=figures)


WORKLOAD = Workload(
    inputs=inputs,
    variants={name: _variant(name) for name in VARIANTS},
    operations={name: Operation(partial(reference, name), work) for name in VARIANTS},
)
