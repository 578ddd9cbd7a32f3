"""What the NVIDIA driver tells about a GPU through NVML; every question answers null where NVML or the answer is missing.

Needs the optional package nvidia-ml-py.
"""

from collections.abc import Callable
from typing import Any, TypeVar

try:
    import pynvml as pynvml  # telemetry uses it too
except ImportError:  # measuring goes on without telemetry; job_started then carries a warning
    pynvml = None

Answer = TypeVar("Answer")

THROTTLED = {
    "HwSlowdown": 0x8,
    "SyncBoost": 0x10,
    "SwThermalSlowdown": 0x20,
    "HwThermalSlowdown": 0x40,
    "HwPowerBrakeSlowdown": 0x80,
}
"""Clock event reasons under which a sample is not representative (NVML's bit values)."""

POWER_CAPPED = {"SwPowerCap": 0x4}
"""The board power limit holds the clock: normal under heavy matmuls, reported, not marked."""


def handle(uuid: str | None) -> Any | None:
    """Return NVML's handle of the GPU with this UUID (the first GPU when None), or None without NVML."""
    if pynvml is None:
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(uuid) if uuid else pynvml.nvmlDeviceGetHandleByIndex(0)
    except pynvml.NVMLError:
        return None


def ask(question: Callable[..., Answer], *arguments: Any) -> Answer | None:
    """Return NVML's answer, None where this GPU or driver has none."""
    try:
        return question(*arguments)
    except pynvml.NVMLError:
        return None


def driver_version() -> str | None:
    """Return the driver's version."""
    if handle(None) is None:
        return None
    version = ask(pynvml.nvmlSystemGetDriverVersion)
    return version.decode() if isinstance(version, bytes) else version


def describe(uuid: str | None) -> dict[str, Any]:
    """Return clocks (MHz), power limit (W), ECC and PCIe link of a GPU."""
    gpu = handle(uuid)
    if gpu is None:
        return dict.fromkeys(("max_sm_clock_mhz", "power_limit_w", "ecc", "pcie"))
    limit = ask(pynvml.nvmlDeviceGetEnforcedPowerLimit, gpu)
    ecc = ask(pynvml.nvmlDeviceGetEccMode, gpu)
    return {
        "max_sm_clock_mhz": ask(pynvml.nvmlDeviceGetMaxClockInfo, gpu, pynvml.NVML_CLOCK_SM),
        "power_limit_w": limit / 1000 if limit is not None else None,
        "ecc": bool(ecc[0]) if ecc is not None else None,
        "pcie": {
            "gen": ask(pynvml.nvmlDeviceGetCurrPcieLinkGeneration, gpu),
            "width": ask(pynvml.nvmlDeviceGetCurrPcieLinkWidth, gpu),
        },
    }


def processes(visible: str | None) -> list[dict[str, Any]]:
    """Return the compute processes on the GPU; asked before this process touches it, all of them are others.

    `visible` is the first entry of CUDA_VISIBLE_DEVICES: an index or a UUID; None for the first GPU.
    """
    if visible and not visible.isdigit():
        gpu = handle(visible)
    else:
        gpu = handle(None)
        if gpu is not None and visible:
            gpu = ask(pynvml.nvmlDeviceGetHandleByIndex, int(visible))
    if gpu is None:
        return []
    found = ask(pynvml.nvmlDeviceGetComputeRunningProcesses, gpu) or []
    return [{"pid": one.pid, "name": _name(one.pid), "memory_bytes": one.usedGpuMemory} for one in found]


def _name(pid: int) -> str | None:
    name = ask(pynvml.nvmlSystemGetProcessName, pid)
    return name.decode() if isinstance(name, bytes) else name
