"""Where a run's events go: displays and recorders share this role, and the launcher knows nothing else of them."""

from typing import Any, Protocol

from runner.journal import Event


class Sink(Protocol):
    """Gets every event of a run; must neither block for long nor raise, since the machine being measured is waiting."""

    def event(self, event: Event) -> None:
        """Take one journal event; they come in the journal's order."""

    def progress(self, progress: dict[str, Any]) -> None:
        """Take a live progress report (see docs/journal.md); they may be missed or come late."""

    def finish(self, status: str, reason: str) -> None:
        """Take the end, once: `complete`, `partial`, `failed` or `interrupted`, and why ("" when complete)."""
