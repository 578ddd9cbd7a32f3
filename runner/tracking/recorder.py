"""Records a run in MLflow while it goes on, from a thread of its own: the run never waits for the store and never fails with it.

A store that goes away is asked again with growing pauses; what it missed is in the journal, and
`python -m runner.tracking DIR` sends it later.
"""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from runner import rental
from runner.journal import Event, Follower
from runner.tracking.store import Place, scrub, ui_hint
from runner.tracking.upload import Upload, locked

FLUSH_S = 2.0
BACK_OFF_S = (2.0, 5.0, 15.0, 30.0, 60.0)
STALL_S, FILE_STALL_S = 25.0, 120.0
"""Without an answer of a server; of an SQLite file, which this process makes itself while others have the processors."""


class Recorder:
    """A sink that keeps MLflow up to the journal in `folder`.

    `event` only wakes the thread, which reads the journal itself: that way recording live and sending later count the same
    events. `problem` is what went wrong, None when all went well.
    """

    def __init__(
        self,
        folder: Path,
        where: Place,
        tags: Mapping[str, Any] | None = None,
        parent_run_id: str | None = None,
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        """Get ready to record; writes `mlflow.json`, nothing else yet.

        `tags` are the run's (target, the user's); what is known only later goes to `retag`. `tell` gets one line when the store
        goes away, from the recording thread.
        """
        self.folder, self.where, self._tell = folder, where, tell
        self.problem: str | None = None
        self._upload = Upload(folder, where, tags, parent_run_id)
        self._upload.state.status = None
        self._upload.save()
        self._wake, self._over = threading.Event(), threading.Event()
        self._end: tuple[str, str] | None = None
        self._moved = time.monotonic()
        self._events: list[Event] = []
        self._follower = Follower(folder)
        self._thread = threading.Thread(target=self._record, name="mlflow", daemon=True)

    def event(self, event: Event) -> None:
        """Take note that the journal has grown."""
        if self._thread.ident is None:
            self._thread.start()
        self._wake.set()

    def progress(self, progress: dict[str, Any]) -> None:
        """Live progress is not recorded."""

    def retag(self, tags: Mapping[str, Any]) -> None:
        """Add to the run's tags, or change them: what was rented, say. Any thread may call it, at any time before `finish`.

        Never raises. A value of None is no tag.
        """
        with contextlib.suppress(OSError):  # a full disk; the recording thread has them, and tries to write them again
            self._upload.retag(tags)
        self._wake.set()

    def finish(self, status: str, reason: str) -> None:
        """Send the rest and end the run; returns as soon as that is done, or nothing has moved for STALL_S.

        A run for which something was rented is recorded even if no worker started: `launch.json` must be in its last state.
        """
        self._upload.state.status, self._upload.state.reason = status, reason
        try:
            self._upload.save()
        except OSError as error:  # a full disk; the recording thread still tries to close the run
            self.problem = f"can't write {self.folder}: {error.strerror}"
        self._end = (status, reason)
        self._moved = time.monotonic()
        self._over.set()
        self._wake.set()
        if self._thread.ident is None:
            if not (self.folder / rental.NAME).exists():
                return
            self._thread.start()
        stall_s = FILE_STALL_S if self.where.database_file else STALL_S
        while self._thread.is_alive() and time.monotonic() - self._moved < stall_s:
            self._thread.join(0.2)
        if self._thread.is_alive():
            self.problem = f"MLflow at {self.where.shown} does not answer"

    @property
    def run_id(self) -> str | None:
        """The run's id in MLflow, None as long as there is none."""
        return self._upload.state.run_id

    def lines(self) -> list[str]:
        """Say where the run is in MLflow, or how to bring it there later."""
        if self.problem:
            return [f"not recorded in MLflow ({self.problem})", f"later: python -m runner.tracking {self.folder}"]
        if self.run_id is None:
            return ["not recorded in MLflow: the worker never started"]
        return ui_hint(self.where, self._upload.state.experiment_id, self.run_id)

    def _record(self) -> None:
        step_back()
        failures = 0
        while True:
            over = self._over.is_set()
            try:
                with locked(self.folder, wait_s=0 if not over else 5):
                    self._bring_up(over)
                failures, self.problem = 0, None
            except Exception as error:  # whatever MLflow, its drivers or the network raise, the run goes on
                failures += 1
                self.problem = scrub(str(error).partition("\n")[0] or type(error).__name__, self.where.uri)[:300]
                self._upload.reconnect()
                if failures == 1 and not over:
                    self._tell(f"MLflow: {self.problem}; the run goes on, trying again")
            self._moved = time.monotonic()
            if over:
                return
            pause = BACK_OFF_S[min(failures, len(BACK_OFF_S)) - 1] if failures else FLUSH_S
            self._over.wait(pause)  # events gather meanwhile; the end cuts it short
            self._wake.wait()
            self._wake.clear()

    def _bring_up(self, over: bool) -> None:
        # The journal is complete when the run is over, so what is read after that is all of it.
        self._events += self._follower.new()
        self._upload.push(self._events, self._progressed)
        if over and self._end:
            self._upload.close(*self._end, self._events, self._progressed)

    def _progressed(self) -> None:
        self._moved = time.monotonic()


def step_back() -> None:
    """Let this thread run only where nobody else wants the processor: it may be what is being measured."""
    with contextlib.suppress(OSError, AttributeError):  # not on Linux; then it shares
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
