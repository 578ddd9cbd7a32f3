"""Brings the journal of a rented machine home while it grows: line by line, from where it was left, never a line twice.

The node prints, this machine appends. A connection that breaks, or says nothing for a while, is closed and opened again from
the number of bytes that are here.
"""

import contextlib
import errno
import fcntl
import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runner import journal
from runner.errors import RequestError
from runner.launch.task import OUT

LOG = "node.log"
"""What set-up and worker print: in the folder that the worker writes to, and in the run's folder here."""
SILENCE_S = 12.0
"""A node that says nothing for this long is cut off: it sends a heartbeat every two seconds."""
SSH = (
    "ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=10", "-o", "ServerAliveInterval=5", "-o", "ServerAliveCountMax=2",
    "-o", "LogLevel=ERROR", "-o", "ForwardAgent=no",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """How to reach a cluster: ssh's options for it, and its name."""

    options: Sequence[str]
    name: str

    def command(self, line: str) -> list[str]:
        """Return the command that runs a shell line in the folder that travelled."""
        return [*SSH, *self.options, self.name, f"cd ~/sky_workdir && {line}"]

    def run(self, line: str, limit_s: float = 20.0) -> str | None:
        """Return what a shell line prints there, None when the node can't be reached or the line fails."""
        try:
            done = subprocess.run(
                self.command(line), stdin=subprocess.DEVNULL, capture_output=True, timeout=limit_s, start_new_session=True
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.decode(errors="replace") if done.returncode == 0 else None


class Journal:
    """The journal at home, held against other writers; `size` is the bytes of its complete lines."""

    def __init__(self, folder: Path) -> None:
        """Open it and cut a torn last line.

        Raises RequestError when the folder can't be written, or another process writes this journal.
        """
        path = folder / journal.NAME
        try:
            self._file = open(path, "a+b", buffering=0)  # noqa: SIM115 - closed by close()
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RequestError(f"{path} is being written by another process; wait for it or name another folder") from error
        except OSError as error:
            raise RequestError(f"can't write to {folder}: {error.strerror}; name another folder with run_dir=DIR") from error
        self._file.seek(0)
        data = self._file.read()
        self.size = data.rfind(b"\n") + 1
        if self.size < len(data):
            self._file.truncate(self.size)

    def append(self, line: bytes) -> None:
        """Write one complete line. Raises OSError when the disk is full; then nothing of it is kept."""
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            with contextlib.suppress(OSError):
                self._file.truncate(self.size)
            raise
        finally:  # Ctrl-C between writing and counting would have the line sent again
            self.size = os.fstat(self._file.fileno()).st_size

    def close(self) -> None:
        """Close the file, which also releases it."""
        with contextlib.suppress(OSError):
            self._file.close()


class Stream:
    """One connection to the node that prints a run's journal from a byte on, and its log; `stop` interrupts the worker there."""

    def __init__(self, node: Node, offset: int, log_offset: int, out: str = OUT) -> None:
        """Connect; `out` is where the worker writes the run to, in the folder that travelled."""
        python = '"$(cat .python 2>/dev/null || echo python3)"'
        files = f"{out} --from {offset} --log {OUT}/{LOG} --log-from {log_offset} --progress {OUT}/progress.jsonl"
        # A word on stdin interrupts the worker; the end of the connection is no word.
        interrupt = f'exec 3<&0; {{ read -r _ <&3 && kill -INT "$(cat {OUT}/pid)"; }} &'
        self._process = subprocess.Popen(
            node.command(f"{{ {interrupt} exec {python} -I runner/worker/follow.py {files} </dev/null; }}"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for this program, which ends the connection in order
        )
        self._lines: queue.Queue[bytes | None] = queue.Queue()
        self._heard = time.monotonic()
        threading.Thread(target=self._read, daemon=True, name="journal").start()

    def stop(self) -> None:
        """Interrupt the worker; what it still has to say arrives as before."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(b"stop\n")
            self._process.stdin.flush()

    def next(self, wait_s: float) -> bytes | None:
        """Return the next line, None when none came in time. Raises ConnectionError when the connection is gone or silent."""
        try:
            line = self._lines.get(timeout=wait_s)
        except queue.Empty:
            if time.monotonic() - self._heard > SILENCE_S:
                raise ConnectionError(f"the node said nothing for {SILENCE_S:g} s") from None
            return None
        if line is None:
            raise ConnectionError(self._last_words())
        return line

    def close(self) -> None:
        """End the connection."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # the last one may have been cut off with the connection
                self._heard = time.monotonic()
                self._lines.put(line)
        self._lines.put(None)

    def _last_words(self) -> str:
        assert self._process.stderr is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        said = self._process.stderr.read().decode(errors="replace").strip().splitlines()
        return said[-1] if said else f"the connection ended with exit code {self._process.returncode}"


def message(line: bytes) -> dict[str, Any]:
    """Return what a line from a worker says; one that is no JSON object, as a workload's own prints, says nothing."""
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
