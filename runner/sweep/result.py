"""What became of each job of a sweep, and all of them in a table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from runner import columns, cost, units
from runner.sweep.folder import SweepJob

MOST_ROWS = 60
"""A longer table is left to report.md; what failed is always told."""
HEADERS = ("job", "status", "time", "cost", "what", "why not")


@dataclass
class Result:
    """How a job ended: `status` is a run's, or `kept` (complete before), `same` (as another) or `not run`; `seconds` it took."""

    entry: SweepJob
    status: str
    reason: str = ""
    seconds: float | None = None
    cost_usd: float | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing is left to do for it."""
        return self.status in ("complete", "kept", "same")


def table(results: Sequence[Result]) -> list[str]:
    """Return the table of all jobs, or, when they are many, of those with something to say."""
    shown = list(results) if len(results) <= MOST_ROWS else [one for one in results if not one.ok]
    rows = []
    for one in shown:
        seconds = "" if one.seconds is None else units.duration(one.seconds)
        paid = "" if one.cost_usd is None else cost.usd(one.cost_usd)
        rows.append((str(one.entry.index), one.status, seconds, paid, one.entry.name, one.reason))
    lines = columns.aligned(HEADERS, rows) if shown else []
    if len(shown) < len(results):
        lines.append(f"... and {len(results) - len(shown)} more, all as they should be")
    return lines


def counts(results: Sequence[Result]) -> str:
    """Say how many ended how: `10 complete, 1 failed`."""
    return ", ".join(f"{count} {status}" for status, count in Counter(one.status for one in results).items()) or "no jobs"
