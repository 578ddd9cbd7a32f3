"""Multirun for this program: `-m` hands all jobs of a sweep to `runner.sweep` at once.

Hydra's own launcher starts every job from nothing, one after the other, and knows nothing of machines. `conf/config.yaml` chooses
these two. With another sweeper (`hydra/sweeper=optuna`) the launcher gets its batches one after the other, as one sweep.

Hydra imports every plugin at its start, so what is heavy is imported when it is needed.
"""

from collections.abc import Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CrossoverSweeper(BasicSweeper):
    """Hydra's sweeper (lists, ranges, globs; `params` for a saved sweep) with `sweep.zip` and `sweep.max_jobs`."""

    def sweep(self, arguments: list[str]) -> Any:
        """Make the jobs and hand them over."""
        from runner.sweep.expand import expand

        assert self.config is not None
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*(f"{key}={value}" for key, value in self.params.items()), *arguments])
        jobs = expand(overrides, self.config.sweep.zip, self.config.sweep.max_jobs)
        found: list[Sequence[JobReturn]] = []
        for batch in self.split_overrides_to_chunks(jobs, self.max_batch_size):
            found.append(self.launcher.launch(batch, initial_job_idx=sum(map(len, found))))
        return found


class CrossoverLauncher(Launcher):
    """Gives batches of jobs to the program's sweep, which `runner.cli` finishes when the sweeper has no more."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra has."""
        self._context, self._task, self._config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run a batch; a job that fails raises for the sweeper that asks for its value, and for nobody else."""
        from runner.errors import RequestError

        sweeps = getattr(self._task, "sweeps", None)
        if sweeps is None:
            raise RequestError("hydra/launcher=crossover runs this program's jobs only; use hydra/launcher=basic")
        returned = []
        jobs = [list(overrides) for overrides in job_overrides]
        for overrides, (value, error) in zip(jobs, sweeps.launch(self._context.config_loader, self._config, jobs), strict=True):
            one = JobReturn(overrides=overrides, status=JobStatus.FAILED if error else JobStatus.COMPLETED)
            one.return_value = error or value
            returned.append(one)
        return returned
