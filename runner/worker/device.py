"""The device a worker measures on: what it is, waiting for it, its memory, its noise. Two roles: CUDA GPU and CPU."""

import gc
import os
import platform
from pathlib import Path
from typing import Any, Protocol

import torch

from runner.worker import nvml


class Device(Protocol):
    """What the engine asks of a device; memory is in bytes."""

    torch_device: torch.device

    def describe(self) -> dict[str, Any]:
        """Return the `device` fields of `job_started`."""
        ...

    def synchronize(self) -> None:
        """Wait until everything issued so far is done."""
        ...

    def memory_held(self) -> int:
        """Return the bytes held now."""
        ...

    def reset_peak(self) -> None:
        """Forget the highest memory use so far."""
        ...

    def memory_peak(self) -> int:
        """Return the most bytes held since `reset_peak`."""
        ...

    def release(self) -> None:
        """Give unused memory back, so that one case leaves nothing to the next."""
        ...


class Cuda:
    """The first visible CUDA GPU."""

    def __init__(self) -> None:
        self.torch_device = torch.device("cuda", 0)
        self.properties = torch.cuda.get_device_properties(0)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False

    @property
    def uuid(self) -> str | None:
        """The GPU's UUID in NVML's spelling, None where torch doesn't tell."""
        uuid = getattr(self.properties, "uuid", None)
        return f"GPU-{uuid}" if uuid else None

    @property
    def l2_bytes(self) -> int:
        """Size of the L2 cache; 64 MiB where torch doesn't tell, larger than that of any GPU without the attribute."""
        return int(getattr(self.properties, "L2_cache_size", 0)) or 64 << 20

    def describe(self) -> dict[str, Any]:
        """Return the `device` fields of `job_started`."""
        properties = self.properties
        return {
            "type": "cuda",
            "index": 0,
            "name": properties.name,
            "uuid": self.uuid,
            "sm": f"{properties.major}.{properties.minor}",
            "sm_count": properties.multi_processor_count,
            "memory_bytes": properties.total_memory,
            "l2_bytes": self.l2_bytes,
            **nvml.describe(self.uuid),
            **_host(),
        }

    def synchronize(self) -> None:
        """Wait until everything issued so far is done; raises RuntimeError when the GPU reports an error."""
        torch.cuda.synchronize()

    def memory_held(self) -> int:
        """Return the bytes held by tensors."""
        return torch.cuda.memory_allocated()

    def reset_peak(self) -> None:
        """Forget the highest memory use so far."""
        torch.cuda.reset_peak_memory_stats()

    def memory_peak(self) -> int:
        """Return the most bytes held by tensors since `reset_peak`."""
        return torch.cuda.max_memory_allocated()

    def release(self) -> None:
        """Give cached blocks back to the driver."""
        gc.collect()
        torch.cuda.empty_cache()


class Cpu:
    """The processor, with a fixed number of threads; one core is left to the system and the launcher."""

    def __init__(self, threads: int | None) -> None:
        self.torch_device = torch.device("cpu")
        self.threads = threads or max(1, len(os.sched_getaffinity(0)) - 1)
        torch.set_num_threads(self.threads)

    def describe(self) -> dict[str, Any]:
        """Return the `device` fields of `job_started`."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        known = {"type": "cpu", "index": 0, "name": _cpu_name(), "memory_bytes": memory, **_host()}
        return dict.fromkeys(("uuid", "sm", "sm_count", "l2_bytes", "max_sm_clock_mhz", "power_limit_w", "ecc", "pcie")) | known

    def synchronize(self) -> None:
        """Do nothing: a CPU call is done when it returns."""

    def memory_held(self) -> int:
        """Return the resident memory of this process."""
        return _status("VmRSS")

    def reset_peak(self) -> None:
        """Forget the highest resident memory so far (Linux: writing 5 to clear_refs); without the right to, peaks only rise."""
        try:
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            return

    def memory_peak(self) -> int:
        """Return the highest resident memory since `reset_peak`."""
        return _status("VmHWM")

    def release(self) -> None:
        """Collect garbage."""
        gc.collect()


def open_device(kind: str, cpu_threads: int | None) -> Device:
    """Return the device of a job (`cuda` or `cpu`).

    Raises RuntimeError when there is no CUDA GPU that torch can use.
    """
    if kind == "cpu":
        return Cpu(cpu_threads)
    if not torch.cuda.is_available():
        raise RuntimeError(f"the job asks for a CUDA GPU and torch {torch.__version__} sees none here")
    return Cuda()


def software() -> dict[str, Any]:
    """Return the `software` fields of `job_started`; null for what is not installed."""
    import numpy

    try:
        import triton

        triton_version = triton.__version__
    except ImportError:
        triton_version = None
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "cuda": torch.version.cuda,
        "driver": nvml.driver_version(),
        "triton": triton_version,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
    }


def _host() -> dict[str, Any]:
    return {"cpu": _cpu_name(), "cores": len(os.sched_getaffinity(0)), "threads": torch.get_num_threads()}


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _status(field: str) -> int:
    """Return one kB field of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0
