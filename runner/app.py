"""One run from plan to closing line: the worker is started, here or on a rented machine, followed, recorded and reported.

Every exit leaves the truth: in the journal, in MLflow, on the screen, and in what is still rented.
"""

import contextlib
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runner import job as jobs
from runner import journal, plan
from runner.config import RunConfig
from runner.display import Display, for_mode
from runner.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JobError, RequestError
from runner.launch.local import Outcome, Worker
from runner.launch.safety import interrupt
from runner.plan import Plan
from runner.sinks import Sink
from runner.tracking import Place, Recorder, store

if TYPE_CHECKING:
    from runner.launch.offering import Offered
    from runner.launch.rent import Choice
    from runner.launch.skypilot import Sky
    from runner.rental import Attempt

EXIT_CODES = {"complete": EXIT_DONE, "interrupted": EXIT_INTERRUPTED}


def run(config: RunConfig, overrides: list[str], folders: Sequence[Path]) -> int:
    """Do what the config asks for and return the exit code; `folders` are the config folders that were searched.

    Raises RequestError when the request is wrong: then nothing was measured, and nothing that was there is changed.
    """
    made = plan.make(config, folders, overrides)
    if config.launch.write_job:
        plan.save(made.job, Path(config.launch.write_job))
        print(f"wrote {config.launch.write_job}; run it with: python -m runner.worker {config.launch.write_job} --out DIR")
        return EXIT_DONE
    if made.target.rent:
        return _rent(made, overrides, folders)
    if config.launch.dry_run:
        print("\n".join(plan.describe(made)))
        return EXIT_DONE
    from runner.launch import left

    left.end_all()
    return _measure(made)


def _rent(made: Plan, overrides: Sequence[str], folders: Sequence[Path]) -> int:
    """Show what the job would cost where, and, unless it is a dry run, run it there."""
    from runner.launch import left, offering, server

    with contextlib.ExitStack() as stack:
        sky, why_not = None, ""
        try:
            sky = stack.enter_context(server.connected())
        except RequestError as error:
            if not made.config.launch.dry_run:
                raise
            why_not = str(error)
        if sky and not made.config.launch.dry_run:
            left.end_all()  # also when this run is refused
        offered = offering.make([made], folders, sky, why_not)
        if made.config.launch.dry_run:
            print("\n".join([*plan.describe(made), *offered.lines(sys.stdout)]))
            return EXIT_DONE
        offered.decide()  # or why there is nothing to decide
        assert sky is not None
        return _measure_there(made, offered, sky)


def _measure_there(made: Plan, offered: "Offered", sky: "Sky") -> int:
    """Run the job on a rented machine."""
    from runner.launch import offering, server
    from runner.launch.rent import Renting

    choices, settings = offered.choices(), offered.settings()  # or why there are none
    server.check_guard(sky, made.config.launch.credentials)
    where, warning = _tracking(made)
    _claim(made, [choice.jobs[0].hash for choice in choices])
    display = for_mode(made.config.display, sys.stdout)
    if made.config.display in ("auto", "rich", "plain"):
        print("\n".join(offered.lines(sys.stdout)), flush=True)
    for number in (signal.SIGTERM, signal.SIGHUP):  # whoever closes the terminal leaves nothing running either
        signal.signal(number, interrupt)
    display.opening(made.job.as_dict(), made.folder)
    if warning:
        display.warn(warning)
    tags = {"target": "sky", **made.config.tags}
    recorder = Recorder(made.folder, where, tags, tell=display.warn) if where else None
    threading.Thread(target=_import, args=(where is not None,), daemon=True).start()  # while a machine is being provisioned

    def chosen(choice: "Choice", attempt: "Attempt") -> None:
        plan.save(choice.jobs[0], made.folder / "job.json")
        if recorder:
            recorder.retag(tags | offering.tags(attempt))

    sinks: list[Sink] = [display, recorder] if recorder else [display]
    renting = Renting(sky, made.folder, choices, settings, chosen=chosen, warn=display.warn, alarm=display.alarm)
    crash: Exception | None = None
    try:
        outcome = renting.run(sinks)
    except JobError as error:
        outcome = Outcome("failed", str(error))
    except RequestError as error:
        if not any(one.up_at for one in renting.record.attempts):
            display.close()
            raise
        outcome = Outcome("failed", str(error))
    except Exception as error:  # a bug of ours: what was measured and paid is told first
        crash, outcome = error, Outcome("failed", f"{type(error).__name__}: {error}")
    code = _conclude(made.folder, outcome, display, recorder, offering.bill(renting.record))
    if crash:
        raise crash
    return code if all(one.confirmed_down for one in renting.record.attempts) else max(code, EXIT_FAILED)


def _measure(made: Plan) -> int:
    """Run the job on this machine."""
    display = for_mode(made.config.display, sys.stdout)
    where, warning = _tracking(made)
    _claim(made)
    worker = Worker(made.folder, made.target.here.uuid if made.target.here else None)
    signal.signal(signal.SIGTERM, interrupt)
    try:
        imports = threading.Thread(target=_import, args=(where is not None,), daemon=True)
        imports.start()  # beside the worker's import of torch, so that nothing disturbs the measuring later
        display.opening(made.job.as_dict(), made.folder)
        if warning:
            display.warn(warning)
        recorder = Recorder(made.folder, where, {"target": "local", **made.config.tags}, tell=display.warn) if where else None
        imports.join()
    except BaseException:
        worker.stop()
        raise
    sinks: list[Sink] = [display, recorder] if recorder else [display]
    try:
        outcome = worker.run(made.folder, sinks)
    except JobError as error:
        outcome = Outcome("failed", str(error))
    except RequestError:
        display.close()
        raise
    finally:
        worker.close()
    return _conclude(made.folder, outcome, display, recorder, [])


def _conclude(folder: Path, outcome: Outcome, display: Display, recorder: Recorder | None, bill: list[str]) -> int:
    """Derive the report, end the recording and the display; return the exit code. `bill` says what was rented and paid."""
    from runner import report  # it brings numpy and scipy, which a wrong request need not wait for
    from runner.projection import measured

    lines = []
    try:
        if journal.read(folder) or not bill:  # what was rented may have ended before there was anything to report
            measured.look_up(folder, recorder.where if recorder else None)
            report.write(folder)
            lines.append(f"report     {folder / 'report.md'}")
    except RequestError as error:
        display.warn(f"no report: {error}; later: python -m runner.report {folder}")
    if recorder:
        recorder.finish(outcome.status, outcome.reason)
    display.finish(outcome.status, outcome.reason)
    display.closing([*bill, *lines, *(recorder.lines() if recorder else [])])
    return EXIT_CODES.get(outcome.status, EXIT_FAILED)


def _tracking(made: Plan) -> tuple[Place | None, str | None]:
    """Return the store to record in, checked, and a warning when it can't be reached and need not be.

    Raises RequestError when it can't be reached and is required.
    """
    wanted = made.config.tracking
    if not wanted.enabled:
        return None, None
    where = store.place(wanted.uri, wanted.experiment or made.job.workload, wanted.artifact_location, Path(made.config.out))
    return where, store.check(where, wanted.required)


def _claim(made: Plan, hashes: Sequence[str] = ()) -> None:
    """Write the job into the run's folder; a folder with one of the jobs in `hashes` (those for fallbacks) keeps that one.

    Raises RequestError when the folder holds another job, or can't be written.
    """
    path = made.folder / "job.json"
    there = [str(event["hash"]) for event in journal.read(made.folder) if event["event"] == "job_started"]
    there += [jobs.load(path).hash] if path.exists() else []
    for other in there:
        if other not in (made.job.hash, *hashes):
            raise RequestError(f"{made.folder} holds another job ({other[:12]}, not {made.job.hash[:12]}); name another folder")
    if not any(other != made.job.hash for other in there):
        plan.save(made.job, path)


def _import(with_mlflow: bool) -> None:
    """Import what is needed after the measuring."""
    from runner.report import plots  # noqa: F401

    if with_mlflow:
        store.load()
