"""A sweep in MLflow: the parent run, and the children that its jobs are recorded as, all in one experiment."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runner.config import RunConfig
from runner.errors import RequestError
from runner.sweep.finishing import Finisher
from runner.sweep.folder import Sweep
from runner.sweep.jobs import Planned
from runner.sweep.result import Result
from runner.tracking import Place, Recorder, store, view
from runner.tracking.parent import Parent, totals
from runner.tracking.store import scrub, ui_hint
from runner.tracking.sweeps import experiment_of


class Record:
    """Where the jobs of a sweep are recorded, and their ends. A store that goes away costs warnings, never the sweep."""

    def __init__(self, config: RunConfig, sweep: Sweep, warn: Callable[[str, str], None]) -> None:
        """Reach the store and begin the parent run. Raises RequestError when it can't be reached and is required."""
        self._sweep, self._warn = sweep, warn
        self.where: Place | None = None
        self._parent: Parent | None = None
        self.parent_id: str | None = None
        self.finisher = Finisher(lambda line: warn("", line))
        wanted = config.tracking
        if not wanted.enabled:
            return
        self.where = store.place(wanted.uri, experiment(config, sweep), wanted.artifact_location, Path(config.out))
        warning = store.check(self.where, wanted.required)
        if warning:
            warn("", warning)
        else:
            self._open(sweep)

    def recorder(self, job: Planned, target: str) -> Recorder | None:
        """Return what records a job as a child of the sweep's run, None when nothing is recorded."""
        if self.where is None:
            return None
        return Recorder(
            job.made.folder, self.where, child_tags(self._sweep.name, job, target), self.parent_id,
            tell=lambda line: self._warn("", line),
        )  # fmt: skip

    def wait(self) -> None:
        """Wait until every finished job has its report and is recorded."""
        self.finisher.wait()

    def end(self, status: str, results: Sequence[Result]) -> list[str]:
        """Close the parent run with what was merged; return where to look, or how to record it later."""
        later = f"later: python -m runner.tracking {self._sweep.folder}"
        if self.where is None:
            return []
        if self._parent is None or self.parent_id is None:
            return ["the sweep is not recorded in MLflow", later]
        try:
            failed = [one for one in results if not one.ok]
            reasons = "; ".join(f"job {one.entry.index}: {one.reason or one.status}" for one in failed)
            paid = [one.cost_usd for one in results if one.cost_usd is not None]
            metrics = totals(len(results), len(results) - len(failed), len(failed), paid)
            self._parent.close(status, {"reason": reasons}, metrics, rented_files(self._sweep.folder))
        except Exception as error:  # whatever MLflow, its drivers or the network raise
            return [f"the sweep is not recorded in MLflow ({scrub(str(error), self.where.uri)[:200]})", later]
        return ui_hint(self.where, self._parent.state.experiment_id, self.parent_id, view.PATH)

    def _open(self, sweep: Sweep) -> None:
        assert self.where is not None
        self._parent = Parent(sweep.folder, self.where, sweep.name)
        try:
            self.parent_id = self._parent.open({"sweep.command": sweep.command, "user": sweep.user})
        except RequestError:
            raise
        except Exception as error:  # whatever MLflow, its drivers or the network raise
            problem = scrub(str(error).partition("\n")[0], self.where.uri)[:300]
            self._warn("", f"MLflow: {problem}; the sweep goes on, recorded later with python -m runner.tracking {sweep.folder}")


def experiment(config: RunConfig, sweep: Sweep) -> str:
    """Return the experiment of all runs of a sweep: the one that was named, else by its workloads."""
    workloads = {job.workload for job in sweep.jobs}
    named = config.tracking.experiment
    return named if named is not None and named not in workloads else experiment_of(workloads)


def child_tags(name: str, job: Planned, target: str) -> dict[str, Any]:
    """Return the tags of a job's run beside those that every run has."""
    varied = " ".join(job.entry.varied) or None
    return {"target": target, "sweep": name, "sweep.index": job.index, "sweep.varied": varied, **job.made.config.tags}


def rented_files(folder: Path) -> list[Path]:
    """Return what is known of the clusters of a sweep."""
    return [path for path in sorted((folder / "clusters").glob("*/*")) if path.suffix in (".json", ".yaml", ".log")]
