"""From an exception to a measurement's status: out of memory, unsupported, error; and whether CUDA survived it."""

import torch

from runner.errors import one_line
from runner.worker.workload import Incorrect, Unsupported

NOT_IMPLEMENTED = ("not implemented for", "not supported", "only supports", "only supported")


def classify(error: BaseException) -> tuple[str, str]:
    """Return (status, reason) for what a variant raised."""
    text = one_line(str(error)) or type(error).__name__
    reason = text if len(text) <= 300 else text[:297] + "..."
    if isinstance(error, Unsupported):
        return "unsupported", reason
    if isinstance(error, Incorrect):
        return "incorrect", reason
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in text:
        return "oom", reason
    missing = isinstance(error, RuntimeError) and any(mark in text for mark in NOT_IMPLEMENTED)
    if missing or isinstance(error, NotImplementedError):
        return "unsupported", reason
    return "error", f"{type(error).__name__}: {reason}"


def cuda_is_broken() -> bool:
    """Whether CUDA is left in an error that only a new process clears (an illegal address, a failed assertion)."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
        torch.zeros(1, device="cuda").add_(1).item()
    except torch.OutOfMemoryError:
        return False
    except RuntimeError:
        return True
    return False
