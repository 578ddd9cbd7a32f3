"""Which GPUs this machine has, which datasheet describes them, and how the two compare. Works without torch."""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner.config import check_gpu
from runner.errors import RequestError
from runner.schema import read_group
from runner.spec import GpuSpec

GIB = 2**30


@dataclass(frozen=True)
class DetectedGpu:
    """A GPU as its driver reports it; `index` is the driver's, in PCI order."""

    index: int
    name: str
    memory_bytes: int
    uuid: str


@dataclass(frozen=True)
class Row:
    """One fact of a device held against its datasheet; `ok` is None where it can't be judged."""

    what: str
    expected: str
    found: str
    ok: bool | None


def detect() -> list[DetectedGpu]:
    """Return the NVIDIA GPUs that CUDA would see, in its order: none without a driver."""
    found = _by_nvml()
    return visible(_by_smi() if found is None else found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _by_nvml() -> list[DetectedGpu] | None:
    """Ask the driver's library; None when it can't be asked."""
    try:
        import pynvml

        pynvml.nvmlInit()
    except Exception:  # no library, no driver or a mismatch of both: there is another way to ask
        return None
    try:
        gpus = []
        for index in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            name, uuid = (_text(get(handle)) for get in (pynvml.nvmlDeviceGetName, pynvml.nvmlDeviceGetUUID))
            gpus.append(DetectedGpu(index, name, int(pynvml.nvmlDeviceGetMemoryInfo(handle).total), uuid))
        return gpus
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _by_smi() -> list[DetectedGpu]:
    command = ["nvidia-smi", "--query-gpu=index,name,memory.total,uuid", "--format=csv,noheader,nounits"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    return parse_smi(answer)


def parse_smi(answer: str) -> list[DetectedGpu]:
    """Read the CSV that nvidia-smi prints for index, name, memory.total (MiB) and uuid; lines of another form are skipped."""
    gpus = []
    for line in answer.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 4 and parts[0].isdigit() and parts[2].isdigit():
            gpus.append(DetectedGpu(int(parts[0]), parts[1], int(parts[2]) * 2**20, parts[3]))
    return gpus


def visible(gpus: Sequence[DetectedGpu], setting: str | None) -> list[DetectedGpu]:
    """Return what CUDA_VISIBLE_DEVICES leaves: indices or beginnings of UUIDs; as in CUDA, the first wrong one ends the list."""
    if setting is None:
        return list(gpus)
    chosen: list[DetectedGpu] = []
    for word in (part.strip() for part in setting.split(",")):
        match = [gpu for gpu in gpus if word and (word == str(gpu.index) or (not word.isdigit() and gpu.uuid.startswith(word)))]
        if len(match) != 1:
            if word and word != "-1" and not chosen and gpus:
                raise RequestError(
                    f"CUDA_VISIBLE_DEVICES={setting} names no GPU of this machine; unset it, or name one by its index"
                )
            break
        chosen += match
    return chosen


def load_specs(folders: Iterable[Path]) -> dict[str, GpuSpec]:
    """Return the GPUs of the config folders' `gpu/`, by choice; of two with one name the first folder's stands, as in Hydra.

    Files that build on others through a defaults list can be asked for, but are not used to recognise a device.

    Raises RequestError for a file that is no GPU.
    """
    return read_group(GpuSpec, folders, "gpu", "local", lambda spec, choice: check_gpu(spec, "gpu"))


def identify(gpu: DetectedGpu, specs: Mapping[str, GpuSpec]) -> tuple[str, GpuSpec] | None:
    """Return (choice, datasheet) of a detected GPU, or None when no config describes it."""
    return next(((choice, spec) for choice, spec in specs.items() if spec.is_this(gpu.name, gpu.memory_bytes)), None)


def compare(spec: GpuSpec, device: Mapping[str, Any]) -> list[Row]:
    """Hold the `device` of a journal's `job_started` against a datasheet; they match when no row's `ok` is False.

    Limits are judged one way: more power or clock than the datasheet says is a better card, less is a restricted one. The
    L2 is shown and not judged, for drivers and datasheets count its slices differently.
    """
    memory = device.get("memory_bytes")
    least, most = spec.match_memory_gb
    rows = [
        _row("name", spec.name, device.get("name"), lambda name: re.search(spec.match, name) is not None),
        _row("SM version", spec.sm, device.get("sm"), lambda sm: str(sm) == spec.sm),
        _row("SMs", f"{spec.sm_count}", device.get("sm_count"), lambda count: count == spec.sm_count),
        _row(
            "memory",
            f"{spec.memory_gb:g} GB ({least:g} to {most:g} GiB seen)",
            None if memory is None else round(memory / GIB, 1),
            lambda gib: memory is not None and least <= memory / GIB <= most,
            "GiB",
        ),
        _row("power limit", f"{spec.power_w:g} W", device.get("power_limit_w"), lambda watt: watt >= 0.98 * spec.power_w, "W"),
        _row(
            "highest SM clock",
            f"at least {spec.boost_clock_mhz:g} MHz",
            device.get("max_sm_clock_mhz"),
            lambda mhz: mhz >= 0.99 * spec.boost_clock_mhz,
            "MHz",
        ),
    ]
    l2 = device.get("l2_bytes")
    return [*rows, _row("L2 cache", f"{spec.l2_mb:g} MB", None if l2 is None else round(l2 / 2**20, 1), None, "MiB")]


def _row(what: str, expected: str, found: Any, judge: Any, unit: str = "") -> Row:
    if found is None:
        return Row(what, expected, "unknown", None)
    shown = f"{found:g}" if isinstance(found, float) else str(found)
    return Row(what, expected, f"{shown} {unit}".strip(), None if judge is None else bool(judge(found)))
