"""Clocks, temperature, power and throttling, read by a thread while samples are taken (NVML; nothing on a CPU)."""

import threading
import time
from dataclasses import dataclass, field
from statistics import median
from types import TracebackType
from typing import Any, Self

from runner.worker import nvml

PERIOD_S = 0.05
"""Slow enough to leave the host alone, fast enough to see a clock drop within a batch of samples."""


@dataclass(frozen=True)
class Reading:
    """One look at the GPU: `at` on the clock of time.perf_counter, units in the names."""

    at: float
    values: dict[str, float]
    reasons: int


@dataclass
class Telemetry:
    """Reads NVML every 50 ms between `with` and its end; `uuid` names the GPU."""

    uuid: str | None
    readings: list[Reading] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._gpu = nvml.handle(self.uuid)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def available(self) -> bool:
        """Whether NVML answers for this GPU."""
        return self._gpu is not None

    def __enter__(self) -> Self:
        if self.available:
            self._thread = threading.Thread(target=self._watch, daemon=True, name="telemetry")
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._stop.set()
        if self._thread:
            self._thread.join(timeout=2)

    def _watch(self) -> None:
        while not self._stop.wait(PERIOD_S):
            self.readings.append(self._read())

    def _read(self) -> Reading:
        pynvml, gpu = nvml.pynvml, self._gpu
        utilization = nvml.ask(pynvml.nvmlDeviceGetUtilizationRates, gpu)
        power = nvml.ask(pynvml.nvmlDeviceGetPowerUsage, gpu)
        found = {
            "sm_clock_mhz": nvml.ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_SM),
            "memory_clock_mhz": nvml.ask(pynvml.nvmlDeviceGetClockInfo, gpu, pynvml.NVML_CLOCK_MEM),
            "temperature_c": nvml.ask(pynvml.nvmlDeviceGetTemperature, gpu, pynvml.NVML_TEMPERATURE_GPU),
            "power_w": power / 1000 if power is not None else None,
            "utilization_pct": utilization.gpu if utilization is not None else None,
        }
        reasons = nvml.ask(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons, gpu) or 0
        return Reading(time.perf_counter(), {name: value for name, value in found.items() if value is not None}, reasons)

    def throttled(self, since: float) -> bool:
        """Whether a reading after `since` reports thermal, hardware or sync-boost slowdown."""
        bits = sum(nvml.THROTTLED.values())
        return any(reading.reasons & bits for reading in self.readings if reading.at >= since)

    def energy_mj(self) -> float | None:
        """Return the GPU's energy counter in millijoules, None where it has none."""
        if not self.available:
            return None
        return nvml.ask(nvml.pynvml.nvmlDeviceGetTotalEnergyConsumption, self._gpu)

    def summary(self) -> dict[str, Any] | None:
        """Return min, median and max of everything read, for the journal; None when nothing was read."""
        if not self.readings:
            return None
        names = self.readings[0].values
        values = {name: [reading.values[name] for reading in self.readings if name in reading.values] for name in names}
        seen = 0
        for reading in self.readings:
            seen |= reading.reasons
        return {
            **{name: {"min": min(v), "median": median(v), "max": max(v)} for name, v in values.items()},
            "throttle_reasons": [name for name, bit in (nvml.THROTTLED | nvml.POWER_CAPPED).items() if seen & bit],
            "samples": len(self.readings),
        }
