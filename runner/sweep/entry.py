"""Where a sweep enters: Hydra's launcher hands over batches of jobs, `runner.cli` says when there are no more.

A command that is no sweep passes here as well, so what is heavy is imported when there are jobs.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runner.compose import Composed
from runner.errors import JobError, RequestError

if TYPE_CHECKING:
    from runner.sweep.composing import Composer
    from runner.sweep.session import Session, Value

OURS = "hydra_plugins.crossover_sweeps.CrossoverSweeper"


class Sweeps:
    """The sweep of this command; there is none until the launcher hands over jobs."""

    def __init__(self, arguments: Sequence[str], config_dir: str | None = None) -> None:
        """Get ready. `arguments` are the command line's overrides, as typed."""
        self._arguments, self._config_dir = list(arguments), config_dir
        self._composer: Composer | None = None
        self._session: Session | None = None
        self.crash: Exception | None = None

    def launch(self, loader: Any, master: Any, batch: Sequence[Sequence[str]]) -> "list[Value]":
        """Run a batch of jobs; return for each its value for a sweeper that searches, or why there is none.

        Raises RequestError before anything starts when one of them is wrong, KeyboardInterrupt when it was interrupted.
        """
        from runner.sweep import jobs, objective
        from runner.sweep.composing import Composer
        from runner.sweep.session import Session

        if self._composer is None:
            self._composer = Composer(loader, master, self._config_dir)
        searching = str(master.hydra.sweeper["_target_"]) != OURS
        composed = self._composed(batch)
        settings = jobs.common(composed)
        if searching:
            for one in composed:
                objective.check(one.config.workload.objective, one.config.workload.variants)
        if settings.config.launch.write_job:
            return self._write(composed)
        try:
            if self._session is None:
                self._session = Session(settings, self._arguments, searching)
            found = self._session.run(composed)
        except (RequestError, JobError):
            raise
        except Exception as error:  # a bug of ours, raised by runner.cli when what there is has been told
            self.crash = error
            return [(None, error) for _ in batch]
        return found

    def finish(self) -> int | None:
        """Merge, record and tell what there is; return the exit code, None when there was no sweep."""
        return self._session.finish() if self._session else None

    def _composed(self, batch: Sequence[Sequence[str]]) -> list[Composed]:
        from runner.sweep import jobs

        assert self._composer is not None
        found = []
        for index, overrides in enumerate(batch):
            try:
                found.append(self._composer.compose(overrides))
            except RequestError as error:
                varied = [one for one in overrides if one not in self._arguments]
                raise jobs.about(index, varied, error) if len(batch) > 1 else error from error
        return found

    def _write(self, composed: Sequence[Composed]) -> "list[Value]":
        from runner import plan
        from runner.sweep import jobs

        paths = [Path(str(one.config.launch.write_job)).absolute() for one in composed]
        if len(set(paths)) < len(paths):
            raise RequestError(
                "launch.write_job: the jobs of a sweep need a path each, as in 'launch.write_job=n${workload.n}.json'"
            )
        for planned, path in zip(jobs.make(composed, Path()), paths, strict=True):
            plan.save(planned.made.job, path)
            print(f"wrote {path}; run it with: python -m runner.worker {path} --out DIR")
        return [(None, None) for _ in paths]
