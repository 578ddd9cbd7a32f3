"""The clocks: each sampler takes one timed sample of a variant; the engine decides when, how often and in which order.

| sampler | what it times | clock |
|---|---|---|
| ColdEvents | one call on the device, L2 flushed before | CUDA events |
| WarmGraph | one call out of k replayed back to back from a CUDA graph | CUDA events |
| WarmEvents | the same for calls that can't be captured | CUDA events |
| Wall | one call from the host's view, until the device is done | perf_counter |
"""

import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
Pending = Callable[[], float]
"""Gives a sample in milliseconds once the device has been synchronized."""

WARM_SAMPLE_MS = 2.0
"""Device time of one warm sample: long against the microseconds between an event and the first kernel of a graph."""

MAX_CALLS_PER_SAMPLE = 2000
FLUSH_MS = 0.05
"""Less than the flush of the L2 takes on the fastest GPU: the host time that it hides."""

LATE_RETRIES = 3
MOST_HIDDEN_MS = 10.0
"""A host this slow issues more launches than fit into the GPU's queue, some 1,000: then the GPU waits for it, blocked or not."""


class Sampler(Protocol):
    """Takes samples of one variant."""

    @property
    def name(self) -> str:
        """What the journal calls it."""
        ...

    def take(self) -> Pending:
        """Start one sample; the returned function gives its milliseconds after the device was synchronized."""
        ...


class EventPairs:
    """Start/end CUDA events, made once and used again: creating one costs more than recording it."""

    def __init__(self) -> None:
        self._free: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def get(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        """Return a pair that no pending sample uses."""
        return self._free.pop() if self._free else (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))

    def read(self, pair: tuple[torch.cuda.Event, torch.cuda.Event]) -> float:
        """Return the milliseconds between both events and take the pair back."""
        self._free.append(pair)
        return float(pair[0].elapsed_time(pair[1]))


class Flush:
    """Evicts the L2 by writing four times its size, at least 256 MiB.

    Twice the size is not enough: on an H200, small matmuls then ran up to 1.1 us faster than after 256 MiB.
    """

    def __init__(self, l2_bytes: int) -> None:
        self._buffer = torch.empty(max(4 * l2_bytes, 2**28) // 4, dtype=torch.int32, device="cuda")

    def __call__(self) -> None:
        """Evict."""
        self._buffer.zero_()


@dataclass
class ColdEvents:
    """Device time of one call with a cold L2.

    `host_ms` is how long the host needs to issue the call. Where the flush doesn't hide that, a blocking kernel does, so that
    the device never waits for the host between the two events.

    What the host takes varies. A sample at whose start the device already was when the host had issued everything may hold a wait
    for the host: it is taken again, with the device kept busy for twice as long from then on.

    Up to three empty kernels, drawn at random, come first: a kernel's time depends on its launch number modulo four (0.3 to
    1 us on an H200; docs/measuring.md), and without them each variant would meet its own phase again and again.
    """

    call: Call
    flush: Flush
    events: EventPairs
    host_ms: float
    clock_mhz: float
    name: str = "cuda_event"
    phase: random.Random = field(default_factory=lambda: random.Random(0))

    def take(self) -> Pending:
        """Issue one sample."""
        pair = self._issue()
        for _ in range(LATE_RETRIES if 0 < self.host_ms < MOST_HIDDEN_MS else 0):
            if not pair[0].query():
                break
            self.host_ms = min(2 * max(self.host_ms, FLUSH_MS), MOST_HIDDEN_MS)
            pair = self._issue()
        return lambda: self.events.read(pair)

    def _issue(self) -> tuple[torch.cuda.Event, torch.cuda.Event]:
        for _ in range(self.phase.randrange(4)):
            torch.cuda._sleep(0)
        self.flush()
        block(1.2 * self.host_ms - FLUSH_MS, self.clock_mhz)
        pair = self.events.get()
        pair[0].record()
        self.call()
        pair[1].record()
        return pair


@dataclass
class WarmEvents:
    """Device time of one call out of `calls` issued back to back, after one untimed call; for what a graph can't capture."""

    call: Call
    events: EventPairs
    host_ms: float
    clock_mhz: float
    calls: int
    name: str = "cuda_event"

    def take(self) -> Pending:
        """Issue one sample."""
        self.call()
        block(1.2 * self.host_ms * self.calls, self.clock_mhz)
        pair = self.events.get()
        pair[0].record()
        for _ in range(self.calls):
            self.call()
        pair[1].record()
        return lambda: self.events.read(pair) / self.calls


class WarmGraph:
    """Device time of one call out of `calls` replayed from one CUDA graph; an untimed replay before it warms the L2."""

    name = "cuda_graph"

    def __init__(self, call: Call, events: EventPairs, calls: int) -> None:
        """Capture `calls` calls; raises RuntimeError when the call can't be captured."""
        self._events = events
        self._calls = calls
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            call()  # what is allocated on first use on a stream must not happen inside the capture
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, stream=stream):
            for _ in range(calls):
                call()

    def take(self) -> Pending:
        """Issue one sample."""
        self._graph.replay()
        pair = self._events.get()
        pair[0].record()
        self._graph.replay()
        pair[1].record()
        return lambda: self._events.read(pair) / self._calls


@dataclass
class Wall:
    """Host time of a call until the device is done, over `calls` calls for what is too short for one look at the clock."""

    call: Call
    synchronize: Callable[[], None]
    calls: int = 1
    name: str = "perf_counter"

    def take(self) -> Pending:
        """Issue one sample."""
        self.synchronize()
        start = time.perf_counter_ns()
        for _ in range(self.calls):
            self.call()
        self.synchronize()
        taken = (time.perf_counter_ns() - start) / 1e6 / self.calls
        return lambda: taken


@dataclass
class Shared:
    """One operation's part of a sampler's call, which does `repeats` of them back to back."""

    sampler: Sampler
    repeats: int

    @property
    def name(self) -> str:
        """The sampler's own name."""
        return self.sampler.name

    def take(self) -> Pending:
        """Issue one sample."""
        pending = self.sampler.take()
        return lambda: pending() / self.repeats


def calls_per_sample(call_ms: float, sample_ms: float) -> int:
    """Return how many calls make a sample of at least `sample_ms`."""
    return max(1, min(MAX_CALLS_PER_SAMPLE, math.ceil(sample_ms / max(call_ms, 1e-6))))


def block(duration_ms: float, clock_mhz: float) -> None:
    """Keep the GPU busy for about `duration_ms` (at most 50 ms), so that the host can issue work ahead of it."""
    if duration_ms > 0:
        torch.cuda._sleep(int(min(duration_ms, 50.0) * 1e3 * clock_mhz))
