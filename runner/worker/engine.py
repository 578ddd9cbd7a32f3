"""Measures one case: every variant gated against the reference, then timed side by side. Knows nothing about any workload."""

import hashlib
import uuid
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from runner.job import SECONDARY_TIME, Job
from runner.journal import case_key
from runner.spec import Case
from runner.worker import backend, calls, failures, gate, sampling, timers
from runner.worker.device import Cuda, Device
from runner.worker.record import CONTROL, Ready, Records
from runner.worker.telemetry import Telemetry
from runner.worker.watchdog import Watchdog
from runner.worker.workload import Context, Inputs, Variant, Workload, tensors

Result = TypeVar("Result")
P = ParamSpec("P")
LONG_MS = 5.0
"""A call this long whose host is ahead of the device gains nothing from a graph, which would hold its memory a second time."""
Progress = Callable[..., None]


class CudaBroken(Exception):
    """CUDA is left in an error; only a new process can go on.

    `outcomes` are the measurements that can be written. Without a `culprit` among them, the error came up while several
    variants took turns: the next process measures each of them alone.
    """

    def __init__(self, outcomes: list[dict[str, Any]], culprit: bool) -> None:
        super().__init__("CUDA is left in an error")
        self.outcomes = outcomes
        self.culprit = culprit


class Engine:
    """Measures the cases of one job on one device."""

    def __init__(self, job: Job, workload: Workload, device: Device, watchdog: Watchdog, progress: Progress) -> None:
        self.job = job
        self.policy = job.measure
        self.workload = workload
        self.device = device
        self._watchdog = watchdog
        self._progress = progress
        self._cuda = device if isinstance(device, Cuda) else None
        description = device.describe()
        self._max_clock_mhz: float | None = description["max_sm_clock_mhz"]
        self._records = Records(job, self.timings, self._max_clock_mhz, self._cuda.l2_bytes if self._cuda else 0)
        self._outcomes: dict[str, dict[str, Any]] = {}
        self._round = ""
        self.case = Case({}, "")

    @property
    def timings(self) -> list[str]:
        """The timings to take, the primary one first."""
        return self.policy.timings or (["cold", "warm", "wall"] if self._cuda else ["wall"])

    def measure(self, case: Case, variants: list[str]) -> list[dict[str, Any]]:
        """Return the measurements of `variants` on one case, as the journal has them.

        Raises CudaBroken when the process can't go on, with what is known by then.
        """
        self.case = case
        self._outcomes = {}
        self._truths: dict[Callable[..., Tensor], Tensor] = {}
        self._round = uuid.uuid4().hex
        inputs = self._inputs(variants)
        ready = self._prepare(variants, inputs) if inputs is not None else {}
        with Telemetry(self._cuda.uuid if self._cuda else None) as telemetry:
            for timing in self.timings if ready else []:
                self._time(timing, ready, telemetry)
        for name, one in ready.items():
            one.energy_mj = self._attempt(name, self._energy, one, telemetry)
            self._attempt(name, self._gate_again, name, one)
        summary = telemetry.summary()
        baseline = None if self.job.baseline in self._outcomes else ready.get(self.job.baseline or "")
        for name, one in ready.items():
            record = self._attempt(name, self._record, name, one, baseline, summary)
            if record is not None:
                self._outcomes[name] = record
        ready.clear()
        self._truths.clear()
        del inputs
        self.device.release()
        return [self._outcomes[name] for name in variants]

    def describe(self, variant: str, status: str, reason: str | None) -> dict[str, Any]:
        """Return the fields that every measurement has."""
        declared = self.workload.variants[variant]
        return {
            "case": self.case.axes,
            "x": self.case.x,
            "variant": variant,
            "round": self._round,
            "dtype": declared.dtype_of(self.case.axes),
            "status": status,
            "reason": reason,
            "warnings": [],
        }

    def _attempt(self, name: str, action: Callable[P, Result], *arguments: P.args, **options: P.kwargs) -> Result | None:
        """Return the action's result; None when it failed, which becomes the variant's outcome."""
        if name in self._outcomes:
            return None
        try:
            with self._watchdog.guard(lambda: name, self.policy.variant_timeout_s):
                result = action(*arguments, **options)
                self.device.synchronize()
                return result
        except (Exception, SystemExit) as error:  # one variant's failure is that variant's status, whatever it raises
            self._fail(name, error)
            return None

    def _fail(self, name: str, error: BaseException) -> None:
        self._outcomes[name] = self.describe(name, *failures.classify(error))
        error.__traceback__ = None  # its frames hold this variant's tensors
        if failures.cuda_is_broken():
            raise CudaBroken(list(self._outcomes.values()), culprit=True)
        self.device.release()

    def _inputs(self, variants: list[str]) -> Inputs | None:
        """Return the inputs; None when there are none, which is no variant's fault but every one's `error` or `unsupported`."""
        try:
            with self._watchdog.guard(lambda: variants[0], self.policy.variant_timeout_s):
                inputs = self.workload.inputs(self.case.axes, self.context())
                self.device.synchronize()
                return inputs
        except (Exception, SystemExit) as error:
            self._no_truth(variants, "inputs", error)
            return None

    def _truth(self, name: str, inputs: Inputs) -> Tensor | None:
        """Return the reference of what a variant computes, made once for all that compute the same; None when there is none."""
        true = self.workload.computed_by(name).reference
        if true not in self._truths:
            try:
                with self._watchdog.guard(lambda: name, self.policy.variant_timeout_s):
                    reference = true(*inputs).to(torch.float64)
                    if not torch.isfinite(reference).all():
                        raise ValueError("the reference is not finite")
                    self._truths[true] = reference
            except (Exception, SystemExit) as error:
                self._no_truth([name], "reference", error)
                return None
        return self._truths[true]

    def _no_truth(self, variants: list[str], what: str, error: BaseException) -> None:
        status, reason = failures.classify(error)
        for name in variants:
            if status == "unsupported":
                self._outcomes[name] = self.describe(name, status, reason)
            else:
                self._outcomes[name] = self.describe(name, "error", f"no {what} ({status}): {reason}")
        if failures.cuda_is_broken():
            raise CudaBroken(list(self._outcomes.values()), culprit=True) from error
        error.__traceback__ = None
        self.device.release()

    def _prepare(self, variants: list[str], inputs: Inputs) -> dict[str, Ready]:
        """Return the variants that pass the gate, profiled."""
        ready = {}
        for name in variants:
            self._progress("gate", variants=[name])
            reference = self._truth(name, inputs)
            one = None if reference is None else self._attempt(name, self._gate, name, inputs, reference)
            if one is not None:
                ready[name] = one
        return ready

    def context(self) -> Context:
        """Return what the workload builds its inputs from; the seed is the job's and the case's, so a case can be repeated."""
        digest = hashlib.sha256(f"{self.job.seed}/{case_key(self.case.axes)}".encode()).digest()
        generator = torch.Generator(self.device.torch_device).manual_seed(int.from_bytes(digest[:7], "big"))
        return Context(self.device.torch_device, self.job.params, generator)

    def _gate(self, name: str, inputs: Inputs, reference: Tensor) -> Ready | None:
        """Prepare, run once, compare; None (with the outcome written) when the variant is not what it should be."""
        variant = self.workload.variants[name]
        prepared = variant.prepare(inputs)
        if variant.reset:
            variant.reset(prepared)
        before = [tensor.clone() for tensor in tensors(inputs)]
        gate.poison(self.device.torch_device, reference.numel() * 4)
        output, first_ms, _ = calls.first_call(lambda: variant.run(*prepared), self.device)
        elsewhere = {str(t.device) for t in tensors(output) + tensors(prepared) if t.device != self.device.torch_device}
        if elsewhere:
            where = " and ".join(sorted(elsewhere))
            self._outcomes[name] = self.describe(name, "error", f"it ran on {where}, not on {self.device.torch_device}")
            return None
        bound = self._bound(variant)
        result = gate.check(variant.finish(output, prepared), reference, bound, self.policy.gate)
        failure = result.failure
        counted, counter_failure = self._counters(name, output, prepared)
        failure = failure or counter_failure
        figures = variant.figures(output, prepared) if variant.figures and failure is None else {}
        del output
        call = lambda: variant.run(*prepared)  # noqa: E731 - a name for the profiler's argument
        ran, profile = None, None
        if failure is None:
            ran = backend.kernels(call, self.device, variant.capturable)
            profile = calls.profile(call, self.device, self.policy.warmup, first_ms)
        for kept, used in zip(before, tensors(inputs), strict=True):
            if not torch.equal(kept, used):
                failure = "it changed its inputs"
                used.copy_(kept)  # the next variant gets what it should
        if failure or profile is None:
            self._outcomes[name] = self.describe(name, "incorrect", failure) | {"gate": result.as_dict(), "counters": counted}
            return None
        repeats = variant.repeats(prepared)
        return Ready(variant, variant.dtype_of(self.case.axes), prepared, result, counted, figures, ran, profile, repeats)

    def _bound(self, variant: Variant) -> float:
        """Return the relative L2 error that the variant may have; raises ValueError when nothing says."""
        dtype = variant.dtype_of(self.case.axes)
        own = variant.rel_l2(self.case.axes) if callable(variant.rel_l2) else variant.rel_l2
        bound = own if own is not None else self.policy.gate.rel_l2.get(dtype)
        if bound is None:
            raise ValueError(f"no error bound for dtype {dtype}; add measure.gate.rel_l2.{dtype}")
        return bound

    def _gate_again(self, name: str, one: Ready) -> None:
        """Hold what the variant computes after all the timing against the reference: right once is not right."""
        reference = self._truths[self.workload.computed_by(name).reference]
        nbytes = sum(tensor.nbytes for tensor in tensors(one.call()))
        if one.variant.reset:
            one.variant.reset(one.prepared)
        gate.poison(self.device.torch_device, nbytes)
        finished = one.variant.finish(one.call(), one.prepared)
        failure = gate.check(finished, reference, self._bound(one.variant), self.policy.gate).failure
        if failure:
            self._outcomes[name] = self.describe(name, "incorrect", f"after the timing: {failure}")

    def _counters(self, name: str, output: Any, prepared: Inputs) -> tuple[dict[str, int] | None, str | None]:
        """Return what the variant counted and why that is wrong (None: equal to the closed form)."""
        variant, closed_form = self.workload.variants[name], self.workload.computed_by(name).counters
        if variant.counters is None or closed_form is None:
            return None, None
        counted = {key: int(value) for key, value in variant.counters(output, prepared).items()}
        expected = dict(closed_form(self.case.axes, self.job.params))
        wrong = [f"{key} is {counted.get(key)}, expected {value}" for key, value in expected.items() if counted.get(key) != value]
        return counted, f"counted {'; '.join(wrong)}" if wrong else None

    def _time(self, timing: str, ready: Mapping[str, Ready], telemetry: Telemetry) -> None:
        """Take the samples of one timing for every variant that is still standing."""
        samplers = {}
        for name, one in ready.items():
            sampler = self._attempt(name, self._sampler, timing, one)
            if sampler is not None:
                samplers[name] = sampler
        primary = timing == self.timings[0]
        baseline = self.job.baseline or ""
        if primary and self.policy.aa_control and baseline in samplers:
            samplers[baseline + CONTROL] = samplers[baseline]

        def report(precision: Mapping[str, float]) -> None:
            self._progress(timing, variants=list(precision), precision=dict(precision))

        limit_s = self.policy.variant_timeout_s + 4 * self.policy.max_time_s * max(len(samplers), 1)
        turn = sampling.Turn()
        try:
            with self._watchdog.guard(lambda: turn.name.removesuffix(CONTROL), limit_s):
                scale = 1.0 if primary else SECONDARY_TIME
                found = sampling.collect(samplers, self.policy, self.device.synchronize, telemetry, report, turn, scale)
        except RuntimeError as error:  # an asynchronous CUDA error surfaces here
            alone = len(samplers.keys() - {baseline + CONTROL}) == 1
            for name in samplers if alone else ():
                self._fail(name, error)
            raise CudaBroken(list(self._outcomes.values()), culprit=alone) from error
        control = found.pop(baseline + CONTROL, None)
        for name, collected in found.items():
            if collected.error is not None:
                self._fail(name, collected.error)
            else:
                ready[name].collected[timing] = collected
        if control is not None and control.error is None:
            ready[baseline].collected[CONTROL] = control

    def _sampler(self, timing: str, one: Ready) -> timers.Sampler:
        """Return the clock for a timing of a variant's operation."""
        sampler = self._sampler_of_calls(timing, one)
        return timers.Shared(sampler, one.repeats) if one.repeats > 1 else sampler

    def _sampler_of_calls(self, timing: str, one: Ready) -> timers.Sampler:
        profile = one.profile
        if timing == "wall" or self._cuda is None:
            inner = 1 if self._cuda else timers.calls_per_sample(profile.call_ms, 0.05)
            return timers.Wall(one.call, self.device.synchronize, inner)
        clock = self._max_clock_mhz or 2000.0
        if timing == "cold":
            return timers.ColdEvents(one.call, self._flush, self._events, profile.host_ms, clock)
        inner = timers.calls_per_sample(profile.call_ms, timers.WARM_SAMPLE_MS)
        if not one.variant.capturable or (profile.call_ms > LONG_MS and profile.host_ms < profile.call_ms / 2):
            return timers.WarmEvents(one.call, self._events, profile.host_ms, clock, inner)
        try:
            return timers.WarmGraph(one.call, self._events, inner)
        except RuntimeError:  # it synchronizes or allocates in ways a graph can't hold; the events say so by their name
            torch.cuda.synchronize()
            return timers.WarmEvents(one.call, self._events, profile.host_ms, clock, inner)

    def guard(self, variant: str) -> AbstractContextManager[None]:
        """Give a block the time that a variant may take; after that, the process is replaced."""
        return self._watchdog.guard(lambda: variant, self.policy.variant_timeout_s)

    def quick_sampler(self, call: timers.Call) -> timers.Sampler:
        """Return the primary clock for a call that was not profiled: for a search, whose looks are not reported."""
        call()
        if self._cuda is None:
            return timers.Wall(call, self.device.synchronize)
        return timers.ColdEvents(call, self._flush, self._events, 0.0, 0.0)

    @property
    def _flush(self) -> timers.Flush:
        if not hasattr(self, "_flush_made") and self._cuda:
            self._flush_made = timers.Flush(self._cuda.l2_bytes)
        return self._flush_made

    @property
    def _events(self) -> timers.EventPairs:
        if not hasattr(self, "_events_made"):
            self._events_made = timers.EventPairs()
        return self._events_made

    def _energy(self, one: Ready, telemetry: Telemetry) -> float | None:
        window_s = self.policy.energy_window_s
        energy_mj = calls.energy_mj_per_call(one.call, self.device, telemetry, one.profile.call_ms, window_s)
        return energy_mj if energy_mj is None else energy_mj / one.repeats

    def _record(self, name: str, one: Ready, baseline: Ready | None, telemetry: dict[str, Any] | None) -> dict[str, Any]:
        work = self.workload.computed_by(name).work(self.case.axes, self.job.params, one.variant.dtype_of(self.case.axes))
        against = baseline if name != self.job.baseline else None
        return self.describe(name, "ok", None) | self._records.of(one, work, against, telemetry, self.workload.rates_by)
