"""What one call of a variant costs besides device time: first call, warm-up, host time, memory, leaks, sleeping, energy."""

import gc
import time
from dataclasses import dataclass
from statistics import median

from runner.spec import Warmup
from runner.worker.device import Device
from runner.worker.telemetry import Telemetry
from runner.worker.timers import Call

SLEEP_SHARE = 0.5
"""A call whose host works less than this share of its time is called sleeping."""

STRETCHES, STRETCH_S, MAX_STRETCH_S = 3, 0.002, 0.05
LEAK_CALLS = 10
MIB = 2**20


@dataclass(frozen=True)
class CallProfile:
    """Costs of a call in milliseconds and bytes; `call_ms` is a rough mean of calls issued back to back."""

    first_call_ms: float
    call_ms: float
    host_ms: float
    peak_memory_bytes: int
    leak_bytes_per_call: int
    warnings: list[str]


def first_call(call: Call, device: Device) -> tuple[object, float, int]:
    """Return the output, the time in ms and the peak memory in bytes of the first call, which may compile and autotune."""
    device.synchronize()
    held = device.memory_held()
    device.reset_peak()
    start = time.perf_counter()
    output = call()
    device.synchronize()
    taken = (time.perf_counter() - start) * 1e3
    return output, taken, max(0, device.memory_peak() - held)


def profile(call: Call, device: Device, warmup: Warmup, first_call_ms: float) -> CallProfile:
    """Warm the call up until it is steady, then look at what it costs."""
    warnings = []
    if not _warm_up(call, device, warmup):
        warnings.append(f"not steady after {warmup.max_s:g} s of warm-up")
    host_ms, call_ms, busy = _host_and_call(call, device)
    if busy < SLEEP_SHARE:
        warnings.append(f"sleeps: the host was idle for {1 - busy:.0%} of the call")
    _, _, peak = first_call(call, device)
    leak = _leak(call, device, call_ms)
    if leak:
        warnings.append(f"leaks {leak / MIB:.2g} MiB a call")
    return CallProfile(first_call_ms, call_ms, host_ms, peak, leak, warnings)


def _warm_up(call: Call, device: Device, warmup: Warmup) -> bool:
    """Call until the median of the last window is within `drift` of the window before; False when time ran out first."""
    times: list[float] = []
    start = time.perf_counter()
    while time.perf_counter() - start < warmup.max_s:
        before = time.perf_counter()
        call()
        device.synchronize()
        times.append(time.perf_counter() - before)
        if len(times) >= 2 * warmup.window:
            last, previous = median(times[-warmup.window :]), median(times[-2 * warmup.window : -warmup.window])
            if abs(last - previous) <= warmup.drift * previous:
                return True
    return len(times) < 2 * warmup.window  # calls too long to judge by windows; the samples' own precision will tell


def _host_and_call(call: Call, device: Device) -> tuple[float, float, float]:
    """Return host ms to issue a call, ms per call back to back, and the largest share of a stretch that the host worked.

    Each stretch of calls is long enough for the clock of processor time. The largest share, because a busy machine takes the
    processor away now and then, while a call that sleeps does so in every stretch.
    """
    device.synchronize()
    start = time.perf_counter()
    call()
    issued = time.perf_counter() - start
    device.synchronize()
    done = time.perf_counter() - start
    count = max(1, min(50, int(STRETCH_S / issued), int(MAX_STRETCH_S / done)))
    host, shares = [issued], []
    start = time.perf_counter()
    for _ in range(STRETCHES):
        cpu, before = time.process_time(), time.perf_counter()
        for _ in range(count):
            call()
        issuing = time.perf_counter() - before
        host.append(issuing / count)
        shares.append((time.process_time() - cpu) / issuing)
        device.synchronize()
    return min(host) * 1e3, (time.perf_counter() - start) / (count * STRETCHES) * 1e3, max(shares)


def _leak(call: Call, device: Device, call_ms: float) -> int:
    """Return the bytes that stay behind per call: growth that two runs of calls in a row both show."""
    if call_ms * LEAK_CALLS * 2 > 5000:
        return 0
    growth = []
    for _ in range(2):
        gc.collect()
        device.synchronize()
        before = device.memory_held()
        for _ in range(LEAK_CALLS):
            call()
        device.synchronize()
        gc.collect()
        growth.append(device.memory_held() - before)
    # an allocator that settles grows once; a page or two a call on a CPU is its noise
    noise = 4096 * LEAK_CALLS if device.torch_device.type == "cpu" else 0
    return min(growth) // LEAK_CALLS if min(growth) > noise else 0


def energy_mj_per_call(call: Call, device: Device, telemetry: Telemetry, call_ms: float, window_s: float) -> float | None:
    """Return the energy of one call in mJ, idle power included, from the GPU's counter over a window of repeated calls."""
    if window_s <= 0 or telemetry.energy_mj() is None:
        return None
    per_look = max(1, int(20 / max(call_ms, 1e-3)))
    device.synchronize()
    before, start, calls = telemetry.energy_mj(), time.perf_counter(), 0
    while time.perf_counter() - start < window_s:
        for _ in range(per_look):
            call()
        calls += per_look
        device.synchronize()
    after = telemetry.energy_mj()
    return (after - before) / calls if before is not None and after is not None and after > before else None
