"""The jobs of a sweep, all of them made and checked before anything starts: plans, equal ones found, grouped by machine."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from runner import code, gpus, plan
from runner.compose import Composed
from runner.errors import RequestError
from runner.plan import Plan
from runner.sweep.folder import SweepJob


@dataclass(frozen=True)
class Planned:
    """One job, ready to run: its entry in `sweep.json`, its plan (with the run folder), what it was composed from."""

    entry: SweepJob
    made: Plan
    composed: Composed

    @property
    def index(self) -> int:
        """Its place in the sweep."""
        return self.entry.index


@dataclass(frozen=True)
class Lane:
    """Jobs that one machine does one after the other. `rent` is whether it has to be rented, `gpu` the choice of `gpu/`."""

    name: str
    jobs: list[Planned]
    rent: bool
    gpu: str


def make(
    composed: Sequence[Composed], folder: Path, typed: Sequence[str] = (), first: int = 0, before: Sequence[SweepJob] = ()
) -> list[Planned]:
    """Plan every job of a batch; `typed` are the command line's overrides.

    `before` are the sweep's jobs of earlier batches, `first` the index of this one's first.

    Raises RequestError, with the job it is about, when one of them can't be done: then none is.
    """
    detected, git = gpus.detect(), code.git_state()
    fixed = _fixed(typed)
    seen = {entry.hash: entry.index for entry in reversed(before)}
    folders = {entry.index: entry.folder for entry in before}
    found = []
    for index, one in enumerate(composed, first):
        try:
            made = plan.make(one.config, one.folders, one.overrides, detected, git)
        except RequestError as error:
            raise about(index, _varied(one, fixed), error) from error
        same_as = seen.get(made.job.hash)
        name = f"{index:03d}-{made.job.workload}-{made.job.hash[:8]}" if same_as is None else folders[same_as]
        entry = SweepJob(
            index=index,
            overrides=one.overrides,
            hash=made.job.hash,
            folder=name,
            workload=one.config.choices.get("workload", made.job.workload),
            gpu=one.config.gpu_choice,
            target="sky" if made.target.rent else "local",
            varied=_varied(one, fixed),
            same_as=same_as,
        )
        seen.setdefault(made.job.hash, index)
        folders[index] = name
        found.append(Planned(entry, dataclasses.replace(made, folder=folder / name), one))
    return found


def _fixed(typed: Sequence[str]) -> set[str]:
    """Return what was typed, the last of each key; in lower case, since sweepers write False where false was typed."""
    return {override.lower() for override in {one.partition("=")[0]: one for one in typed}.values()}


def _varied(one: Composed, fixed: set[str]) -> list[str]:
    return [override for override in one.overrides if override.lower() not in fixed]


def about(index: int, varied: Sequence[str], error: RequestError) -> RequestError:
    """Return an error that says which job of the sweep it is about."""
    return RequestError(f"job {index}" + (f" ({' '.join(varied)})" if varied else "") + f": {error}")


def lanes(jobs: Sequence[Planned]) -> list[Lane]:
    """Group jobs by the machine that they need, in the order in which each first appears."""
    groups: dict[str, list[Planned]] = {}
    for job in jobs:
        groups.setdefault(_machine(job), []).append(job)
    found: list[Lane] = []
    for group in groups.values():
        target = group[0].made.target
        gpu = group[0].entry.gpu
        alike = sum(lane.gpu == gpu and lane.rent for lane in found)
        name = f"{gpu}-{alike}" if target.rent else ("local" if target.here is None else f"local-{target.here.index}")
        found.append(Lane(name, group, target.rent, gpu))
    return found


def _machine(job: Planned) -> str:
    """Name what a job needs of a machine: jobs of one name share it."""
    config, target = job.made.config, job.made.target
    if not target.rent:
        return f"here {target.here.uuid if target.here else 'cpu'}"
    # What rents: another region, image or limit is another machine.
    launch = {key: value for key, value in asdict(config.launch).items() if key not in ("dry_run", "write_job")}
    return json.dumps([job.entry.gpu, config.cloud.name, launch], sort_keys=True)


def common(composed: Sequence[Composed]) -> Composed:
    """Return one job's config that speaks for the sweep. Raises RequestError where the jobs differ in what a sweep has one of."""
    first = composed[0].config
    for index, one in enumerate(composed):
        config = one.config
        for key, own, others in (
            ("out", config.out, first.out),
            ("display", config.display, first.display),
            ("sweep", config.sweep, first.sweep),
            ("tracking.uri", config.tracking.uri, first.tracking.uri),
            ("launch.dry_run", config.launch.dry_run, first.launch.dry_run),
            ("launch.max_usd", config.launch.max_usd, first.launch.max_usd),
            ("launch.max_clusters", config.launch.max_clusters, first.launch.max_clusters),
        ):
            if own != others:
                raise RequestError(f"{key} is the sweep's, not a job's; give it one value (job {index} has another than job 0)")
        if config.run_dir is not None:
            raise RequestError("run_dir is the folder of one run; name a sweep's with sweep.name=NAME")
    return composed[0]
