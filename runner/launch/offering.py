"""What a run could be rented on: the offers of every enabled cloud, or the price snapshot; the choice; what it is then given."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, TextIO

from runner import cost, gpus, plan
from runner.config import CloudConfig
from runner.errors import JobError, RequestError, nearest
from runner.job import Job
from runner.launch import choose, estimate, prices, skypilot, table, task
from runner.launch.choose import Candidate, Decision
from runner.launch.offers import Offer
from runner.launch.rent import Choice, Settings
from runner.launch.skypilot import Sky
from runner.plan import Plan
from runner.rental import Attempt, Rental
from runner.spec import GpuSpec
from runner.tracking import rented, store
from runner.units import duration

LEAST_LIMIT_S = 900.0
LIMIT_FACTOR = 2.0
"""What the job's time limit on the node is of the longest estimate: it is there for hangs, not for slow hosts."""


@dataclass(frozen=True)
class Offered:
    """The offers for plans that share a machine, ranked; what is said of the machine is the same in all of them.

    `jobs` are theirs, by choice of `gpu/`. `unasked` says why SkyPilot could not be asked (`enabled` is None then).
    """

    made: Plan
    gpus: list[str]
    jobs: Mapping[str, Sequence[Job]]
    clouds: Mapping[str, CloudConfig]
    candidates: list[Candidate]
    enabled: list[str] | None
    unasked: str

    def decide(self) -> Decision:
        """Return the candidates in the order in which they are tried. Raises RequestError when there is none, with ways on."""
        launch, cloud = self.made.config.launch, self.made.config.cloud.name
        return choose.choose(
            self.candidates, self.gpus, self.clouds, launch, cloud=cloud, enabled=self.enabled, unasked=self.unasked
        )

    def choices(self) -> list[Choice]:
        """Return the GPUs, each with its job and its offers, in the order in which they are tried. Raises RequestError."""
        found = []
        for gpu, offers in self.decide().by_gpu():
            for autodown, group in groupby(offers, lambda offer: self.clouds[offer.cloud].autodown):
                found.append(Choice(gpu, self.jobs[gpu], list(group), autodown))
        return found

    def settings(self, max_usd: float | None = None) -> Settings:
        """Return what the rented runs are given. Raises RequestError when nothing can be rented.

        `max_usd` is their part of a sweep's `launch.max_usd`, None for all of it.
        """
        launch, decision = self.made.config.launch, self.decide()
        if max_usd is not None:
            launch = dataclasses.replace(launch, max_usd=max_usd)
        limit_s = max(LEAST_LIMIT_S, LIMIT_FACTOR * decision.chosen.estimate.at_most_s)
        if launch.max_minutes is not None:
            limit_s = 60 * launch.max_minutes
        billing = {name: cloud.billing for name, cloud in self.clouds.items()}
        if launch.max_usd is not None:  # on the node too, where it holds when this machine is gone
            offers = [one.offer for one in decision.order]
            paid = (cost.longest_s(launch.max_usd, one.usd_per_hour, billing.get(one.cloud)) for one in offers)
            limit_s = min(limit_s, *paid)
        images = {name: launch.image or cloud.image for name, cloud in self.clouds.items()}
        return Settings(launch, self.gpus[0], images, billing, limit_s, skypilot.remote_endpoint())

    def lines(self, stream: TextIO) -> list[str]:
        """Return the table of offers, the estimate, the bill and the choice, or why there is none."""
        try:
            decision, refusal = self.decide(), None
        except RequestError as error:
            decision, refusal = None, str(error)
        rows = table.rows(self.candidates, self.clouds, decision)
        found = table.lines(rows, stream if stream.isatty() else None)
        own = [one for one in self.candidates if one.offer.cloud == self.made.config.cloud.name]
        found += table.summary(own or self.candidates, self.clouds, self.made.config.launch, decision)
        if decision and not self.clouds[decision.chosen.offer.cloud].ends_itself:
            found.append(
                f"note       {decision.chosen.offer.cloud} instances can't end themselves without your key on them: should this "
                "machine die, python -m runner.launch down ends them"
            )
        return found if refusal is None else [*found, f"not now    {refusal}"]


def make(plans: Sequence[Plan], folders: Sequence[Path], sky: Sky | None, unasked: str = "") -> Offered:
    """Ask SkyPilot what plans that share a machine could be rented on, or look into the price snapshot.

    Learns from earlier runs how long they take. Raises RequestError for an unknown fallback, or a file to include that is not
    there.
    """
    made = plans[0]
    config = made.config
    task.check_include(config.launch.include)
    specs = _specs(made, folders)
    clouds = prices.clouds(folders, config.cloud)
    jobs = {gpu: [_job(one, gpu, spec, folders) for one in plans] for gpu, spec in specs.items()}
    enabled, unasked = _enabled(sky, clouds, unasked)
    offers: list[Offer] = []
    for gpu, spec in specs.items():
        own = _catalog(sky, gpu, spec, clouds, enabled or []) if sky else []
        offers += prices.with_snapshot(own, gpu, spec, clouds)
    names = {gpu: spec.name for gpu, spec in specs.items()}
    past = {one.job.workload: _history(one, names) for one in {one.job.workload: one for one in plans}.values()}
    estimates = {
        gpu: [estimate.per_offer(job.as_dict(), clouds, config.launch, past[job.workload]) for job in jobs[gpu]] for gpu in specs
    }
    candidates = choose.rank(
        offers, clouds, config.launch, lambda offer: estimate.together([of(offer) for of in estimates[offer.gpu]]),
        cloud=config.cloud.name, enabled=enabled,
    )  # fmt: skip
    return Offered(made, list(specs), jobs, clouds, candidates, enabled, unasked)


def _job(made: Plan, gpu: str, spec: GpuSpec, folders: Sequence[Path]) -> Job:
    """Return the job of a plan for a GPU: its own, or one for a fallback."""
    config = made.config
    if gpu == config.gpu_choice:
        return made.job
    other = dataclasses.replace(config, gpu=spec, choices={**config.choices, "gpu": gpu})
    provenance = made.job.provenance
    return plan.build_job(other, plan.rented(spec), folders, provenance["overrides"], provenance["git"])


def _history(made: Plan, names: Mapping[str, str | None]) -> Mapping[str, estimate.History]:
    """Return what earlier runs of a plan's workload took, by choice of `gpu/`."""
    where, wanted = None, made.config.tracking
    if wanted.enabled:
        experiment = wanted.experiment or made.job.workload
        where = store.place(wanted.uri, experiment, wanted.artifact_location, Path(made.config.out))
    return estimate.history(where, made.job.as_dict(), names)


def _specs(made: Plan, folders: Sequence[Path]) -> dict[str, GpuSpec]:
    """Return the GPU that was asked for and the fallbacks, in order, by choice."""
    assert made.target.gpu is not None
    found = {made.config.gpu_choice: made.target.gpu}
    known = gpus.load_specs(folders) if made.config.launch.fallback else {}
    for gpu in made.config.launch.fallback:
        if gpu not in known:
            raise RequestError(f"launch.fallback={gpu}: no such GPU in gpu/; {nearest(gpu, known)}")
        found.setdefault(gpu, known[gpu])
    return found


def _enabled(sky: Sky | None, clouds: Mapping[str, CloudConfig], unasked: str) -> tuple[list[str] | None, str]:
    """Return the enabled clouds as choices of `cloud/`, None and why when SkyPilot could not be asked."""
    if sky is None:
        return None, unasked or "it was never set up here"
    try:
        found = sky.enabled()
    except JobError as error:
        return None, str(error)
    return [name for name, cloud in clouds.items() if cloud.sky_cloud in found], ""


def _catalog(sky: Sky, gpu: str, spec: GpuSpec, clouds: Mapping[str, CloudConfig], enabled: Sequence[str]) -> list[Offer]:
    """Return what SkyPilot's catalog has of a GPU on the enabled clouds."""
    names = {cloud: prices.sky_name(clouds[cloud], gpu, spec) for cloud in enabled if clouds[cloud].launchable}
    wanted = {str(clouds[cloud].sky_cloud): name for cloud, name in names.items() if name}
    own = {str(clouds[cloud].sky_cloud): cloud for cloud in enabled}
    try:
        return [dataclasses.replace(one, cloud=own[one.cloud]) for one in sky.offers(gpu, wanted) if one.cloud in own]
    except JobError as error:
        raise RequestError(f"SkyPilot's catalog could not be read ({error}); try again, or sky check") from error


def tags(attempt: Attempt) -> dict[str, Any]:
    """Return what MLflow is told of a rented machine while the run goes on."""
    return {name: value for name, value in rented.machine(attempt).items() if value is not None}


def bill(record: Rental) -> list[str]:
    """Say what was rented, for how long, what it cost, and whether it has ended."""
    lines = []
    for one in record.attempts:
        if one.down_at is None or one.requested_at is None:
            continue
        end = "ended, confirmed by sky status" if one.confirmed_down else f"END NOT CONFIRMED: sky down -y {one.cluster}"
        if one.cost_usd is None or one.usd_per_hour is None:
            lines.append(f"rented     {one.cloud} {one.accelerator}: {one.outcome or 'nothing came up'}; {end}")
            continue
        own = "" if one.sky_cost_usd is None else f"; sky cost-report says {cost.usd(one.sky_cost_usd)}"
        lived = duration(one.down_at - one.requested_at)
        what = f"{one.cloud} {one.accelerator} for {lived} at {cost.usd(one.usd_per_hour)}/h"
        lines.append(f"rented     {what}: {cost.usd(one.cost_usd)}{own}; {end}")
    if record.cost_usd is not None and len(lines) > 1:
        lines.append(f"cost       {cost.usd(record.cost_usd)} altogether")
    return lines
