"""One run from plan to closing line: the worker is started, followed, recorded and reported, and every exit leaves the truth."""

import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from runner import job as jobs
from runner import journal, plan
from runner.config import RunConfig
from runner.display import Display, for_mode
from runner.errors import EXIT_DONE, EXIT_FAILED, EXIT_INTERRUPTED, JobError, RequestError
from runner.launch.local import Outcome, Worker
from runner.plan import Plan
from runner.sinks import Sink
from runner.tracking import Place, Recorder, store

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
    if config.launch.dry_run:
        print("\n".join(plan.describe(made)))
        return EXIT_DONE
    return _measure(made)


def _measure(made: Plan) -> int:
    """Run the job on this machine."""
    display = for_mode(made.config.display, sys.stdout)
    where, warning = _tracking(made)
    _claim(made)
    worker = Worker(made.folder, made.target.here.uuid if made.target.here else None)
    signal.signal(signal.SIGTERM, _interrupt)
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
        outcome = worker.run(sinks)
    except JobError as error:
        outcome = Outcome("failed", str(error))
    return _conclude(made.folder, outcome, display, recorder)


def _conclude(folder: Path, outcome: Outcome, display: Display, recorder: Recorder | None) -> int:
    """Derive the report, end the recording and the display; return the exit code."""
    from runner import report  # it brings numpy and scipy, which a wrong request need not wait for

    lines = []
    try:
        report.write(folder)
        lines.append(f"report     {folder / 'report.md'}")
    except RequestError as error:
        display.warn(f"no report: {error}; later: python -m runner.report {folder}")
    if recorder:
        recorder.finish(outcome.status, outcome.reason)
    display.finish(outcome.status, outcome.reason)
    display.closing(lines + (recorder.lines() if recorder else []))
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


def _claim(made: Plan) -> None:
    """Write the job into the run's folder.

    Raises RequestError when the folder holds another job, or can't be written.
    """
    path = made.folder / "job.json"
    there = [str(event["hash"]) for event in journal.read(made.folder) if event["event"] == "job_started"]
    there += [jobs.load(path).hash] if path.exists() else []
    for other in there:
        if other != made.job.hash:
            raise RequestError(f"{made.folder} holds another job ({other[:12]}, not {made.job.hash[:12]}); name another folder")
    plan.save(made.job, path)


def _import(with_mlflow: bool) -> None:
    """Import what is needed after the measuring."""
    from runner.report import plots  # noqa: F401

    if with_mlflow:
        store.load()


def _interrupt(number: int, frame: object) -> NoReturn:
    """Treat being told to end like Ctrl-C."""
    raise KeyboardInterrupt
