"""The clouds of `conf/cloud/`: by which name each knows a GPU, and the dated prices that are shown where no catalog answers."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runner.config import CloudConfig, check_cloud
from runner.errors import RequestError
from runner.launch.offers import Offer
from runner.schema import read_group
from runner.spec import GpuSpec

ANY = "any"
"""The choice of `cloud/` that leaves the choice to this program."""


def clouds(folders: Iterable[Path], chosen: CloudConfig | None = None) -> dict[str, CloudConfig]:
    """Return the clouds of the config folders' `cloud/`, by choice; of two with one name the first folder's stands, as in Hydra.

    `chosen` is the cloud of this run's config, which wins over its file: it holds what was overridden. Files that build on others
    through a defaults list can be asked for, but are not among the clouds that are compared.

    Raises RequestError for a file that is no cloud.
    """
    found = read_group(CloudConfig, folders, "cloud", ANY, _check)
    return found if chosen is None or chosen.name == ANY else found | {chosen.name: chosen}


def _check(cloud: CloudConfig, choice: str) -> None:
    check_cloud(cloud, "cloud")
    if cloud.name != choice:
        raise RequestError(f"cloud.name={cloud.name}: expected {choice}, the name of the file")


def sky_name(cloud: CloudConfig, gpu: str, spec: GpuSpec) -> str | None:
    """Return SkyPilot's name on this cloud of a GPU (a choice of `gpu/`), None where that name would be another card."""
    return cloud.accelerators.get(gpu, spec.sky_accelerator)


def snapshot(gpu: str, spec: GpuSpec, known: Mapping[str, CloudConfig]) -> list[Offer]:
    """Return the offers of one GPU that the clouds' files hold: dated, to be shown, never to be launched."""
    found = []
    for name, cloud in known.items():
        price = cloud.prices.get(gpu)
        if price is None:
            continue
        accelerator = sky_name(cloud, gpu, spec) or spec.sky_accelerator
        at = f"{price.as_of}, {price.source}"
        found.append(Offer(name, gpu, accelerator, price.usd_per_hour, snapshot=at))
        if price.spot_usd_per_hour is not None:
            found.append(Offer(name, gpu, accelerator, price.spot_usd_per_hour, spot=True, snapshot=at))
    return found


def with_snapshot(offers: Sequence[Offer], gpu: str, spec: GpuSpec, known: Mapping[str, CloudConfig]) -> list[Offer]:
    """Return a catalog's offers of one GPU, and behind them the snapshot of the clouds that it says nothing of."""
    answered = {offer.cloud for offer in offers if offer.gpu == gpu}
    return [*offers, *(one for one in snapshot(gpu, spec, known) if one.cloud not in answered)]
