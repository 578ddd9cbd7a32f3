"""Follows the worker on a cluster: takes its journals and log home until it has ended, over as many connections as that takes."""

import contextlib
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import journal
from runner.errors import EXIT_INTERRUPTED, EXIT_REQUEST, JobError
from runner.launch import bring, task
from runner.launch.local import Outcome
from runner.launch.skypilot import Sky
from runner.launch.watch import JobWatch
from runner.units import duration

GRACE_S = 15.0
"""How long an interrupted worker may take to write its last words."""
MARGIN_S = 180.0
"""How long after its time limit a node that says nothing is given up."""
UNWELL_S = 180.0
"""How long SkyPilot may call a cluster abnormal (INIT) before it is given up: a node that restarts comes back."""
UNREACHABLE_S = 300.0
"""How long a cluster that SkyPilot calls UP may be out of reach while SkyPilot itself answers: it costs money meanwhile."""
QUIET_S = 5.0
"""How long a node must have had nothing new to say before a job that SkyPilot calls over is taken for one."""
RECONNECT_S = (0.5, 1.0, 2.0, 5.0, 10.0)
TIME_LIMIT = 124
"""The exit code of timeout(1)."""
SETUP_FAILED = 100
"""What sky/worker.yaml writes as exit code when set-up failed."""
LOST = "lost"
"""The status of a run whose node is gone."""


@dataclass
class Run:
    """A run on both machines: its folder here, with its journal, and where the worker writes it to on the node."""

    folder: Path
    home: bring.Journal
    again: str
    """What to type to go on with it, for a message."""
    out: str = task.OUT


class Following:
    """The worker of one cluster, from the submission of its job to its end; its runs are followed one after the other.

    `folder` is where the node's log goes. `came` is told of each journal event that is home, by its name; `enough` is asked many
    times a second and ends the run when it gives a reason; `phase` and `progress` are for the display.
    """

    def __init__(
        self,
        sky: Sky,
        cluster: str,
        job_id: int | None,
        folder: Path,
        limit_s: float,
        setup_limit_s: float,
        *,
        came: Callable[[str], None],
        enough: Callable[[], str],
        phase: Callable[[str], None],
        progress: Callable[[dict[str, Any]], None],
    ) -> None:
        """Get ready; `limit_s` is the worker's time limit on the node, `setup_limit_s` how long it may take to start."""
        self._sky, self._cluster, self._folder, self._limit_s = sky, cluster, folder, limit_s
        self._came, self._enough, self._phase, self._progress = came, enough, phase, progress
        self._watch = JobWatch(sky, cluster, job_id)
        self._node: bring.Node | None = None
        self._run: Run | None = None
        self._log_size = 0
        self._started = False
        self._deadline = time.monotonic() + setup_limit_s
        self._heard = False
        self._unwell_since: float | None = None
        self._cut_since: float | None = None
        self.is_over = False
        """Whether nothing more will come: the worker was stopped, or its time is up."""

    def run(self, run: Run) -> Outcome:
        """Take a run's journal home until the worker is done with it; return how it went, `lost` when the node is gone."""
        self._run, self._heard = run, False  # of an earlier run: the job may be over before this one is asked for
        if not self._started:
            self._phase("set-up")
        failures = 0
        while True:
            try:
                if self._node is None:
                    self._node = bring.Node(self._sky.ssh_options(self._cluster), self._cluster)
                return self._outcome(run, self._stream(self._node, run))
            except _Ended as ended:
                self.is_over = True
                return ended.outcome
            except (ConnectionError, JobError) as error:
                failures = 1 if self._heard else failures + 1
                self._heard = False
                if time.monotonic() > self._deadline:
                    return Outcome(LOST, f"the node could not be reached until its time limit had passed ({error})")
                if reason := self._enough():  # the worker can't be asked to stop; its cluster will end it
                    self.is_over = True
                    return Outcome("partial", f"{reason} and continue with {run.again}")
                self._phase("reconnecting")
                if failures > 1 and (lost := self._without_connection()):
                    return lost
                time.sleep(RECONNECT_S[min(failures, len(RECONNECT_S)) - 1])

    def stop_worker(self) -> None:
        """Let a worker that measures write its last words, and bring them home."""
        if self._node is None or self._run is None or not self._started:
            return
        self._phase("stopping the worker")
        with contextlib.suppress(ConnectionError, JobError, OSError):
            stream = bring.Stream(self._node, self._run.home.size, self._log_size, self._run.out)
            try:
                stream.stop()
                until = time.monotonic() + GRACE_S
                while time.monotonic() < until:
                    line = stream.next(0.25)
                    if line and self._take(self._run, line) is not None:
                        break
            finally:
                stream.close()

    def close(self) -> None:
        """Ask no more what becomes of the job."""
        self._watch.stop()

    def _stream(self, node: bring.Node, run: Run) -> int:
        """Take lines from one connection until the run's exit code comes. Raises ConnectionError when it breaks."""
        stream = bring.Stream(node, run.home.size, self._log_size, run.out)
        news = time.monotonic()
        try:
            while True:
                line = stream.next(0.25)
                if line is not None:
                    if not self._heard or not line.startswith(b'{"beat"'):
                        news = time.monotonic()
                    self._heard, self._unwell_since, self._cut_since = True, None, None
                    code = self._take(run, line)
                    if code is not None:
                        return code
                elif self._heard and time.monotonic() - news > QUIET_S and self._watch.over():
                    raise _Ended(LOST, f"the job on the instance was ended from outside (SkyPilot says {self._watch.state})")
                if not self._started and time.monotonic() > self._deadline:
                    raise _Ended("failed", "the worker did not start in time; raise launch.setup_minutes")
                if reason := self._enough():
                    self.stop_worker()
                    raise _Ended("partial", f"{reason} and continue with {run.again}")
        except ConnectionError:
            raise
        except OSError as error:
            raise _Ended("partial", f"can't write the journal here: {error.strerror}") from error
        finally:
            stream.close()

    def _take(self, run: Run, line: bytes) -> int | None:
        """Take one line of the stream; return the run's exit code when that is what it says."""
        found = bring.message(line)
        if "event" in found:
            run.home.append(line)
            if not self._started:
                self._started, self._deadline = True, time.monotonic() + self._limit_s + MARGIN_S
            self._came(str(found["event"]))
        elif "progress" in found:
            self._progress(found["progress"])
        elif "ready" in found:
            self._phase("starting")
        elif "log" in found:
            self._log_size = int(found["to"])
            with contextlib.suppress(OSError), open(self._folder / bring.LOG, "a") as log:
                log.write(found["log"] + "\n")
        elif "truncated" in found:
            raise _Ended(LOST, "the journal on the node is shorter than the one here")
        elif "exit" in found:
            return 1 if found["exit"] is None else int(found["exit"])
        return None

    def _without_connection(self) -> Outcome | None:
        """Ask SkyPilot about a node that can't be reached; return how the run ended, None when it may go on."""
        try:
            state = self._sky.cluster_state(self._cluster, refresh=True)
        except JobError:
            return None  # whatever keeps us from the node may keep us from SkyPilot too
        now = time.monotonic()
        self._cut_since = self._cut_since or now
        self._unwell_since = (self._unwell_since or now) if state == "INIT" else None
        if state in (None, "STOPPED") or (self._unwell_since is not None and now - self._unwell_since > UNWELL_S):
            return Outcome(LOST, "the instance was lost" + (f" (SkyPilot says {state})" if state else ""))
        if now - self._cut_since > UNREACHABLE_S:
            minutes = f"{UNREACHABLE_S / 60:g} min"
            return Outcome(LOST, f"the instance could not be reached for {minutes}, though SkyPilot says {state}")
        self._node = None  # the way to it may have changed
        return None

    def _outcome(self, run: Run, code: int) -> Outcome:
        """Say how a run went by its exit code and its journal."""
        more = f"continue with {run.again}"
        if code == SETUP_FAILED:
            return Outcome("failed", f"set-up on the node failed: {self._last_words()}; see {self._folder / bring.LOG}")
        if code == TIME_LIMIT:
            limit = f"the time limit of {duration(self._limit_s)} was reached"
            return Outcome("partial", f"{limit}; raise launch.max_minutes and {more}")
        if code == EXIT_REQUEST:
            return Outcome("failed", f"the worker refuses the job: {self._last_words().removeprefix('error: ')}")
        events = journal.read(run.folder)
        if not events:
            return Outcome("failed", f"the worker ended before its first word (exit code {code}): {self._last_words()}")
        status, reason = journal.final_status(events)
        if code > 128 and code != EXIT_INTERRUPTED and status != "complete":
            return Outcome("partial", f"the worker was killed by {_signal(code - 128)}; what it measured is kept, {more}")
        return Outcome(status, reason)

    def _last_words(self) -> str:
        """Return the last line of what the node printed."""
        path = self._folder / bring.LOG
        lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
        return lines[-1] if lines else "it left no message"


class _Ended(JobError):
    """The run is over before the worker said so."""

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.outcome = Outcome(status, reason)


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
