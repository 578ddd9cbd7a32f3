"""`python -m runner -m sweep.resume=NAME` alone repeats what was typed for that sweep."""

from collections.abc import Sequence
from pathlib import Path

from runner.sweep import folder as folders

BESIDE = ("sweep.", "out=", "display=", "launch.max_usd=", "launch.max_clusters=", "launch.dry_run=", "tracking")
"""What may be said of a sweep that is resumed; with anything else the whole of it has to be typed."""


def overrides(typed: Sequence[str]) -> tuple[list[str], bool]:
    """Return the overrides of the command line, and whether they are those of an earlier sweep.

    Raises RequestError when there is no such sweep.
    """
    name = next((one.partition("=")[2] for one in typed if one.startswith("sweep.resume=")), "null")
    if name == "null" or not all(one.startswith(BESIDE) for one in typed):
        return list(typed), False
    out = Path(next((one.partition("=")[2] for one in typed if one.startswith("out=")), "outputs"))
    before = folders.find(out, name).overrides
    new = {one.partition("=")[0] for one in typed}
    return [*(one for one in before if one.partition("=")[0] not in {*new, "sweep.name", "sweep.resume"}), *typed], True
