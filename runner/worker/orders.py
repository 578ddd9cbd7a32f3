"""The jobs that a launcher sends, a line of JSON each on stdin; when the launcher is gone, the job at hand is interrupted."""

import json
import os
import queue
import signal
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Order:
    """A job file and the run folder that its journal goes to."""

    job: Path
    out: Path


class Orders:
    """What a launcher sends on stdin, `{"job": PATH, "out": DIR}`; it sends the next when it was told `done` of the last."""

    def __init__(self, busy: bool = False) -> None:
        """Start to read; `busy` when a job is being measured already."""
        self._busy, self._gone = busy, False
        self._lock = threading.Lock()
        self._orders: queue.Queue[Order | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True, name="orders").start()

    def done(self) -> None:
        """Be done with a job: from now on a launcher that closes stdin has no more, and interrupts nothing."""
        with self._lock:
            self._busy = False

    def next(self) -> Order | None:
        """Wait for the next job; None when the launcher has no more, or is gone."""
        order = self._orders.get()
        with self._lock:
            self._busy = order is not None and not self._gone
            return order if self._busy else None

    def _read(self) -> None:
        rest = b""
        # os.read, since a thread inside sys.stdin holds a lock that the interpreter wants when it ends
        while data := os.read(0, 4096):
            *lines, rest = (rest + data).split(b"\n")
            for line in filter(None, lines):
                found = json.loads(line)
                self._orders.put(Order(Path(found["job"]), Path(found["out"])))
        with self._lock:
            self._gone = True
            if self._busy:
                os.kill(os.getpid(), signal.SIGTERM)
        self._orders.put(None)
