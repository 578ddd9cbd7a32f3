"""`python -m runner.worker JOB.json --out DIR`: the whole data plane, runnable by hand on any machine with torch."""

import argparse
import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from runner import job as jobs
from runner.errors import EXIT_REQUEST, RequestError

STARTED = time.perf_counter()


def main() -> int:
    """Parse the command line, import torch, run the job; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m runner.worker", description=__doc__)
    parser.add_argument("job", type=Path, metavar="JOB.json", help="the job, written by a run or by launch.write_job=JOB.json")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="run folder; a journal of this job is continued")
    parser.add_argument("--progress", action="store_true", help="print JSON lines about the progress instead of results")
    parser.add_argument("--wait", action="store_true", help="import, then wait for a line on stdin; end when stdin closes")
    parser.add_argument("--restarts", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--go", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        job = jobs.load(arguments.job)
        from runner.worker.progress import Progress  # imports torch only below, after the job is known to be good
        from runner.worker.run import Run

        channel = _channel(arguments.channel) if arguments.progress else None
        progress = Progress(channel)
        import_s = time.perf_counter() - STARTED
        progress.ready(import_s)
        if arguments.wait:
            _await_launcher(arguments.go)
        restart = _restarter(arguments.restarts, channel)
        run = Run(job, arguments.job.parent, arguments.out, progress, arguments.restarts, import_s, restart)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_REQUEST
    return run.run()


def _await_launcher(go: bool) -> None:
    """Block until the launcher says go (unless it has); from then on, end when the launcher's end of the pipe closes."""
    # os.read, since a thread inside sys.stdin holds a lock that the interpreter wants when it ends
    if not go and not os.read(0, 64):
        sys.exit(EXIT_REQUEST)

    def watch() -> None:
        while os.read(0, 64):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="launcher watch").start()


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _channel(inherited: int | None) -> int:
    """Return stdout as a descriptor that children don't inherit, and send what anybody prints to stderr, which is logged."""
    if inherited is not None:
        os.set_inheritable(inherited, False)
        return inherited
    channel = os.dup(1)
    os.dup2(2, 1)
    return channel


def _restarter(restarts: int, channel: int | None) -> Callable[[], NoReturn]:
    """Return what replaces this process by a fresh one that continues the same journal."""

    def restart() -> NoReturn:
        arguments = [one for one in sys.argv[1:] if one != "--go" and not one.startswith(("--restarts=", "--channel="))]
        arguments += ["--go", f"--restarts={restarts + 1}"]
        if channel is not None:
            os.set_inheritable(channel, True)
            arguments.append(f"--channel={channel}")
        os.execv(sys.executable, [sys.executable, "-m", "runner.worker", *arguments])

    return restart


if __name__ == "__main__":
    code = main()
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking torch apart would take a second, and everything is written
