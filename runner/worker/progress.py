"""What the worker says on stdout while it runs: JSON lines for a launcher, or sentences for a person who started it by hand."""

import contextlib
import json
import math
import os
import time
from typing import Any

from runner.journal import Event, case_key

PERIOD_S = 0.2


class Progress:
    """Prints where the job is, at most five times a second as JSON; measurements as sentences otherwise.

    JSON goes to the file descriptor `channel`, which is this program's alone: what a workload prints can't be mistaken for
    it, and what a workload starts can't keep it open.
    """

    def __init__(self, channel: int | None) -> None:
        self._channel = channel
        self._last = 0.0
        self._where: dict[str, Any] = {}

    def ready(self, import_s: float) -> None:
        """Say that the imports are done."""
        if self._channel is not None:
            self._print({"ready": True, "import_s": round(import_s, 3)})

    def done(self, code: int) -> None:
        """Say that a job is over, with its exit code; the launcher may send the next."""
        if self._channel is not None:
            self._print({"done": code})

    def case(self, index: int, total: int, axes: dict[str, Any]) -> None:
        """Say which case comes next."""
        self._where = {"index": index, "total": total, "case": axes}
        self("start", variants=[])

    def __call__(self, stage: str, variants: list[str], precision: dict[str, float] | None = None) -> None:
        """Say what is being done to which variants, and how precise their medians are by now."""
        now = time.monotonic()
        if self._channel is not None and (now - self._last >= PERIOD_S or stage == "start"):
            self._last = now
            known = {name: round(value, 5) for name, value in (precision or {}).items() if math.isfinite(value)}
            self._print({"progress": {**self._where, "stage": stage, "variants": variants, "precision": known}})

    def written(self, event: Event) -> None:
        """Say that the journal has grown."""
        if self._channel is not None:
            self._print({"journal": event["event"]})
        elif event["event"] == "measurement":
            self._say(f"{case_key(event['case'])} {event['variant']}: {_result(event)}")
        elif event["event"] == "job_finished":
            self._say(f"{event['status']}{': ' + event['reason'] if event['reason'] else ''}")

    def unwritten(self, reason: str) -> None:
        """Say what the journal can't hold any more."""
        if self._channel is not None:
            self._print({"unwritten": reason})
        else:
            self._say(f"partial: {reason}")

    def _print(self, record: dict[str, Any]) -> None:
        assert self._channel is not None
        with contextlib.suppress(BrokenPipeError):  # the launcher is gone; the watch on stdin ends this process
            os.write(self._channel, json.dumps(record).encode() + b"\n")

    def _say(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # whoever read along has enough; the journal goes on
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _result(event: Event) -> str:
    statistics = event.get("statistics")
    if not statistics:
        return f"{event['status']} ({event['reason']})"
    interval = f"{statistics['median_ms']:.4g} ms [{statistics['ci_low_ms']:.4g}, {statistics['ci_high_ms']:.4g}]"
    return f"{interval} {event['status']}"
