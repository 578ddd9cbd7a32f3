"""The task: scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels that come with the library, in a fixed split."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from runner.worker.workload import Unsupported

PIXELS, CLASSES = 64, 10
TEST_EVERY, TEST_IMAGES = 4, 450
"""Every fourth image is for testing, 1,347 are to train on. The writers of both are the same."""


@dataclass(frozen=True)
class Digits:
    """Images [n, 64] in float32, with mean 0 and standard deviation 1 over the training images; labels [n] from 0 to 9."""

    train: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@cache
def load() -> Digits:
    """Return the digits, on the CPU; raises Unsupported where scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]
    except ImportError as error:
        raise Unsupported("the digits are scikit-learn's, which is not installed: pip install scikit-learn") from error
    images, labels = load_digits(return_X_y=True)
    pixels, digits = torch.from_numpy(images).float(), torch.from_numpy(labels).long()
    testing = torch.arange(len(pixels)) % TEST_EVERY == 0
    train, test = pixels[~testing], pixels[testing]
    mean, deviation = train.mean(), train.std()
    return Digits((train - mean) / deviation, digits[~testing], (test - mean) / deviation, digits[testing])
