"""Ends a call that never returns: a thread that acts when an armed deadline passes while the main thread is stuck."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Watchdog:
    """Calls `act(what)` once when a guarded block outlasts its limit; `act` replaces the process, stuck work and all."""

    def __init__(self, act: Callable[[str], None]) -> None:
        self._act = act
        self._armed: tuple[Callable[[], str], float] | None = None
        self._over = threading.Event()
        threading.Thread(target=self._watch, daemon=True, name="watchdog").start()

    @contextmanager
    def guard(self, what: Callable[[], str], limit_s: float) -> Iterator[None]:
        """Give the block `limit_s` seconds; `what` tells then what is stuck."""
        self._armed = (what, time.monotonic() + limit_s)
        try:
            yield
        finally:
            self._armed = None

    def close(self) -> None:
        """End the thread."""
        self._over.set()

    def _watch(self) -> None:
        while not self._over.wait(0.2):
            armed = self._armed
            if armed and time.monotonic() > armed[1]:
                self._armed = None
                self._act(armed[0]())
