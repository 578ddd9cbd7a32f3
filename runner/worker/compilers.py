"""What a machine has to compile kernels with: Triton, for GPUs, and a C++ compiler, which torch.compile wants on a CPU."""

import os
import shutil

import torch

from runner.worker.workload import Unsupported

OLDEST = (8, 0)
"""The SM version from which on the Triton kernels of the workloads are meant to run."""

CPP = ("g++", "clang++", "c++")


def check_triton(device: torch.device, otherwise: str = "") -> None:
    """Raise Unsupported where Triton kernels can't run, with what to do otherwise, if anything.

    Triton on a CPU is its interpreter: slow, and meant for tests.
    """
    ways_on = f"; {otherwise}" if otherwise else ""
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise Unsupported(f"Triton isn't installed here: pip install triton{ways_on}") from error
    if device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise Unsupported(f"Triton kernels need a GPU (TRITON_INTERPRET=1 interprets them on a CPU, for tests){ways_on}")
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < OLDEST:
        raise Unsupported(f"these Triton kernels need SM {OLDEST[0]}.{OLDEST[1]} or newer{ways_on}")


def has_triton(device: torch.device) -> bool:
    """Whether Triton kernels can run."""
    try:
        check_triton(device)
    except Unsupported:
        return False
    return True


def check_cpp(device: torch.device, what: str) -> None:
    """Raise Unsupported where `what`, compiled, would run on a CPU and there is no C++ compiler."""
    if device.type == "cpu" and not any(map(shutil.which, CPP)):
        raise Unsupported(f"{what} on a CPU is compiled, and there is no C++ compiler; install g++")
