"""Sends a growing journal home from the machine that measures: `python3 -m runner.worker.follow OUT`, or this file by its path.

JSON lines on stdout, of five kinds:

- the journal's complete lines from byte OFFSET on, as they are in the file (they have `event`);
- what is new in the progress file: of each kind (`progress`, `ready`, `unwritten`) the latest, if there is a new one;
- `{"log": text, "to": offset}`: a line of the log file, and where the next one begins;
- `{"beat": unix_time, "size": bytes of the journal}`: at the start and every few seconds, so that silence means a lost line;
- the last word: `{"exit": code}` when the worker has ended and all of the above was said (null: the file that says how can't be
  read), or `{"truncated": size}` when the journal is shorter than what was sent of it.

Exit codes: 0 all was said; 1 nobody reads any more; 2 wrong arguments; 3 truncated.

It runs beside a measurement, on whatever python3 there is (3.9 or newer): it sleeps nearly always, and needs nothing but the
standard library, not even the rest of this package.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import select
import sys
import time

JOURNAL, EXIT_CODE = "journal.jsonl", "exit-code"
POLL_S = 0.15
CHUNK = 1 << 20
LOG_CHUNK = 1 << 16
"""Bytes of the log that are sent per poll: one that grows faster must not fill the line."""
UNREADABLE_S = 5.0
"""How long the file with the exit code may be there and say nothing (it is being written, or the disk is full)."""
PIPE = 4096
"""What a pipe that can be written to takes without blocking (PIPE_BUF)."""
KINDS = ("progress", "ready", "unwritten")
DONE, UNHEARD, TRUNCATED, INTERRUPTED = 0, 1, 3, 130


class Unheard(Exception):
    """Nobody reads any more."""


class Out:
    """Standard output that notices when its reader or this program's parent is gone, also while the reader is slow."""

    def __init__(self, descriptor: int = 1) -> None:
        self._descriptor, self._parent = descriptor, os.getppid()
        self._broken, self._writable = select.poll(), select.poll()
        self._broken.register(descriptor, 0)  # errors and hang-ups are told without being asked for
        self._writable.register(descriptor, select.POLLOUT)

    def say(self, lines: bytes) -> None:
        """Write complete lines. Raises Unheard."""
        view = memoryview(lines)
        while view:
            while not self._writable.poll(1000 * POLL_S):
                self._check_parent()
            try:
                view = view[os.write(self._descriptor, view[:PIPE]) :]
            except BlockingIOError:  # whoever started this made the descriptor so
                continue
            except OSError:
                raise Unheard from None

    def tell(self, **record: object) -> None:
        """Write one record. Raises Unheard."""
        self.say(json.dumps(record, separators=(",", ":")).encode() + b"\n")

    def sleep(self) -> None:
        """Wait for the next look at the files. Raises Unheard as soon as the reader is gone."""
        if self._broken.poll(1000 * POLL_S):
            raise Unheard
        self._check_parent()

    def _check_parent(self) -> None:
        if os.getppid() != self._parent:
            raise Unheard


def size(path: str) -> int | None:
    """Return the bytes of a file, None when it isn't there (yet)."""
    try:
        return os.stat(path).st_size
    except OSError:
        return None


def complete(path: str, offset: int, most: int = CHUNK) -> bytes:
    """Return the complete lines of a file from `offset` on: some `most` bytes of them, at least one line where there is any.

    A line that is still being written is left for the next call: so is one that gets torn, and cut off later.
    """
    try:
        with open(path, "rb") as file:
            file.seek(offset)
            data = file.read(most)
            while b"\n" not in data:
                more = file.read(most)
                if not more:
                    return b""
                data += more
    except OSError:
        return b""
    return data[: data.rfind(b"\n") + 1]


class Follower:
    """What was sent so far of each file."""

    def __init__(self, folder: str, offset: int, progress: str | None, log: str | None, log_offset: int, out: Out) -> None:
        self._journal, self._exit = os.path.join(folder, JOURNAL), os.path.join(folder, EXIT_CODE)
        self._progress, self._log, self._out = progress, log, out
        self._offset, self._log_offset = offset, log_offset
        # Only the latest is of interest, so of a long file only the end; it begins within a line, which is no JSON then.
        self._progress_offset = max(0, (size(progress) or 0) - LOG_CHUNK) if progress else 0
        self._seen = False
        self._exit_since: float | None = None

    def look(self) -> int | None:
        """Send what is new; return the exit code of this program when that was all there will be. Raises Unheard."""
        code = self._exit_code()  # before the journal is read: what is in it then is all of it
        there = size(self._journal)
        self._seen = self._seen or there is not None
        if (self._seen or code) and (there or 0) < self._offset:
            self._out.tell(truncated=there or 0)
            return TRUNCATED
        self._send_journal(there or 0)
        self._send_progress()
        self._send_log(to_the_end=code is not None)
        if code is None:
            return None
        self._out.tell(exit=code[0])
        return DONE

    def beat(self) -> None:
        """Say that all is well. Raises Unheard."""
        self._out.tell(beat=round(time.time(), 3), size=size(self._journal) or 0)

    def _send_journal(self, there: int) -> None:
        while there > self._offset:
            lines = complete(self._journal, self._offset)
            if not lines:
                return
            self._out.say(lines)
            self._offset += len(lines)

    def _send_progress(self) -> None:
        if not self._progress:
            return
        there = size(self._progress) or 0
        if there < self._progress_offset:  # another worker began it anew
            self._progress_offset = 0
        latest: dict[str, bytes] = {}
        while there > self._progress_offset:
            lines = complete(self._progress, self._progress_offset)
            if not lines:
                break
            self._progress_offset += len(lines)
            for line in lines.splitlines(keepends=True):
                kind = next((kind for kind in KINDS if line.startswith(b'{"%s"' % kind.encode())), None)
                if kind:
                    latest.pop(kind, None)  # the order is that of the latest ones
                    latest[kind] = line
        self._out.say(b"".join(latest.values()))

    def _send_log(self, to_the_end: bool) -> None:
        while self._log and (size(self._log) or 0) > self._log_offset:
            lines = complete(self._log, self._log_offset, LOG_CHUNK)
            if not lines:
                return
            for line in lines.split(b"\n")[:-1]:
                self._log_offset += len(line) + 1
                self._out.tell(log=line.decode(errors="replace"), to=self._log_offset)
            if not to_the_end:
                return

    def _exit_code(self) -> tuple[int | None] | None:
        """Return the worker's exit code, in a tuple, None while the worker goes on; where the code can't be read it is None."""
        try:
            with open(self._exit) as file:
                return (int(file.read()),)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            now = time.monotonic()
            self._exit_since = self._exit_since or now
            return (None,) if now - self._exit_since > UNREADABLE_S else None


def main() -> int:
    """Parse the command line and follow; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("out", metavar="OUT", help="the run folder that the worker writes to; it may not be there yet")
    parser.add_argument("--from", dest="offset", type=int, default=0, metavar="OFFSET", help="bytes of the journal that are home")
    parser.add_argument("--beat", type=float, default=2.0, metavar="SECONDS", help="time between heartbeats")
    parser.add_argument("--progress", metavar="FILE", help="what the worker prints with --progress")
    parser.add_argument("--log", metavar="FILE", help="a log to be sent along")
    parser.add_argument("--log-from", type=int, default=0, metavar="OFFSET", help="bytes of the log that are home")
    options = parser.parse_args()
    if options.offset < 0 or options.log_from < 0:
        parser.error("an offset is a number of bytes, 0 or more")
    with contextlib.suppress(OSError):
        os.nice(10)  # the processor is the measurement's
    out = Out()
    follower = Follower(options.out, options.offset, options.progress, options.log, options.log_from, out)
    try:
        due = 0.0
        while True:
            if time.monotonic() >= due:
                follower.beat()
                due = time.monotonic() + options.beat
            code = follower.look()
            if code is not None:
                return code
            out.sleep()
    except Unheard:
        return UNHEARD
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
