"""How far each job of a sweep is, from the end of its journal: what a thousand jobs are asked before anything else."""

import json
import os
from pathlib import Path
from typing import Any

from runner import journal

TAIL = 1 << 14
"""Bytes read at first: job_finished is a short line."""


def status(folder: Path) -> tuple[str, str]:
    """Return (status, reason) of the run in `folder`, as `journal.final_status`, without reading all of its journal."""
    last = _last_event(folder / journal.NAME)
    if last is None:
        return "missing", "it has not run"
    if last["event"] == "job_finished":
        return str(last["status"]), str(last.get("reason") or "")
    return "partial", "it was ended before its last word"


def _last_event(path: Path) -> dict[str, Any] | None:
    """Return the last complete event of a journal, None when there is none; a torn line is none."""
    try:
        with open(path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            size = TAIL
            while end:
                file.seek(max(0, end - size))
                data = file.read()
                complete = data[: data.rfind(b"\n") + 1].splitlines()
                if len(complete) > 1 or size >= end:
                    return _parse(complete[-1]) if complete else None
                size *= 8
    except OSError:
        return None
    return None


def _parse(line: bytes) -> dict[str, Any] | None:
    """Return an event; None for a damaged line, which the worker that continues the run will name."""
    try:
        found = json.loads(line)
    except ValueError:
        return {"event": "damaged"}
    return found if isinstance(found, dict) and "event" in found else {"event": "damaged"}
