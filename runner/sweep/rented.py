"""The rented lanes of a sweep: a process for each, so many at a time; what they say becomes results."""

import multiprocessing
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runner.sweep import lane as lanes
from runner.sweep.jobs import Lane
from runner.sweep.planning import Offers
from runner.sweep.record import Record

Message = tuple[str, dict[str, Any]]
"""The lane's name, and what its process says."""


class Clusters:
    """Starts the processes of rented lanes, `most` at a time; each message goes to `messages`, the last of a lane is `over`."""

    def __init__(self, folder: Path, offers: Offers, record: Record, sweep: str, messages: "queue.Queue[Message]") -> None:
        self._folder, self._offers, self._record, self._sweep, self._messages = folder, offers, record, sweep, messages
        refused = offers.refused
        self._waiting = [lane for lane in offers.lanes if lane.rent and lane.name not in refused]
        self._pipes: dict[str, Any] = {}
        self._stopped = False
        launch = self._waiting[0].jobs[0].made.config.launch if self._waiting else None
        self._most = launch.max_clusters if launch else 1
        self._shares = shares(offers.bills_usd, launch.max_usd if launch else None)

    @property
    def busy(self) -> bool:
        """Whether a lane runs or waits."""
        return bool(self._pipes) or bool(self._waiting)

    def start(self) -> None:
        """Start as many lanes as may run at once."""
        while self._waiting and len(self._pipes) < self._most and not self._stopped:
            self._begin(self._waiting.pop(0))

    def over(self, name: str) -> None:
        """Take note that a lane's process has ended."""
        self._pipes.pop(name).close()

    def stop(self) -> list[Lane]:
        """Interrupt those that run (again: in a hurry); return those that will not begin."""
        self._stopped = True
        for pipe in self._pipes.values():
            try:
                pipe.send(lanes.STOP)
            except OSError:
                continue  # it is ending anyway
        waiting, self._waiting = self._waiting, []
        return waiting

    def _begin(self, lane: Lane) -> None:
        offered = self._offers.by_lane[lane.name]
        spec = lanes.Spec(
            lane.name, self._folder / "clusters" / lane.name, lane.jobs, offered.choices(),
            offered.settings(self._shares.get(lane.name)), self._sweep, self._record.where, self._record.parent_id,
        )  # fmt: skip
        here, there = multiprocessing.get_context("spawn").Pipe()
        process = multiprocessing.get_context("spawn").Process(target=lanes.main, args=(spec, there), name=lane.name)
        process.start()
        there.close()
        self._pipes[lane.name] = here
        threading.Thread(target=self._read, args=(lane.name, here, process.join), daemon=True, name=lane.name).start()

    def _read(self, name: str, pipe: Any, join: Callable[[], None]) -> None:
        """Pass on what a lane says; a process that ends without its last word has been killed."""
        said = ""
        while said != "over":
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                reason = "its process was killed; python -m runner.launch status says what it left"
                message = {"kind": "over", "reason": reason, "lines": [], "confirmed": False}
            said = message["kind"]
            if said == "over":
                join()
            self._messages.put((name, message))


def shares(bills_usd: dict[str, float], max_usd: float | None) -> dict[str, float]:
    """Return what each lane may cost of `max_usd`: in proportion to its estimated bill. No limit is none for any."""
    if max_usd is None:
        return {}
    total = sum(bills_usd.values())
    return {name: max_usd * (bill / total if total else 1 / len(bills_usd)) for name, bill in bills_usd.items()}
