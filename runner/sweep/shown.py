"""A job's events and progress on their way to the display of its sweep."""

from collections.abc import Callable
from typing import Any

from runner.journal import Event


class Shown:
    """Passes on what a person should know at once, and where the job is; how it ended the sweep shows itself."""

    def __init__(self, warn: Callable[[str], None], progress: Callable[[dict[str, Any]], None]) -> None:
        self._warn, self._progress = warn, progress

    def event(self, event: Event) -> None:
        """Pass the machine's warnings on."""
        for line in (event.get("warnings") or []) if event["event"] == "job_started" else ():
            self._warn(line)

    def progress(self, progress: dict[str, Any]) -> None:
        """Pass it on."""
        self._progress(progress)

    def finish(self, status: str, reason: str) -> None:
        """Do nothing."""
