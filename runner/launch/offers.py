"""An offer: one priced way to get the GPU that a job asks for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Offer:
    """One instance with one GPU that could be rented.

    `cloud` is the choice of `cloud/`, `gpu` that of `gpu/`; `accelerator` is SkyPilot's name of the GPU on this cloud. `region`
    and `instance_type` are None where a snapshot doesn't say. `snapshot` names date and source of a price that comes from this
    repository's files and not from SkyPilot's catalog: such an offer is shown, never launched.
    """

    cloud: str
    gpu: str
    accelerator: str
    usd_per_hour: float
    spot: bool = False
    instance_type: str | None = None
    region: str | None = None
    snapshot: str | None = None
