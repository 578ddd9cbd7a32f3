"""Runs the worker as a child process on this machine: the in-process twin of a rented target.

The child imports torch while its launcher gets ready, waits for the go, and ends itself when the launcher dies. The
launcher reads the journal, never the child's memory: whatever happens to the child, what it wrote is what there is.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import runner
from runner import journal
from runner.errors import EXIT_INTERRUPTED, EXIT_REQUEST, JobError, RequestError
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
    """The worker process of one run folder, which holds `job.json`."""

    def __init__(self, folder: Path, gpu_uuid: str | None = None) -> None:
        """Start the process, which imports and waits; `gpu_uuid` is the one GPU that it may see (None: as it is here).

        Raises RequestError when the folder can't be written.
        """
        self.folder = folder
        self._unwritten = ""  # why the journal lacks its last word, when the worker could still say so
        self._follower = journal.Follower(folder)  # from the beginning: a continued run is shown and recorded whole
        source = str(Path(runner.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-m", "runner.worker", str(folder / "job.json"), "--out", str(folder), "--progress", "--wait"]
        try:
            with open(folder / LOG, "ab") as log:
                self._process = subprocess.Popen(
                    command,
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

    def run(self, sinks: Sequence[Sink]) -> Outcome:
        """Give the go, hand every event and progress report to the sinks, and return how the run ended.

        A first Ctrl-C lets the worker write its last words, a second one kills it. Raises RequestError when the worker
        refuses the job or the folder.
        """
        interrupted = False
        try:
            self._say_go()
            self._follow(sinks)
        except KeyboardInterrupt:
            interrupted = True
            self.stop()
            self._deliver(sinks)
        self._deliver(sinks)
        return self._outcome(interrupted)

    def stop(self) -> None:
        """End the child: politely, then by force."""
        try:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(GRACE_S)
        except (subprocess.TimeoutExpired, KeyboardInterrupt):
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _say_go(self) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(b"go\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return  # it died first; its log and exit code say why

    def _follow(self, sinks: Sequence[Sink]) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            message = _parse(line)
            if "journal" in message:
                self._deliver(sinks)
            elif "unwritten" in message:
                self._unwritten = str(message["unwritten"])
            elif "progress" in message:
                for sink in sinks:
                    sink.progress(message["progress"])
        self._process.wait()

    def _deliver(self, sinks: Sequence[Sink]) -> None:
        for event in self._follower.new():
            for sink in sinks:
                sink.event(event)

    def _outcome(self, interrupted: bool) -> Outcome:
        code = self._process.returncode
        last_words = self._last_words()
        if interrupted or code == EXIT_INTERRUPTED:
            return Outcome("interrupted", f"interrupted; the same command with run_dir={self.folder} continues it")
        if code == EXIT_REQUEST:
            raise RequestError(last_words.removeprefix("error: ") or "the worker refused the job")
        events = journal.read(self.folder)
        if not events:
            raise JobError(
                f"the worker ended before its first word (exit code {code}): {last_words or 'see ' + str(self.folder / LOG)}"
            )
        status, reason = journal.final_status(events)
        if code < 0 and status != "complete":
            return Outcome("partial", f"the worker was killed by {signal.Signals(-code).name}; what it measured is kept")
        return Outcome(status, self._unwritten or reason)

    def _last_words(self) -> str:
        """Return the last line of the worker's log."""
        lines = (self.folder / LOG).read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else ""


def _parse(line: bytes) -> dict[str, Any]:
    """Return the message on a line; a workload's own prints are no messages."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}
