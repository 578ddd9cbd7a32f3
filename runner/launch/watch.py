"""Looks after SkyPilot's job beside a run, for the case that the node can't say itself how it ended."""

import contextlib
import threading
import time

from runner.errors import JobError
from runner.launch.skypilot import Sky

ASK_S = 30.0
"""How often SkyPilot is asked; the node itself says so at once."""
LAST_WORDS_S = 15.0
OVER = ("SUCCEEDED", "FAILED", "FAILED_SETUP", "FAILED_DRIVER", "CANCELLED")


class JobWatch:
    """Asks SkyPilot now and then what became of its job, beside the run: a journal would have to wait for the answer."""

    def __init__(self, sky: Sky, cluster: str, job_id: int | None) -> None:
        """Begin to ask."""
        self._sky, self._cluster, self._job_id = sky, cluster, job_id
        self.state: str | None = None
        self._since: float | None = None
        self._stop = threading.Event()
        if job_id is not None:
            threading.Thread(target=self._ask, daemon=True, name="job watch").start()

    def over(self) -> bool:
        """Whether the job has been over for so long that its last words would be here."""
        return self._since is not None and time.monotonic() - self._since > LAST_WORDS_S

    def stop(self) -> None:
        """Ask no more."""
        self._stop.set()

    def _ask(self) -> None:
        assert self._job_id is not None
        while not self._stop.wait(ASK_S):
            with contextlib.suppress(JobError):
                self.state = self._sky.job_state(self._cluster, self._job_id)
                if self.state in OVER and self._since is None:
                    self._since = time.monotonic()
