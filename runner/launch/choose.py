"""Which offer a job is rented on: what each would bill under its cloud's rule, what rules it out, why the first is the first."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from runner import cost
from runner.config import CloudConfig, LaunchConfig
from runner.cost import usd
from runner.errors import RequestError, nearest
from runner.launch.estimate import Estimate, about
from runner.launch.offers import Offer
from runner.launch.prices import ANY

PRICE_ONLY, SPOT = "price only", "spot"
TOTAL, HOURLY = "over launch.max_usd", "over launch.max_usd_per_hour"
WAYS = (
    "ways on: sky check enables clouds and says what each lacks, launch.dry_run=true shows the plan, gpu=local uses what is here"
)


@dataclass(frozen=True)
class Candidate:
    """An offer and what the job would cost on it, in USD; `excluded` says why it can't be chosen, None when it can.

    `worst_bill_usd` is the bill of the longest that the job may take.
    """

    offer: Offer
    estimate: Estimate
    bill_usd: float
    worst_bill_usd: float
    excluded: str | None = None

    def __str__(self) -> str:
        """The offer in a word or two, for a sentence: `runpod RTX4090 at $0.34/h`."""
        spot = " (spot)" if self.offer.spot else ""
        return f"{self.offer.cloud} {self.offer.accelerator}{spot} at {usd(self.offer.usd_per_hour)}/h"


@dataclass(frozen=True)
class Decision:
    """The candidates in the order in which they are tried, the GPU asked for first, and why the first one is."""

    order: list[Candidate]
    why: str

    @property
    def chosen(self) -> Candidate:
        """The candidate that is tried first."""
        return self.order[0]

    def by_gpu(self) -> list[tuple[str, list[Offer]]]:
        """Return the offers in order, by choice of `gpu/`."""
        return [(gpu, [one.offer for one in group]) for gpu, group in groupby(self.order, lambda one: one.offer.gpu)]


def rank(
    offers: Sequence[Offer],
    clouds: Mapping[str, CloudConfig],
    launch: LaunchConfig,
    estimate: Callable[[Offer], Estimate],
    *,
    cloud: str = ANY,
    enabled: Sequence[str] | None = None,
) -> list[Candidate]:
    """Return every offer with its bill, the best first by `launch.optimize`; those that can't be chosen say why.

    GPUs stay in the order in which they first appear. `cloud` is the one asked for. `enabled` are the clouds that SkyPilot may
    use, None when it could not be asked: then none is.
    """
    gpus = list(dict.fromkeys(offer.gpu for offer in offers))
    found = [_candidate(offer, clouds.get(offer.cloud), launch, estimate(offer), cloud, enabled or ()) for offer in offers]

    def key(one: Candidate) -> tuple[float, ...]:
        both = one.bill_usd, one.offer.usd_per_hour
        # What nobody asked for would otherwise move its whole line of the table up.
        return (gpus.index(one.offer.gpu), one.excluded == SPOT, *(both if launch.optimize == "bill" else both[::-1]))

    return sorted(found, key=key)


def _candidate(
    offer: Offer, cloud: CloudConfig | None, launch: LaunchConfig, estimate: Estimate, asked: str, enabled: Sequence[str]
) -> Candidate:
    billing = cloud.billing if cloud else None
    bill = cost.bill_usd(offer.usd_per_hour, estimate.total_s, billing)
    worst = cost.bill_usd(offer.usd_per_hour, estimate.at_most_s, billing)
    reasons = {
        "unknown cloud": cloud is None,
        PRICE_ONLY: cloud is not None and not cloud.launchable,
        f"snapshot of {(offer.snapshot or '').partition(',')[0]}": offer.snapshot is not None,
        "not enabled": offer.cloud not in enabled,
        f"not {asked}": asked not in (ANY, offer.cloud),
        f"not in {launch.region}": launch.region not in (None, offer.region),
        SPOT: offer.spot and not launch.spot,
        HOURLY: launch.max_usd_per_hour is not None and offer.usd_per_hour > launch.max_usd_per_hour,
        TOTAL: launch.max_usd is not None and bill > launch.max_usd,
    }
    return Candidate(offer, estimate, bill, worst, next((reason for reason, holds in reasons.items() if holds), None))


def choose(
    candidates: Sequence[Candidate],
    gpus: Sequence[str],
    clouds: Mapping[str, CloudConfig],
    launch: LaunchConfig,
    *,
    cloud: str = ANY,
    enabled: Sequence[str] | None = None,
    unasked: str = "",
) -> Decision:
    """Return what `rank` left over, in the order in which it is tried; `gpus` are the GPU asked for and then the fallbacks.

    `enabled` is None when SkyPilot could not be asked which clouds it may use; `unasked` says why. Raises RequestError when there
    is nothing that may be rented.
    """
    order = [one for gpu in dict.fromkeys(gpus) for one in candidates if one.offer.gpu == gpu and one.excluded is None]
    if order:
        return Decision(order, _why(order, candidates, gpus, clouds, launch))
    _check_enabled(gpus, clouds, cloud, enabled, unasked)
    _refuse(candidates, gpus, launch, cloud, enabled or ())
    raise AssertionError  # _refuse always raises


def _why(
    order: Sequence[Candidate],
    candidates: Sequence[Candidate],
    gpus: Sequence[str],
    clouds: Mapping[str, CloudConfig],
    launch: LaunchConfig,
) -> str:
    """Say why the first of `order` is first, and what a look at the other kind of price would have chosen."""
    first = order[0]
    offer = first.offer
    same = [one for one in candidates if one.offer.gpu == offer.gpu and (launch.spot or not one.offer.spot)]
    length = about(first.estimate.total_s)
    if launch.optimize == "bill":
        why = f"the smallest bill: {usd(first.bill_usd)} for {length}, billed {_rule(clouds, offer)}"
        other = min(same, key=lambda one: one.offer.usd_per_hour)
        if other.offer.usd_per_hour < offer.usd_per_hour and other.bill_usd > first.bill_usd:
            why += (
                f"; {_named(other)} is cheaper by the hour ({usd(other.offer.usd_per_hour)}), "
                f"but its bill is {usd(other.bill_usd)} ({_rule(clouds, other.offer)})"
            )
    else:
        why = f"the lowest price per hour: {usd(offer.usd_per_hour)}"
        other = min(same, key=lambda one: one.bill_usd)
        if other.bill_usd < first.bill_usd and other.excluded is None:
            why += (
                f"; launch.optimize=bill takes {_named(other)}, whose bill is {usd(other.bill_usd)} and not {usd(first.bill_usd)}"
            )
    if offer.gpu != gpus[0]:
        why = f"gpu={gpus[0]} can't be had, launch.fallback has {offer.gpu}: {why}"
    return why


def _named(one: Candidate) -> str:
    return f"{one.offer.cloud} ({one.excluded})" if one.excluded else one.offer.cloud


def _rule(clouds: Mapping[str, CloudConfig], offer: Offer) -> str:
    cloud = clouds.get(offer.cloud)
    return cost.rule(cloud.billing if cloud else None)


def _check_enabled(
    gpus: Sequence[str], clouds: Mapping[str, CloudConfig], cloud: str, enabled: Sequence[str] | None, unasked: str
) -> None:
    """Refuse when no cloud may be used, or not the one asked for."""
    asked = f"gpu={gpus[0]}"
    own = clouds.get(cloud)
    if own and not own.launchable:
        others = ", ".join(name for name, one in clouds.items() if one.launchable)
        raise RequestError(f"cloud={cloud}: only its prices are known here, SkyPilot can't rent there; choose from {others}")
    if enabled is None:
        why = f" ({unasked})" if unasked else ""
        raise RequestError(f"{asked}: SkyPilot could not be asked which clouds are enabled{why}; {WAYS}")
    if not enabled:
        raise RequestError(f"{asked}: no cloud is enabled; {WAYS}")
    if cloud != ANY and cloud not in enabled:
        raise RequestError(
            f"cloud={cloud} is not enabled (enabled: {', '.join(enabled)}); sky check {cloud} says what it lacks, cloud=any "
            "takes what there is"
        )


def _refuse(
    candidates: Sequence[Candidate], gpus: Sequence[str], launch: LaunchConfig, cloud: str, enabled: Sequence[str]
) -> None:
    """Say what would have to change for one of the candidates to be taken. Raises RequestError, always."""
    searched = cloud if cloud != ANY else f"the enabled clouds ({', '.join(enabled)})"
    wanted = [one for gpu in gpus for one in candidates if one.offer.gpu == gpu]
    over = [one for one in wanted if one.excluded == TOTAL]
    dear = [one for one in wanted if one.excluded == HOURLY]
    elsewhere = [one for one in wanted if one.excluded and one.excluded == f"not in {launch.region}"]
    spot = [one for one in wanted if one.excluded == SPOT]
    if over:
        best = min(over, key=lambda one: one.bill_usd)
        raise RequestError(
            f"launch.max_usd={launch.max_usd:g}: the cheapest offer, {best}, comes to some {usd(best.bill_usd)} for "
            f"{about(best.estimate.total_s)}; raise it, or measure less, as in measure=quick"
        )
    if dear:
        best = min(dear, key=lambda one: one.offer.usd_per_hour)
        raise RequestError(f"launch.max_usd_per_hour={launch.max_usd_per_hour:g}: the cheapest offer is {best}; raise it")
    if elsewhere:
        regions = sorted({one.offer.region for one in elsewhere if one.offer.region})
        raise RequestError(
            f"launch.region={launch.region}: no offer of {_names(elsewhere)} there; {nearest(str(launch.region), regions)}"
        )
    if spot:
        raise RequestError(f"gpu={gpus[0]}: only spot instances of {_names(spot)} are offered; launch.spot=true takes one")
    listed = dict.fromkeys(one.offer.cloud for one in wanted if one.excluded != PRICE_ONLY and one.offer.cloud not in enabled)
    hint = f"; by this program's price list it is on {', '.join(listed)}: sky check says what each lacks" if listed else ""
    asked = f"gpu={gpus[0]}" + (f" launch.fallback=[{','.join(gpus[1:])}]" if gpus[1:] else "")
    more = ", cloud=any takes any" if cloud != ANY else ""
    raise RequestError(f"{asked}: nothing of it is offered on {searched}{hint}; launch.fallback=[GPU] names another GPU{more}")


def _names(candidates: Sequence[Candidate]) -> str:
    return " or ".join(dict.fromkeys(one.offer.accelerator for one in candidates))
