"""Taking samples side by side: variants in turn (A B, B A, ...), each until its median is precise or its time is up."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from runner import stats
from runner.spec import MeasurePolicy
from runner.worker.telemetry import Telemetry
from runner.worker.timers import Sampler

BATCH_S = 0.15
"""Samples are issued in batches this long, and the stop rule is asked between them.

Long, since the pause between batches is rest for a GPU at its power limit: with batches of 17 ms, large matmuls on an H200
came out 3 to 4% faster than back to back.
"""

MAX_BATCH = 1000

MAX_SAMPLES = 5000

SLOW_SAMPLES = 10
"""Samples of a variant so slow that `min_samples` of them would not fit into its time."""

BACK_OFF_S = 0.5

OnPrecision = Callable[[Mapping[str, float]], None]


@dataclass
class Turn:
    """Whose sample was issued last: what a watchdog names when nothing moves any more."""

    name: str = ""


@dataclass
class Collected:
    """The samples of one variant, in milliseconds and in the order of the rounds; `error` is what ended them, if anything did."""

    timer: str
    samples_ms: list[float] = field(default_factory=list)
    throttled: list[int] = field(default_factory=list)
    precise: bool = False
    error: BaseException | None = None

    @property
    def clean_ms(self) -> list[float]:
        """The samples that were not taken under throttling."""
        marked = set(self.throttled)
        return [sample for index, sample in enumerate(self.samples_ms) if index not in marked]

    def basis_ms(self, min_samples: int) -> list[float]:
        """The samples that statistics stand on: the clean ones, or all where throttling left too few."""
        clean = self.clean_ms
        return clean if len(clean) >= min(min_samples, len(self.samples_ms)) else self.samples_ms


def collect(
    samplers: Mapping[str, Sampler],
    policy: MeasurePolicy,
    synchronize: Callable[[], None],
    telemetry: Telemetry,
    on_precision: OnPrecision,
    turn: Turn | None = None,
    time_scale: float = 1.0,
) -> dict[str, Collected]:
    """Return the samples of every sampler, taken in interleaved rounds.

    A variant stops when its interval is within `policy.target` after the floors on samples and time, or when its own samples
    have filled the cap on time and there are SLOW_SAMPLES: a slow variant must not eat up the time of the others. All stop at
    the cap on the time of all. Who stopped for the time needs no more than SLOW_SAMPLES for its interval to count: that of a
    few long samples is as true as that of many short ones. Floors and cap are per variant, times `time_scale`.

    Throttled batches are marked and, a bounded number of times, followed by a pause and further samples. A variant that raises
    is left out from then on.
    """
    found = {name: Collected(sampler.name) for name, sampler in samplers.items()}
    active = list(samplers)
    floor_s = policy.min_time_s * time_scale * len(active)
    cap_s = policy.max_time_s * time_scale * len(active)
    retries = policy.throttle_retries
    start = time.perf_counter()
    rounds, batch = 0, 1
    while active:
        batch_start = time.perf_counter()
        _batch(active, samplers, found, range(rounds, rounds + batch), synchronize, turn or Turn())
        active = [name for name in active if found[name].error is None]
        now = time.perf_counter()
        if telemetry.throttled(since=batch_start):
            for name in active:
                found[name].throttled.extend(range(rounds, len(found[name].samples_ms)))
            if retries > 0:
                retries -= 1
                cap_s += now - batch_start + BACK_OFF_S
                time.sleep(BACK_OFF_S)
        rounds += batch
        batch = max(1, min(MAX_BATCH, int(batch * BATCH_S / max(now - batch_start, 1e-6))))
        precision = {name: _precision(found[name], policy) for name in active}
        on_precision(precision)
        elapsed = now - start
        over = elapsed >= cap_s or rounds >= MAX_SAMPLES
        ended = [name for name in active if over or _used_up(found[name], policy, time_scale)]
        for name in active:
            needed = min(SLOW_SAMPLES, policy.min_samples) if name in ended else policy.min_samples
            sampled = len(found[name].samples_ms) >= needed and elapsed >= floor_s
            found[name].precise = precision[name] <= policy.target and sampled
        active = [name for name in active if not found[name].precise and name not in ended]
    return found


def _used_up(collected: Collected, policy: MeasurePolicy, time_scale: float) -> bool:
    """Whether a variant's own samples have filled the time that it may take, and are not too few to judge by."""
    spent_s = sum(collected.samples_ms) / 1e3
    return spent_s >= policy.max_time_s * time_scale and len(collected.samples_ms) >= min(SLOW_SAMPLES, policy.min_samples)


def _precision(collected: Collected, policy: MeasurePolicy) -> float:
    """Relative half-width of the interval; a handful of samples has none yet."""
    samples = collected.basis_ms(policy.min_samples)
    if len(samples) < stats.enough(policy.confidence):
        return math.inf
    return stats.median_interval(samples, policy.confidence).relative_half_width


def _batch(
    active: list[str],
    samplers: Mapping[str, Sampler],
    found: Mapping[str, Collected],
    rounds: range,
    synchronize: Callable[[], None],
    turn: Turn,
) -> None:
    """Issue the rounds, every other one in reverse order, then wait for the device and read them."""
    pending = []
    for index in rounds:
        for name in active if index % 2 == 0 else reversed(active):
            if found[name].error is None:
                turn.name = name
                try:
                    pending.append((name, samplers[name].take()))
                except (Exception, SystemExit) as error:  # one variant's failure is that variant's status, whatever it raises
                    found[name].error = error
    synchronize()
    for name, read in pending:
        if found[name].error is None:
            found[name].samples_ms.append(read())
