"""`python -m runner.tracking DIR`: record a run or a sweep in MLflow from its folder, or finish what was begun; never twice."""

import argparse
import os
import sys
from pathlib import Path

from runner import journal, rental
from runner.errors import EXIT_DONE, EXIT_FAILED, RequestError, one_line
from runner.journal import Event, final_status
from runner.results import from_events, read_events
from runner.sweep.folder import is_sweep
from runner.tracking.rented import NEVER_STARTED
from runner.tracking.store import Place, check, place, scrub, ui_hint
from runner.tracking.upload import NAME, State, Upload, beginning, load_state, locked

LOCK_WAIT_S = 120.0


def main(arguments: list[str] | None = None) -> int:
    """Return the exit code: 0 recorded (now or before), 1 the store failed halfway, 2 the request can't be done."""
    parser = argparse.ArgumentParser(prog="python -m runner.tracking", description=__doc__)
    parser.add_argument(
        "folder", type=Path, metavar="DIR", help="the folder of a run (journal.jsonl or launch.json) or a sweep (sweep.json)"
    )
    parser.add_argument("--uri", help="the MLflow tracking URI; without it, the one the run was to be recorded at")
    parser.add_argument("--experiment", help="the experiment; without it, the one it was to be recorded in")
    options = parser.parse_args(arguments)
    try:
        if is_sweep(options.folder):
            from runner.tracking import sweeps

            return sweeps.record(options.folder.absolute(), options.uri, options.experiment)
        return record(options.folder, options.uri, options.experiment)
    except RequestError as error:
        print(one_line(str(error)), file=sys.stderr)
        return error.exit_code


def record(folder: Path, uri: str | None = None, experiment: str | None = None) -> int:
    """Bring the run in `folder` into MLflow; print where it is.

    Raises RequestError when there is no run, no store, or the store can't be reached.
    """
    folder = folder.absolute()
    _read(folder)  # before the lock, which would be left in a folder that holds no run
    with locked(folder, LOCK_WAIT_S):
        first, events = _read(folder)  # again: who held the lock may have been the run itself
        state = load_state(folder)
        where = _where(folder, state, uri, experiment or first["job"]["workload"])
        check(where)
        upload = Upload(folder, where)
        status, reason = final_status(events)
        if status != "complete" and state and state.status:
            status, reason = state.status, state.reason  # the launcher knows more of an end that was not the worker's own
        try:
            known = upload.is_done(status, events)
            if not known:
                if first["event"] != NEVER_STARTED:
                    _derive(folder)
                upload.push(events)
                upload.close(status, reason, events)
        except RequestError:
            raise
        except Exception as error:  # whatever MLflow, its drivers or the network raise; the run is still whole
            print(f"MLflow at {where.shown} failed ({scrub(str(error), where.uri)[:300]}); call this again", file=sys.stderr)
            return EXIT_FAILED
    print("already recorded" if known else "recorded", *ui_hint(where, upload.state.experiment_id, upload.state.run_id), sep="\n")
    return EXIT_DONE


def _read(folder: Path) -> tuple[Event, list[Event]]:
    """Return the event that the run begins with and its journal's, which are none where something was rented and nothing ran.

    Raises RequestError when there is no run.
    """
    try:
        events = journal.read(folder) if (folder / rental.NAME).exists() else read_events(folder)
    except OSError as error:
        raise RequestError(f"can't read {folder / journal.NAME}: {error.strerror}; name a folder written by a run") from error
    first = beginning(folder, events)
    if first is None:
        from_events(events)  # says why there is no run to speak of
        raise RequestError(f"{folder} holds no run; name a folder written by one")
    return first, events


def _where(folder: Path, state: State | None, uri: str | None, experiment: str) -> Place:
    """Return the store: the one named now, else the one remembered, else MLFLOW_TRACKING_URI's."""
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if state is None:
        if not chosen:
            raise RequestError(
                f"{folder} has no {NAME}: it was not to be recorded; name a store with --uri, as in --uri http://HOST:5000"
            )
        return place(chosen, experiment, None, folder)
    if uri and uri != state.uri:
        same = place(uri, state.experiment, state.artifact_location, folder)
        # The stored URI has no password: naming it in full is the same store.
        return same if same.shown == state.uri else place(uri, experiment, None, folder)
    if "***" in state.uri:
        if chosen and Place(chosen, "").shown == state.uri:
            return Place(chosen, state.experiment, state.artifact_location)
        raise RequestError(f"the password of {state.uri} is not stored; name the store in full with --uri or MLFLOW_TRACKING_URI")
    return Place(state.uri, state.experiment, state.artifact_location)


def _derive(folder: Path) -> None:
    """Make the report again where it is missing or older than what it is made of."""
    report = folder / "report.md"
    sources = [path for path in (folder / journal.NAME, folder / rental.NAME) if path.exists()]
    if not report.exists() or report.stat().st_mtime < max(path.stat().st_mtime for path in sources):
        from runner.report import write

        write(folder)


if __name__ == "__main__":
    sys.exit(main())
