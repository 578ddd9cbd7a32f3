"""From a variant's samples to the measurement that the journal has: statistics, ratios, rates, and what to be wary of."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from runner import stats
from runner.job import Job
from runner.worker.calls import CallProfile
from runner.worker.gate import GateResult
from runner.worker.rates import impossible, rates
from runner.worker.sampling import Collected
from runner.worker.timers import MOST_HIDDEN_MS
from runner.worker.workload import Figure, Inputs, Variant, Work

LAUNCH_BOUND = 1.5
CONTROL = " again"
"""What the baseline's second self is called behind its name, and where its samples are kept."""


@dataclass
class Ready:
    """A variant that passed its gate on this case and waits to be timed."""

    variant: Variant
    dtype: str
    prepared: Inputs
    gate: GateResult
    counters: dict[str, int] | None
    figures: Mapping[str, Figure]
    backend: list[str] | None
    profile: CallProfile
    repeats: int = 1
    collected: dict[str, Collected] = field(default_factory=dict)
    energy_mj: float | None = None

    def call(self) -> Any:
        """Run the variant once."""
        return self.variant.run(*self.prepared)


@dataclass(frozen=True)
class Records:
    """Writes up the measurements of one job; `timings` has the primary one first."""

    job: Job
    timings: list[str]
    max_clock_mhz: float | None
    l2_bytes: int

    def of(
        self, one: Ready, work: Work, baseline: Ready | None, telemetry: dict[str, Any] | None, rates_by: str = ""
    ) -> dict[str, Any]:
        """Return the fields of a variant whose samples are complete; `baseline` is None for the baseline itself.

        `rates_by` is the timing that rates per second are formed from, where it is not the primary one.
        """
        primary = self.timings[0]
        main = one.collected[primary]
        summary = self._summary(main)
        by = one.collected.get(rates_by, main)
        found = rates(work, summary.median_ms, one.dtype, self.job.gpu, self._summary(by).median_ms)
        record: dict[str, Any] = {"work": {"ops": work.ops, "bytes": work.bytes}, "gate": one.gate.as_dict()}
        for collected in (main, *(one.collected[timing] for timing in self.timings if timing in one.collected)):
            cannot_be = self._impossible(one, work, collected)
            if cannot_be:
                return record | {"status": "error", "reason": cannot_be}
        if not main.precise:
            reached = f"the median is known to {summary.precision:.1%} after {summary.n} samples"
            if summary.n < stats.enough(self.job.measure.confidence):
                reached = f"only {summary.n} samples fit into the time"
            record |= {"status": "noisy", "reason": f"{reached}, asked for {self.job.measure.target:.1%}"}
        elif len(main.clean_ms) < stats.enough(self.job.measure.confidence):
            record |= {"status": "noisy", "reason": "all its samples were throttled"}
        warnings = list(one.profile.warnings)
        if telemetry and "SwPowerCap" in telemetry["throttle_reasons"]:
            clock = telemetry["sm_clock_mhz"]["median"]
            held = f"power limit: it held the clock at {clock:g} of {self.max_clock_mhz:g} MHz"
            warnings.append(f"{held}, so times depend on what ran just before")
        if main.timer == "cuda_event" and one.profile.host_ms > MOST_HIDDEN_MS:
            hidden = f"the host needs {one.profile.host_ms:.0f} ms to issue a call, longer than it can be kept ahead of the GPU"
            warnings.append(f"{hidden}: the time has waits for it")
        if main.throttled:
            warnings.append(f"throttled: {len(main.throttled)} of {len(main.samples_ms)} samples are marked")
        also = {timing: collected for timing, collected in one.collected.items() if timing not in (primary, CONTROL)}
        wall = also.get("wall")
        return record | {
            "timing": primary,
            "timer": main.timer,
            "samples_ms": [round(sample, 7) for sample in main.samples_ms],
            "throttled": main.throttled,
            "statistics": summary.as_dict(),
            "also": {
                timing: {
                    "timer": collected.timer,
                    "samples_ms": [round(sample, 7) for sample in collected.samples_ms],
                    "statistics": self._summary(collected).as_dict(),
                }
                for timing, collected in also.items()
            },
            "speedup": self._speedup(main, baseline, primary),
            "control": self._control(one, main),
            "launch_bound": self._summary(wall).median_ms > LAUNCH_BOUND * summary.median_ms if wall else None,
            "counters": one.counters,
            "figures": {name: asdict(figure) for name, figure in one.figures.items()},
            "repeats": one.repeats,
            "backend": one.backend,
            "rates": found.as_dict() | ({"by": rates_by} if by is not main else {}),
            "peak_memory_bytes": one.profile.peak_memory_bytes,
            "leak_bytes_per_call": one.profile.leak_bytes_per_call,
            "energy_mj_per_call": one.energy_mj,
            "first_call_ms": one.profile.first_call_ms,
            "telemetry": telemetry,
            "warnings": warnings,
        }

    def _summary(self, collected: Collected) -> stats.Summary:
        return stats.summarize(collected.basis_ms(self.job.measure.min_samples), self.job.measure.confidence)

    def _impossible(self, one: Ready, work: Work, collected: Collected) -> str | None:
        found = rates(work, self._summary(collected).median_ms, one.dtype, self.job.gpu)
        return impossible(found, work, one.dtype, self.job.gpu, self.max_clock_mhz, self.l2_bytes)

    def _speedup(self, main: Collected, baseline: Ready | None, primary: str) -> dict[str, Any] | None:
        if baseline is None or primary not in baseline.collected:
            return None
        compared = self._compare(baseline.collected[primary], main)
        return compared and {"baseline": self.job.baseline, **compared}

    def _control(self, one: Ready, main: Collected) -> dict[str, Any] | None:
        again = one.collected.get(CONTROL)
        return self._compare(main, again) if again is not None else None

    def _compare(self, baseline: Collected, candidate: Collected) -> dict[str, Any] | None:
        """Return ratio, interval and verdict; None when there were too few rounds."""
        throttled = {*baseline.throttled, *candidate.throttled}
        interval = stats.speedup_interval(baseline.samples_ms, candidate.samples_ms, self.job.measure.confidence, throttled)
        if interval is None:
            return None
        return {
            "ratio": interval.value,
            "ci_low": interval.low,
            "ci_high": interval.high,
            "verdict": stats.verdict(interval, self.job.measure.same_within),
        }
