"""What a person, or a script, sees of a run: one display per way of looking at it."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, TextIO

from runner.errors import RequestError, nearest
from runner.sinks import Sink

MODES = ("auto", "rich", "plain", "quiet", "jsonl")


class Display(Sink, Protocol):
    """A sink that is looked at: `opening`, then the run's events, `finish`, `closing`; `close` where it ends otherwise.

    Its `progress` takes phases too: `{"phase": "provisioning", "detail": "runpod RTX4090", "spent_usd": 0.03}`, before, between
    and after cases; `spent_usd` (so far, None where not known) may also come with a case's progress.
    """

    def opening(self, job: Mapping[str, Any], folder: Path) -> None:
        """Say what will run (a job's plain data) and where it is written to."""

    def warn(self, line: str) -> None:
        """Show a warning that is not in the journal. May be called from another thread."""

    def alarm(self, line: str) -> None:
        """Show what must not be overlooked, at any time, also after the end. May be called from another thread."""

    def close(self) -> None:
        """Leave the screen to whoever prints next, without a word; may be called at any time, and again."""

    def closing(self, lines: list[str]) -> None:
        """Say where the results are, after `finish`."""


def for_mode(mode: str, stream: TextIO) -> Display:
    """Return the display for `mode` on `stream`; `auto` is rich on a terminal and plain lines elsewhere.

    Raises RequestError for an unknown mode.
    """
    if mode not in MODES:
        raise RequestError(f"display={mode}: expected one of {', '.join(MODES)}; {nearest(mode, MODES)}")
    if mode == "auto":
        mode = "rich" if stream.isatty() and os.environ.get("TERM") != "dumb" else "plain"
    if mode == "rich":
        from runner.display.rich import Rich  # rich takes a moment to import; scripts don't pay for it

        return Rich(stream)
    from runner.display.text import JsonLines, Plain, Quiet

    displays: dict[str, Callable[[TextIO], Display]] = {"plain": Plain, "quiet": Quiet, "jsonl": JsonLines}
    return displays[mode](stream)


__all__ = ["MODES", "Display", "for_mode"]
