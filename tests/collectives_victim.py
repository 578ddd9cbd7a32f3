"""A process with another rank, for tests/test_collectives.py: `python -m tests.collectives_victim`.

It prints the rank's process id, replaces itself while that waits in a collective, as the watchdog does, and prints what is left:
whether the rank is there, and its own sockets. Then it starts another, which waits in a collective too, and waits to be killed.
"""

import contextlib
import json
import os
import sys
import threading
import time

import torch

from runner.worker.workload import Context
from workloads.collectives import WORKLOAD, inputs

GLOO = WORKLOAD.variants["gloo"]


def stuck() -> list[int]:
    """Start a rank that waits for this one in a collective."""
    torch.set_num_threads(1)
    context = Context(torch.device("cpu"), {}, torch.Generator().manual_seed(0))
    session, _ = GLOO.prepare(inputs({"collective": "all_reduce", "ranks": 2, "bytes": 1024, "dtype": "fp32"}, context))
    session.group.order("run")
    return [peer.pid for peer in session.group._peers]


def sockets() -> list[str]:
    """Return the sockets that this process has open, beside the three standard streams."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found += [os.readlink(f"/proc/self/fd/{name}")] if int(name) > 2 else []
    return [name for name in found if name.startswith("socket:")]


def say(**found: object) -> None:
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    if len(sys.argv) == 1:
        pids = stuck()
        say(pids=pids)
        command = [sys.executable, "-m", "tests.collectives_victim", *map(str, pids)]
        threading.Thread(target=lambda: os.execv(sys.executable, command)).start()
    else:
        left = [pid for pid in sys.argv[1:] if os.path.exists(f"/proc/{pid}")]
        say(left=left, sockets=sockets())
        say(pids=stuck())
    time.sleep(600)
