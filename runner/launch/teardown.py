"""Ends a cluster and makes sure of it: asks SkyPilot, asks whether it is gone, and says what could not be confirmed."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from runner.errors import JobError
from runner.launch.ledger import Entry
from runner.launch.skypilot import Sky

TRIES = 5
PAUSE_S = 5.0
LOG = "teardown.log"


@dataclass(frozen=True)
class Ended:
    """How the end of a cluster went: `confirmed` when SkyPilot was asked and knows no such cluster any more."""

    cluster: str
    confirmed: bool
    reason: str = ""

    @property
    def line(self) -> str:
        """The sentence for a person, with what to type where that is needed."""
        if self.confirmed:
            return f"{self.cluster} has ended, confirmed by sky status"
        return (
            f"{self.cluster} may still be running and costing money ({self.reason}); type: python -m runner.launch down "
            f"{self.cluster}, or: sky down -y {self.cluster}; then look into the cloud's own console"
        )


def end(sky: Sky, entry: Entry, folder: Path | None, tell: Callable[[str], None] = lambda line: None) -> Ended:
    """End the cluster of an entry, and launches of it that are still under way; raises nothing of SkyPilot's.

    What was asked and answered goes to `teardown.log` in `folder`.
    """
    say = _logger(folder)
    reason, clean = "", 0
    for attempt in range(TRIES):
        if attempt:
            tell(f"{entry.cluster}: its end is not certain yet ({reason}); asking again")
            time.sleep(PAUSE_S * attempt)
        reasons = []
        for ask in (_cancel_launches, _down):
            try:
                ask(sky, entry.cluster, say)
            except JobError as error:
                reasons.append(str(error))
                say(str(error))
        try:
            state = sky.cluster_state(entry.cluster, refresh=True)
        except JobError as error:
            reasons.append(str(error))
            say(f"sky status: {error}")
        else:
            say(f"sky status {entry.cluster}: {state or 'no such cluster'}")
            reasons += [f"sky status says {state}"] if state else []
        clean = 0 if reasons else clean + 1
        # After trouble it is asked twice: a server that died may have left a launch that still goes on.
        if clean >= (2 if reason else 1):
            return Ended(entry.cluster, True)
        reason = reasons[0] if reasons else reason
    return Ended(entry.cluster, False, reason)


def _cancel_launches(sky: Sky, cluster: str, say: Callable[[str], None]) -> None:
    """Cancel launches that are under way: one that goes on would bring the cluster back."""
    for request in sky.requests(cluster):
        say(f"cancelling request {request}")
        sky.cancel(request)


def _down(sky: Sky, cluster: str, say: Callable[[str], None]) -> None:
    say(f"sky down {cluster}")
    sky.down(cluster)


def _logger(folder: Path | None) -> Callable[[str], None]:
    def say(line: str) -> None:
        if folder is not None:
            with contextlib.suppress(OSError), open(folder / LOG, "a") as log:
                log.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {line}\n")

    return say
