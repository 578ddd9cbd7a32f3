"""Records a sweep in MLflow from its folder, later: the parent run, and each job's run nested under it; never twice."""

import contextlib
import io
import os
import sys
from pathlib import Path

from runner import journal, merged, rental
from runner.errors import EXIT_DONE, EXIT_FAILED, RequestError
from runner.sweep import folder as folders
from runner.sweep import state as states
from runner.sweep.folder import Sweep, SweepJob
from runner.tracking import view
from runner.tracking.parent import Parent, totals
from runner.tracking.store import SWEEPS, Place, check, place, scrub, ui_hint
from runner.tracking.upload import State, load_state


def record(folder: Path, uri: str | None, experiment: str | None) -> int:
    """Bring the sweep in `folder` into MLflow; print where it is, return the exit code.

    Raises RequestError when there is no sweep, no store, or the store can't be reached.
    """
    from runner.tracking.__main__ import record as record_run

    sweep = folders.load(folder)
    where = _where(sweep, uri, experiment)
    check(where)
    parent = Parent(folder, where, sweep.name)
    worst = EXIT_DONE
    try:
        parent_id = parent.open({"sweep.command": sweep.command, "user": sweep.user})
        for job in sweep.distinct:
            run = sweep.path(job)
            if (run / journal.NAME).exists() or (run / rental.NAME).exists():
                _adopt(run, where, sweep, job, parent_id)
                with contextlib.redirect_stdout(io.StringIO()):
                    worst = max(worst, record_run(run, where.uri, where.experiment))
        merged.write(folder)
        found = [states.status(sweep.path(job)) for job in sweep.distinct]
        ends = zip(sweep.distinct, found, strict=True)
        failed = [f"job {job.index}: {why}" for job, (status, why) in ends if status != "complete"]
        costs = [one.cost_usd for job in sweep.distinct if (one := rental.load(sweep.path(job))) and one.cost_usd is not None]
        parent.close(
            "failed" if failed else "complete",
            {"reason": "; ".join(failed)},
            totals(len(sweep.jobs), len(sweep.distinct) - len(failed), len(failed), costs),
        )
    except RequestError:
        raise
    except Exception as error:  # whatever MLflow, its drivers or the network raise; the sweep is still whole
        print(f"MLflow at {where.shown} failed ({scrub(str(error), where.uri)[:300]}); call this again", file=sys.stderr)
        return EXIT_FAILED
    print("recorded", *ui_hint(where, parent.state.experiment_id, parent_id, view.PATH), sep="\n")
    return worst


def experiment_of(workloads: set[str]) -> str:
    """Return the experiment of a sweep over these workloads: that of the only one, else SWEEPS."""
    return workloads.copy().pop() if len(workloads) == 1 else SWEEPS


def _where(sweep: Sweep, uri: str | None, experiment: str | None) -> Place:
    """Return the store: the one named now, else the one remembered, else MLFLOW_TRACKING_URI's."""
    known = load_state(sweep.folder)
    name = experiment or (known.experiment if known else experiment_of({job.workload for job in sweep.jobs}))
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if chosen:
        return place(chosen, name, None, sweep.folder)
    if known is None:
        raise RequestError(f"{sweep.folder} was not to be recorded; name a store with --uri, as in --uri http://HOST:5000")
    if "***" in known.uri:
        raise RequestError(f"the password of {known.uri} is not stored; name the store in full with --uri or MLFLOW_TRACKING_URI")
    return Place(known.uri, name, known.artifact_location)


def _adopt(run: Path, where: Place, sweep: Sweep, job: SweepJob, parent_id: str) -> None:
    """Have a run recorded under the sweep's: what it remembers of another store is kept there."""
    known = load_state(run)
    if known is None or (known.uri, known.experiment) != (where.shown, where.experiment):
        tags = {"target": job.target, "sweep": sweep.name, "sweep.index": job.index, "sweep.varied": " ".join(job.varied) or None}
        known = State(where.shown, where.experiment, where.artifact_location, tags=tags)
    known.parent_run_id = parent_id
    known.save(run)
