"""What a GPU costs where it is not rented: the lowest of the dated prices in `conf/cloud/`, with its source and day."""

from runner.config import CloudConfig
from runner.merged import Price
from runner.paths import conf_dir
from runner.schema import read_group


def dated(gpu: str) -> tuple[Price, str] | None:
    """Return the lowest on-demand price of a GPU (a choice of `gpu/`) with where it is from; None where no cloud has one."""
    clouds = read_group(CloudConfig, [conf_dir()], "cloud", "any", lambda cloud, choice: None)
    known = {name: cloud.prices[gpu] for name, cloud in clouds.items() if gpu in cloud.prices}
    if not known:
        return None
    name, price = min(known.items(), key=lambda one: one[1].usd_per_hour)
    return Price(price.usd_per_hour, f"{name}, {price.as_of}"), price.source
