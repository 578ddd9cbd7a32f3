"""Which processes belong to which lab, and the end of those that a test left behind when it died.

Every process of a lab has the lab's folder in its environment, and the process that started it: where that one is gone, nobody
will stop the lab any more, and the next one does.
"""

import contextlib
import os
import signal
import time
from pathlib import Path

from tests.system.lab.machine import is_alive, numbers, stat

LAB, OWNER = "CROSSOVER_LAB", "CROSSOVER_LAB_OWNER"


def marks(folder: Path, owner: int | None) -> dict[str, str]:
    """Return the variables of a lab's processes; without an owner it runs until somebody stops it."""
    return {LAB: str(folder), OWNER: f"{owner} {_started(owner)}" if owner else ""}


def end_processes(folder: Path) -> None:
    """End the processes of the lab in `folder`, and of every lab whose owner is gone, but for the caller and its parents."""
    spared = {0, pid} if (pid := os.getpid()) else set()
    while (fields := stat(pid)) and (pid := int(fields[1])) not in spared:
        spared.add(pid)
    while found := [pid for pid in numbers() if pid not in spared and _is_to_end(pid, folder)]:
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


def _is_to_end(pid: int, folder: Path) -> bool:
    try:
        lines = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False
    found = dict(line.decode(errors="replace").partition("=")[::2] for line in lines if line.startswith(LAB.encode()))
    if LAB not in found or not is_alive(pid):
        return False
    owner = found.get(OWNER, "").split()
    return found[LAB] == str(folder) or (len(owner) == 2 and _started(int(owner[0])) != owner[1])


def _started(pid: int) -> str:
    """Return when a process started, in ticks since the machine did; empty when there is no such process."""
    return "".join(stat(pid)[19:20])
