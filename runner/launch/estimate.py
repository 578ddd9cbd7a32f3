"""How long a rented job will take: set-up and measuring, by earlier runs where MLflow knows any, else by the job's own limits.

Reading MLflow is bounded in time, starts and creates nothing, and never fails a plan: a store that can't be read is no history.
"""

import contextlib
import sqlite3
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runner.config import CloudConfig, LaunchConfig
from runner.errors import RequestError
from runner.job import at_most_s, measurements
from runner.launch.offers import Offer
from runner.units import duration, several

if TYPE_CHECKING:  # runner.tracking brings numpy and scipy, which a plan need not wait for
    from runner.tracking.store import Place

READY_S = 120.0
"""From the command to the worker's first word where the image has torch. Guessed: this project's early reports had pods up within
20 s (RunPod) and 45 s (Prime Intellect); SkyPilot's own software and the image come on top."""
INSTALL_S = 180.0
"""What installing torch adds: some 3 GB to fetch and unpack. Guessed."""
READY_AT_MOST_S, INSTALL_AT_MOST_S = 600.0, 600.0
"""The same for a slow host: an image of 4 GB at 10 MB/s takes 7 min."""
TYPICAL = 0.4
"""What measuring takes of its limit: 0.18 to 0.83 in the seven grids of docs/results/h200, 0.36 of all of them together."""
ON_TOP, ON_TOP_S = 0.25, 60.0
"""Gates, compilation and imports, which the limit of measuring leaves out: a share of it, and seconds. Cautious: none of those
runs came to the limit itself."""
READ_S = 20.0
"""How long the store may take, MLflow's import included (3 s here, more on a slow disk)."""
LATEST = 50
NO_RUNS = "no earlier runs"
POLICY = (
    "device", "mode", "measure.target", "measure.max_time_s", "measure.min_time_s", "measure.timings", "measure.warmup.max_s",
    "measure.energy_window_s", "measure.aa_control",
)  # fmt: skip
"""The params of a run on which its time per measurement depends; one that a run lacks is no difference."""


@dataclass(frozen=True)
class Estimate:
    """How long a job takes on a rented machine, in seconds: normally `setup_s` + `measure_s`; `source` says how that is known."""

    setup_s: float
    measure_s: float
    at_most_s: float
    source: str
    setup_at_most_s: float = 0.0

    @property
    def total_s(self) -> float:
        """From the command to the end."""
        return self.setup_s + self.measure_s


@dataclass(frozen=True)
class History:
    """What earlier runs took: medians over `runs` runs. `measure_s` is a whole run's, `each_s` one measurement's.

    `setup_s` is by cloud. `why_none` says why there is no history.
    """

    runs: int = 0
    each_s: float | None = None
    measure_s: float | None = None
    setup_s: Mapping[str, float] = field(default_factory=dict)
    other_gpus: bool = False
    why_none: str = NO_RUNS


@dataclass(frozen=True)
class Past:
    """One earlier run, as far as it matters: seconds of set-up (None: not rented) and of measuring, and how many measurements."""

    gpu: str | None
    cloud: str | None
    setup_s: float | None
    measure_s: float
    measurements: float


def history(where: "Place | None", job: Mapping[str, Any], gpus: Mapping[str, str | None]) -> dict[str, History]:
    """Return what earlier runs of a job's workload took (`job` is plain data), by choice of `gpu/`.

    `gpus` is the GPUs' names by choice; the runs on that GPU count if there are any. `where` is None when nothing is recorded.
    Takes at most some `READ_S` seconds; raises nothing.
    """
    past, why_none = _past(where, job)
    return {choice: learn(past, name, why_none) for choice, name in gpus.items()}


def _past(where: "Place | None", job: Mapping[str, Any]) -> tuple[list[Past], str]:
    """Return the earlier runs of a job's workload, and why there are none."""
    if where is None:
        return [], "nothing is recorded"
    from runner.tracking import store

    unread = f"{where.shown} could not be read"
    if not _is_there(where):
        return [], NO_RUNS if where.database_file else unread
    found: list[Past] = []
    problem: list[str] = []

    def read() -> None:
        try:
            found.extend(_read(where, job))
            problem.clear()
        except Exception as error:  # MLflow, its drivers and the network raise whatever they like
            problem.append(store.scrub(str(error).partition("\n")[0] or type(error).__name__, where.uri)[:100])

    thread = threading.Thread(target=read, name="history", daemon=True)
    thread.start()
    thread.join(READ_S)
    if thread.is_alive():
        return [], f"{where.shown} did not answer within {READ_S:.0f} s"
    return ([], f"{unread}: {problem[0]}") if problem else (found, NO_RUNS)


def learn(past: Sequence[Past], gpu: str | None, why_none: str = NO_RUNS) -> History:
    """Return the medians over the runs on this GPU, over all when there is none on it; `why_none` if there is none at all."""
    same = [one for one in past if gpu is not None and one.gpu == gpu]
    chosen = same or list(past)
    if not chosen:
        return History(why_none=why_none)
    each = [one.measure_s / one.measurements for one in chosen if one.measurements > 0]
    setups: dict[str, list[float]] = {}
    for one in past:  # the GPU has no part in it
        if one.cloud and one.setup_s is not None:
            setups.setdefault(one.cloud, []).append(one.setup_s)
    return History(
        runs=len(chosen),
        each_s=statistics.median(each) if each else None,
        measure_s=statistics.median(one.measure_s for one in chosen),
        setup_s={cloud: statistics.median(values) for cloud, values in setups.items()},
        other_gpus=not same,
    )


def estimate(job: Mapping[str, Any], past: History, cloud: str | None = None, has_torch: bool = True) -> Estimate:
    """Return how long a job (plain data) takes on a cloud; `has_torch` is whether a machine there comes with torch.

    Without history, a grid takes TYPICAL of its limit and a search all of its budget.
    """
    limit, count = at_most_s(job), measurements(job)
    learned = past.each_s * count if past.each_s is not None and count else past.measure_s if not count else None
    measure = learned if learned is not None else limit * (TYPICAL if job["mode"] == "grid" else 1.0)
    known = past.setup_s.get(cloud or "")
    setup = known if known is not None else READY_S + (0 if has_torch else INSTALL_S)
    longest_setup = max(READY_AT_MOST_S + (0 if has_torch else INSTALL_AT_MOST_S), 1.5 * setup)
    longest = max(limit * (1 + ON_TOP) + ON_TOP_S, 1.5 * measure)
    if learned is None:
        source = f"{past.why_none}: " + (f"{TYPICAL:g} of the limit" if job["mode"] == "grid" else "the whole budget")
    else:
        source = f"median of {several(past.runs, 'earlier run')}" + (" on other GPUs" if past.other_gpus else "")
    source += "" if known is not None else "; set-up guessed"
    return Estimate(setup, measure, longest_setup + longest, source, longest_setup)


def together(estimates: Sequence[Estimate]) -> Estimate:
    """Return the estimate of jobs that share a machine: one set-up, and the measuring of all."""
    if len(estimates) == 1:
        return estimates[0]
    setup, longest_setup = max(one.setup_s for one in estimates), max(one.setup_at_most_s for one in estimates)
    longest = longest_setup + sum(one.at_most_s - one.setup_at_most_s for one in estimates)
    sources = "; ".join(dict.fromkeys(one.source for one in estimates))
    return Estimate(setup, sum(one.measure_s for one in estimates), longest, sources, longest_setup)


def per_offer(
    job: Mapping[str, Any], clouds: Mapping[str, CloudConfig], launch: LaunchConfig, past: Mapping[str, History]
) -> Callable[[Offer], Estimate]:
    """Return a function from an offer to the job's estimate there; `past` is by choice of `gpu/`."""

    def of(offer: Offer) -> Estimate:
        cloud = clouds.get(offer.cloud)
        has_torch = bool(launch.python or launch.image or (cloud and cloud.image))
        return estimate(job, past.get(offer.gpu, History()), offer.cloud, has_torch)

    return of


def about(seconds: float) -> str:
    """Write an estimated time to the precision that it has: seconds, tens of them from a minute on, minutes from ten on.

    >>> about(8.2), about(364), about(480), about(5000)
    ('8 s', '6 min', '8 min', '1 h 23 min')
    """
    step = 1 if seconds < 60 else 10 if seconds < 600 else 60
    return duration(step * round(seconds / step)).removesuffix(" 00 s")


def _is_there(where: "Place") -> bool:
    """Whether a store can be asked, without creating one: MLflow makes the file, and the tables in it."""
    if where.database_file:
        with contextlib.suppress(sqlite3.Error):
            uri = f"{where.database_file.as_uri()}?mode=ro"
            with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=2)) as database:
                tables = database.execute("select name from sqlite_master where name in ('runs', 'experiments')").fetchall()
                return len(tables) == 2
        return False
    from runner.tracking import store

    try:
        return store.check(where, required=False) is None
    except RequestError:
        return False


def _read(where: "Place", job: Mapping[str, Any]) -> list[Past]:
    """Ask the store for the latest runs of the workload that measured in the same way."""
    from runner.tracking import store
    from runner.tracking.content import params

    client = store.load().MlflowClient(tracking_uri=where.uri)
    experiments = [client.get_experiment_by_name(name) for name in dict.fromkeys((where.experiment, store.SWEEPS))]
    known = [one.experiment_id for one in experiments if one is not None]
    if not known:
        return []
    runs = client.search_runs(
        known,
        filter_string=f"tags.workload = '{job['workload']}' and metrics.measure_s > 0",
        max_results=LATEST,
        order_by=["attributes.start_time DESC"],
    )
    own = params(job)
    found = []
    for run in runs:
        metrics, tags = run.data.metrics, run.data.tags
        if all(run.data.params.get(key, own.get(key)) == own.get(key) for key in POLICY):
            setup = metrics.get("rental_setup_s")
            found.append(
                Past(tags.get("gpu.name"), tags.get("cloud"), setup, metrics["measure_s"], metrics.get("measurements", 0))
            )
    return found
