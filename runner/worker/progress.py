"""What the worker says on stdout while it runs: JSON lines for a launcher, or sentences for a person who started it by hand."""

import json
import math
import sys
import time
from typing import Any

from runner.journal import Event, case_key

PERIOD_S = 0.2


class Progress:
    """Prints where the job is, at most five times a second as JSON; measurements as sentences otherwise."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._last = 0.0
        self._where: dict[str, Any] = {}

    def ready(self, import_s: float) -> None:
        """Say that the imports are done."""
        if self._as_json:
            self._print({"ready": True, "import_s": round(import_s, 3)})

    def case(self, index: int, total: int, axes: dict[str, Any]) -> None:
        """Say which case comes next."""
        self._where = {"index": index, "total": total, "case": axes}
        self("start", variants=[])

    def __call__(self, stage: str, variants: list[str], precision: dict[str, float] | None = None) -> None:
        """Say what is being done to which variants, and how precise their medians are by now."""
        now = time.monotonic()
        if self._as_json and (now - self._last >= PERIOD_S or stage == "start"):
            self._last = now
            known = {name: round(value, 5) for name, value in (precision or {}).items() if math.isfinite(value)}
            self._print({"progress": {**self._where, "stage": stage, "variants": variants, "precision": known}})

    def written(self, event: Event) -> None:
        """Say that the journal has grown."""
        if self._as_json:
            self._print({"journal": event["event"]})
        elif event["event"] == "measurement":
            print(f"{case_key(event['case'])} {event['variant']}: {_result(event)}", flush=True)
        elif event["event"] == "job_finished":
            print(f"{event['status']}{': ' + event['reason'] if event['reason'] else ''}", flush=True)

    def _print(self, record: dict[str, Any]) -> None:
        try:
            print(json.dumps(record), flush=True)
        except BrokenPipeError:  # the launcher is gone; the stdin watcher ends this process
            sys.stdout = open("/dev/null", "w")  # noqa: SIM115 - replaces stdout for the rest of the process


def _result(event: Event) -> str:
    statistics = event.get("statistics")
    if not statistics:
        return f"{event['status']} ({event['reason']})"
    interval = f"{statistics['median_ms']:.4g} ms [{statistics['ci_low_ms']:.4g}, {statistics['ci_high_ms']:.4g}]"
    return f"{interval} {event['status']}"
