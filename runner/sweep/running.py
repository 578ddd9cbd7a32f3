"""Runs the jobs of a sweep on their machines, all machines at once: this one by a thread, each cluster by a process."""

import queue
import threading
from collections.abc import Iterator, Sequence

from runner.config import RunConfig
from runner.sweep.folder import Sweep
from runner.sweep.here import Here
from runner.sweep.jobs import Lane
from runner.sweep.planning import Offers
from runner.sweep.record import Record
from runner.sweep.rented import Clusters, Message
from runner.sweep.result import Result
from runner.sweep.show import Show


class Running:
    """One batch of jobs while it runs. `interrupted` after Ctrl-C, `stopped` when a failed job ended it (`sweep.fail_fast`)."""

    def __init__(self, sweep: Sweep, config: RunConfig, show: Show, record: Record, offers: Offers, here: Here) -> None:
        self._config, self._show, self._offers, self._here = config, show, offers, here
        self._messages: queue.Queue[Message] = queue.Queue()
        self._clusters = Clusters(sweep.folder, offers, record, sweep.name, self._messages)
        self._results: dict[int, Result] = {}
        self._jobs = {job.index: job for lane in offers.lanes for job in lane.jobs}
        self.interrupted = self.stopped = self.unconfirmed = False
        self.bill: list[str] = []

    def run(self) -> Iterator[Result]:
        """Run the jobs and yield how each ended, as they end; their costs are known when their machine has ended."""
        local = [lane for lane in self._offers.lanes if not lane.rent]
        thread = threading.Thread(target=self._locally, args=(local,), name="here")
        thread.start()
        for name, reason in self._offers.refused.items():
            yield from self._not_run(name, reason)
        self._clusters.start()
        here = True
        while here or self._clusters.busy:
            lane, message = self._messages.get()
            kind = message["kind"]
            if kind == "here over":
                here = False
                if message["crash"] is not None:
                    self._stop()
                    raise message["crash"]
            elif kind == "ended":
                result = Result(self._jobs[message["index"]].entry, message["status"], message["reason"], message["seconds"])
                self._results[message["index"]] = result
                yield result
                if self._config.sweep.fail_fast and not result.ok and not self.stopped:
                    self.stopped = True
                    self._stop()
            elif kind == "over":
                yield from self._lane_over(lane, message)
            else:
                self._told(lane, kind, message)
        thread.join()

    def interrupt(self) -> None:
        """Stop in order; called again, in a hurry. For a signal handler."""
        self._here.interrupt(force=self.interrupted)
        self.interrupted = True
        self._clusters.stop()

    def _stop(self) -> None:
        self._here.interrupt(force=False)
        self._clusters.stop()

    def _locally(self, local: Sequence[Lane]) -> None:
        """Run the lanes of this machine, one after the other."""
        crash: Exception | None = None
        try:
            for lane in local:
                for result in self._here.run(lane):
                    fields = {"index": result.entry.index, "status": result.status, "reason": result.reason}
                    self._messages.put((lane.name, {"kind": "ended", "seconds": result.seconds, **fields}))
        except Exception as error:  # a bug of ours, raised in the main thread
            crash = error
        self._messages.put(("", {"kind": "here over", "crash": crash}))

    def _lane_over(self, name: str, message: dict[str, object]) -> Iterator[Result]:
        """Take note of the end of a cluster; its jobs that did not end have not run."""
        self._clusters.over(name)
        self.bill += [f"{line}" for line in message["lines"]]  # type: ignore[attr-defined] # it is a list
        self.unconfirmed = self.unconfirmed or not message["confirmed"]
        yield from self._not_run(name, str(message["reason"]) or "its machine was ended before it")
        self._clusters.start()

    def _not_run(self, name: str, reason: str) -> Iterator[Result]:
        """Yield the jobs of a lane that have no result yet."""
        lane = next(one for one in self._offers.lanes if one.name == name)
        for job in lane.jobs:
            if job.index not in self._results:
                self._results[job.index] = Result(job.entry, "not run", reason)
                yield self._results[job.index]

    def _told(self, lane: str, kind: str, message: dict[str, object]) -> None:
        if kind == "started":
            self._show.started(lane, self._jobs[int(str(message["index"]))].entry)
        elif kind == "progress":
            self._show.progress(lane, message["progress"])  # type: ignore[arg-type] # a mapping, from another process
        elif kind == "warn":
            self._show.warn(lane, str(message["line"]))
        elif kind == "alarm":
            self._show.alarm(str(message["line"]))
        elif kind == "costs":
            for index, usd in dict(message["costs"]).items():  # type: ignore[call-overload] # a mapping as well
                if index in self._results:
                    self._results[index].cost_usd = usd
