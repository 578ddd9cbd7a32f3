"""Runs the worker as a child process on this machine: the in-process twin of a rented target.

The child imports torch while its launcher gets ready, takes jobs one after the other, and ends itself when the launcher dies. The
launcher reads the journals, never the child's memory: whatever happens to the child, what it wrote is what there is.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import runner
from runner import journal
from runner.errors import EXIT_INTERRUPTED, EXIT_REQUEST, JobError, RequestError
from runner.launch.bring import message
from runner.sinks import Sink

LOG = "worker.log"
GRACE_S = 15.0
"""How long an interrupted worker may take to write its last words before it is killed."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended: `complete`, `partial`, `failed` or `interrupted`, and why."""

    status: str
    reason: str


class Worker:
    """A worker process on this machine, which measures the run folders that it is given, each with its `job.json`."""

    def __init__(self, folder: Path, gpu_uuid: str | None = None) -> None:
        """Start the process, which imports and waits; what it says before its first job is logged in `folder`.

        `gpu_uuid` is the one GPU that it may see (None: as it is here). Raises RequestError when the folder can't be written.
        """
        self._log = folder / LOG
        source = str(Path(runner.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        try:
            with open(self._log, "ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "runner.worker", "--serve"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env={**os.environ, "PYTHONPATH": path, **({"CUDA_VISIBLE_DEVICES": gpu_uuid} if gpu_uuid else {})},
                    start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the child in order
                )
        except OSError as error:
            raise RequestError(
                f"can't start a worker in {folder}: {error.strerror}; name another folder with run_dir=DIR"
            ) from error

    @property
    def is_alive(self) -> bool:
        """Whether it can take another job."""
        return self._process.poll() is None

    def run(self, folder: Path, sinks: Sequence[Sink]) -> Outcome:
        """Have the job in `folder` measured, hand every event and progress report to the sinks, return how the run ended.

        A first Ctrl-C lets the worker write its last words, a second one kills it. Raises RequestError when the worker refuses
        the job or the folder.
        """
        run = _Run(folder, sinks)
        interrupted, code = False, None
        try:
            self._order(folder)
            code = self._follow(run)
        except KeyboardInterrupt:
            interrupted = True
            self.stop()
        run.deliver()
        if code is None:
            code = self._process.wait()
        return self._outcome(run, code, interrupted)

    def interrupt(self, force: bool = False) -> None:
        """Have the child write its last words and end; by `force`, at once. Does not wait."""
        if self.is_alive:
            os.killpg(self._process.pid, signal.SIGKILL) if force else self._process.send_signal(signal.SIGINT)

    def stop(self) -> None:
        """End the child: politely, then by force."""
        try:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def close(self) -> None:
        """Let the child end: it has no more to do."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self.stop()

    def _order(self, folder: Path) -> None:
        assert self._process.stdin is not None
        order = json.dumps({"job": str(folder / "job.json"), "out": str(folder)})
        with contextlib.suppress(BrokenPipeError):  # it died first; its log and exit code say why
            self._process.stdin.write(order.encode() + b"\n")
            self._process.stdin.flush()

    def _follow(self, run: "_Run") -> int | None:
        """Take what the worker says until the job is over; return its exit code, None when the worker has ended."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            said = message(line)
            if "done" in said:
                return int(said["done"])
            run.take(said)
        return None

    def _outcome(self, run: "_Run", code: int, interrupted: bool) -> Outcome:
        last_words = self._last_words(run.folder)
        if interrupted or code == EXIT_INTERRUPTED:
            return Outcome("interrupted", f"interrupted; the same command with run_dir={run.folder} continues it")
        if code == EXIT_REQUEST:
            raise RequestError(last_words.removeprefix("error: ") or "the worker refused the job")
        events = journal.read(run.folder)
        if not events:
            raise JobError(
                f"the worker ended before its first word (exit code {code}): {last_words or 'see ' + str(run.folder / LOG)}"
            )
        status, reason = journal.final_status(events)
        if code < 0 and status != "complete":
            return Outcome("partial", f"the worker was killed by {signal.Signals(-code).name}; what it measured is kept")
        return Outcome(status, run.unwritten or reason)

    def _last_words(self, folder: Path) -> str:
        """Return the last line that the worker printed."""
        for path in (folder / LOG, self._log):
            lines = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
            if lines:
                return lines[-1]
        return ""


class _Run:
    """One run folder while its job is being measured."""

    def __init__(self, folder: Path, sinks: Sequence[Sink]) -> None:
        self.folder, self._sinks = folder, sinks
        self.unwritten = ""  # why the journal lacks its last word, when the worker could still say so
        self._follower = journal.Follower(folder)  # from the beginning: a continued run is shown and recorded whole

    def take(self, said: dict[str, object]) -> None:
        """Hand on what the worker says."""
        if "journal" in said:
            self.deliver()
        elif "unwritten" in said:
            self.unwritten = str(said["unwritten"])
        elif isinstance(progress := said.get("progress"), dict):
            for sink in self._sinks:
                sink.progress(progress)

    def deliver(self) -> None:
        """Hand on the events that the journal has by now."""
        for event in self._follower.new():
            for sink in self._sinks:
                sink.event(event)
