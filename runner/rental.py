"""What was rented for a run, and what it cost: `launch.json` in the run's folder, written by the launcher, read by who reports.

One attempt is one cluster: its offer, its times, how its end was confirmed, its bill. Times are seconds since the epoch.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from runner.errors import RequestError
from runner.paths import write_whole

NAME = "launch.json"


@dataclass
class Attempt:
    """One cluster that was asked for. `*_at` are None for what did not happen; `usd` are None where no price is known.

    `gpu` is the choice of `gpu/` that it is, `asked_gpu` the one the user asked for: they differ after a fallback. The lifetime
    is `down_at - requested_at`; `billed_s` is it under the cloud's rule (`increment_s`, `minimum_s`), `cost_usd` = price x that,
    and `sky_cost_usd` is what SkyPilot reports. `share` is this run's part, by time, of a machine that it shared with others of a
    sweep; `billed_s` and the costs are that part. `confirmed_down` is whether SkyPilot was asked and no longer knows the cluster.
    """

    cluster: str
    cloud: str
    gpu: str
    asked_gpu: str
    accelerator: str = ""
    instance_type: str | None = None
    region: str | None = None
    spot: bool = False
    usd_per_hour: float | None = None
    increment_s: float = 1.0
    minimum_s: float = 0.0
    requested_at: float | None = None
    up_at: float | None = None
    running_at: float | None = None
    ended_at: float | None = None
    down_at: float | None = None
    confirmed_down: bool = False
    outcome: str = ""
    reason: str = ""
    billed_s: float | None = None
    cost_usd: float | None = None
    sky_cost_usd: float | None = None
    share: float = 1.0


@dataclass
class Rental:
    """Every attempt of a run, in order. `session` names the run in MLflow when no worker ever started."""

    session: str
    user: str = ""
    attempts: list[Attempt] = field(default_factory=list)

    @property
    def cost_usd(self) -> float | None:
        """What all attempts cost together, None where no price is known."""
        known = [one.cost_usd for one in self.attempts if one.cost_usd is not None]
        return sum(known) if known else None

    def save(self, folder: Path) -> None:
        """Write the file, whole or not at all. Raises OSError when the folder can't be written."""
        write_whole(folder / NAME, json.dumps(asdict(self), indent=1) + "\n")


def load(folder: Path) -> Rental | None:
    """Return what was rented for the run in `folder`, None for a run on this machine.

    Raises RequestError when the file is damaged.
    """
    path = folder / NAME
    try:
        data: dict[str, Any] = json.loads(path.read_text())
        return Rental(**data | {"attempts": [Attempt(**one) for one in data["attempts"]]})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise RequestError(f"{path} is damaged ({error}); move it away to go on without it") from error
