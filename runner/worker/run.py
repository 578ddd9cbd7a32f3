"""Runs a job: checks the device, measures what the journal doesn't hold yet, ends with the truth about how it ended."""

import gc
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from runner import journal
from runner.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JobError, RequestError, one_line
from runner.job import Job
from runner.spec import Case
from runner.worker import load, nvml, search
from runner.worker.device import Device, open_device, software
from runner.worker.engine import CudaBroken, Engine
from runner.worker.progress import Progress
from runner.worker.watchdog import Watchdog

MAX_RESTARTS = 20
Restart = Callable[[], NoReturn]


class Run:
    """One worker process on one run folder."""

    def __init__(
        self,
        job: Job,
        job_folder: Path,
        out: Path,
        progress: Progress,
        restarts: int,
        import_s: float,
        restart: Restart,
        jobs_before: int = 0,
    ) -> None:
        """Open the folder's journal; `restart` replaces this process by one that continues.

        `jobs_before` is how many jobs this process has measured already.

        Raises RequestError when the folder belongs to another job or can't be written, or the workload can't be loaded.
        """
        self.job = job
        self.workload = load.workload(job, job_folder)
        self._progress = progress
        self._restarts = restarts
        self._restart = restart
        self._import_s = import_s
        self._jobs_before = jobs_before
        self._writer = journal.Writer(out)
        self._before = journal.read(out)
        started = [event for event in self._before if event["event"] == "job_started"]
        if started and started[0]["hash"] != job.hash:
            raise RequestError(f"{out} holds another job ({started[0]['hash'][:12]}, not {job.hash[:12]}); name another folder")
        self._session = started[0]["session"] if started else uuid.uuid4().hex
        self._statuses = {_key(event): str(event["status"]) for event in journal.measurements(self._before)}
        self._start = time.perf_counter()
        self._engine: Engine | None = None
        self._watchdog = Watchdog(self._stuck)

    def run(self) -> int:
        """Measure and return the exit code; the last event of the journal is `job_finished` unless the process is killed."""
        try:
            others = self._other_processes()
            device = self._device()
            description = device.describe()
            self._write("job_started", **self._introduction(description, others))
            self._assert_device(description, others)
            if self.job.mode == "projection":  # arithmetic on datasheets, which the report does
                return self._finish("complete", "", EXIT_DONE)
            engine = Engine(self.job, self.workload, device, self._watchdog, self._progress)
            self._engine = engine
            gc.collect()
            gc.freeze()  # or every collection between cases would walk all of torch, 0.2 s each
            if self.job.mode == "search":
                self._search(engine)
            else:
                self._cases(engine, self.job.cases)
        except KeyboardInterrupt:
            return self._finish("partial", "interrupted", EXIT_INTERRUPTED)
        except (JobError, RequestError) as error:
            return self._finish("failed", str(error), EXIT_FAILED)
        except OSError as error:
            return self._finish("partial", f"can't write the journal: {error.strerror}", EXIT_FAILED)
        except Exception as error:  # a workload's code can raise anything; the journal must still get its last word
            return self._finish("failed", f"{type(error).__name__}: {one_line(str(error))}", EXIT_FAILED)
        return self._finish("complete", "", EXIT_DONE)

    def _device(self) -> Device:
        try:
            return open_device(self.job.device, self.job.measure.cpu_threads)
        except RuntimeError as error:
            raise JobError(str(error)) from error

    def _cases(self, engine: Engine, cases: list[Case]) -> None:
        done = dict(self._statuses)
        suspect = {journal.case_key(e["case"]) for e in self._before if e["event"] == "case_suspect"}
        for index, case in enumerate(cases):
            key, variants = journal.case_key(case.axes), case.variants or self.job.variants
            if all((key, variant) in done for variant in variants):
                continue
            self._progress.case(index, len(cases), case.axes)
            self._write("case_started", case=case.axes, x=case.x, index=index, total=len(cases))
            # what a broken or stuck variant already said stands; the others are measured together again
            todo = [variant for variant in variants if done.get((key, variant)) in (None, "ok", "noisy")]
            for group in [[one] for one in todo] if key in suspect else [todo]:
                try:
                    self._write_all(engine.measure(case, group))
                except CudaBroken as broken:
                    self._write_all(broken.outcomes)
                    if not broken.culprit:
                        self._write("case_suspect", case=case.axes, variants=group)
                    self._restart_or_give_up("CUDA is left in an error")

    def _search(self, engine: Engine) -> None:
        if self.workload.candidates is None:
            raise JobError(f"the workload {self.job.workload} has nothing to search; use workload.mode=grid")
        finished = {event["variant"] for event in self._before if event["event"] == "search_finished"}
        finished |= {variant for (_, variant), status in self._statuses.items() if status in ("timeout", "error")}
        todo = [variant for variant in self.job.variants if variant not in finished]
        for index, variant in enumerate(todo):
            self._progress.case(index, len(todo), {})
            self._progress("search", variants=[variant])
            try:
                budget_s = self.job.search.budget_s / len(self.job.variants)
                cases, tried, seconds = search.finalists(engine, self.job, variant, budget_s)
                found = [outcome for case in cases for outcome in engine.measure(case, [variant])]
            except CudaBroken as broken:
                self._write_all(broken.outcomes or [engine.describe(variant, "error", str(broken))])
                self._restart_or_give_up(str(broken))
            self._write_all(found)
            self._write("search_finished", variant=variant, tried=tried, seconds=seconds, best=_best(found))

    def _write(self, event: str, **fields: Any) -> None:
        self._progress.written(self._writer.append(event, **fields))

    def _write_all(self, outcomes: list[dict[str, Any]]) -> None:
        for outcome in outcomes:
            self._statuses[_key(outcome)] = outcome["status"]
            self._write("measurement", **outcome)

    def _finish(self, status: str, reason: str, code: int) -> int:
        try:
            self._write(
                "job_finished",
                status=status,
                reason=reason,
                counts=dict(Counter(self._statuses.values())),
                import_s=round(self._import_s, 3),
                measure_s=round(time.perf_counter() - self._start, 3),
            )
        except OSError as error:  # a full disk: the journal ends without a last word, which reads as partial
            self._progress.unwritten(f"can't write the journal: {error.strerror}")
            code = EXIT_FAILED
        self._writer.close()
        self._watchdog.close()
        return code

    def _introduction(self, description: dict[str, Any], others: list[dict[str, Any]]) -> dict[str, Any]:
        warnings = []
        if self.job.device == "cuda" and nvml.handle(None) is None:
            warnings.append("no telemetry: install nvidia-ml-py to see clocks, power and throttling")
        if self.job.device == "cuda" and self.job.gpu is None:
            warnings.append("no datasheet for this GPU: percentages of peak are left out")
        before = {e["device"]["uuid"] for e in self._before if e["event"] == "job_started" and e["device"]["uuid"]}
        if before - {description["uuid"]}:
            warnings.append(f"continued on another physical GPU: earlier cases are from {', '.join(sorted(before))}")
        if others:
            warnings.append(f"{len(others)} other process(es) use this GPU")
        return {
            "job": self.job.as_dict(),
            "hash": self.job.hash,
            "session": self._session,
            "restart": self._restarts,
            "jobs_before": self._jobs_before,
            "device": description,
            "software": software(),
            "other_processes": others,
            "warnings": warnings,
        }

    def _other_processes(self) -> list[dict[str, Any]]:
        """Return who else computes on the GPU; must be asked before torch makes this process one of them."""
        if self.job.device != "cuda":
            return []
        visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0]
        return [one for one in nvml.processes(visible or None) if one["pid"] != os.getpid()]

    def _assert_device(self, description: dict[str, Any], others: list[dict[str, Any]]) -> None:
        before = next((event for event in self._before if event["event"] == "job_started"), None)
        if before and (before["device"]["name"], before["software"]["torch"]) != (description["name"], software()["torch"]):
            there = f"{before['device']['name']}, torch {before['software']['torch']}"
            raise JobError(f"this folder was measured on another machine ({there}): nothing was added; name another folder")
        gpu = self.job.gpu
        if gpu is not None and not gpu.is_this(description["name"], description["memory_bytes"]):
            memory = f"{description['memory_bytes'] / 2**30:.0f} GiB"
            raise JobError(
                f"this machine has {description['name']} ({memory}), the job asks for {gpu.name}: nothing was measured"
            )
        if others and self.job.measure.other_processes == "refuse":
            names = ", ".join(f"{one['name'] or 'process'} (pid {one['pid']})" for one in others)
            raise JobError(f"the GPU is in use by {names}; end that, or measure beside it with measure.other_processes=mark")

    def _stuck(self, variant: str) -> None:
        """Called by the watchdog while the main thread hangs in a variant: write the timeout, then start anew."""
        limit = f"a call did not end within measure.variant_timeout_s={self.job.measure.variant_timeout_s:g}"
        try:
            if self._engine is not None and variant:
                self._write_all([self._engine.describe(variant, "timeout", limit)])
            self._restart_or_give_up(limit)
        except OSError:  # a full disk: nothing can be said any more, and nothing else would end the hang
            os._exit(EXIT_FAILED)

    def _restart_or_give_up(self, why: str) -> NoReturn:
        if self._restarts >= MAX_RESTARTS:
            self._finish("partial", f"{why}; given up after {MAX_RESTARTS} restarts", EXIT_FAILED)
            os._exit(EXIT_FAILED)
        self._restart()


def _key(event: dict[str, Any]) -> tuple[str, str]:
    return journal.case_key(event["case"]), event["variant"]


def _best(found: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the fastest finalist with the interval of its throughput, None when none was measured."""
    timed = [one for one in found if one["status"] in ("ok", "noisy")]
    if not timed:
        return None
    best = max(timed, key=lambda one: float(one["rates"]["tflops"]))
    ops, summary = best["work"]["ops"], best["statistics"]
    return {
        "case": best["case"],
        "tflops": ops / summary["median_ms"] / 1e9,
        "ci_low_tflops": ops / summary["ci_high_ms"] / 1e9,
        "ci_high_tflops": ops / summary["ci_low_ms"] / 1e9,
    }
