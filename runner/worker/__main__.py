"""`python -m runner.worker JOB.json --out DIR`: the whole data plane, runnable by hand on any machine with torch.

Several jobs are measured one after the other, each into DIR/NAME (of NAME.json). With `--serve`, a launcher sends them on stdin.
"""

import argparse
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from runner import job as jobs
from runner.errors import EXIT_DONE, EXIT_INTERRUPTED, EXIT_REQUEST, RequestError

if TYPE_CHECKING:
    from runner.worker.progress import Progress

STARTED = time.perf_counter()
LOG, EXIT_CODE = "worker.log", "exit-code"


def main() -> int:
    """Parse the command line, import torch, run the jobs; return the exit code, of several jobs the highest."""
    parser = argparse.ArgumentParser(prog="python -m runner.worker", description=__doc__)
    parser.add_argument("jobs", type=Path, nargs="*", metavar="JOB.json", help="a job, as launch.write_job=JOB.json writes it")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder; a journal of this job is continued")
    parser.add_argument("--progress", action="store_true", help="print JSON lines about the progress instead of results")
    parser.add_argument(
        "--serve", action="store_true", help="import, then take jobs from stdin until it closes; see docs/journal.md"
    )
    parser.add_argument("--restarts", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--current", type=Path, nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--channel", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_intermixed_args()
    if bool(arguments.jobs and arguments.out) == arguments.serve:
        parser.error("expected JOB.json --out DIR, or --serve")
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _serve(arguments) if arguments.serve else _work(arguments)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _work(arguments: argparse.Namespace) -> int:
    """Measure the jobs of the command line, from the one on at which an earlier process was replaced by this one."""
    channel = _channel(arguments.channel) if arguments.progress else None
    worst = EXIT_DONE
    for index, job in enumerate(arguments.jobs[arguments.first :], arguments.first):
        several = len(arguments.jobs) > 1
        out = arguments.out / job.stem if several else arguments.out
        again = [*map(str, arguments.jobs), "--out", str(arguments.out), f"--first={index}"]
        again += ["--progress"] if arguments.progress else []
        restarts = arguments.restarts if index == arguments.first else 0
        code = _measure(job, out, channel, restarts, index - arguments.first, again)
        worst = max(worst, code)
        if several:
            _write_exit_code(out, code)
        if code == EXIT_INTERRUPTED:
            break
    return worst


def _serve(arguments: argparse.Namespace) -> int:
    """Measure what a launcher asks for on stdin, until it closes that."""
    from runner.worker.orders import Order, Orders

    channel = _channel(arguments.channel)
    _progress(channel)
    order = Order(*arguments.current) if arguments.current else None
    orders = Orders(busy=order is not None)
    restarts, before = arguments.restarts, 0
    while order := order or orders.next():
        _log_to(order.out / LOG)
        code = _measure(order.job, order.out, channel, restarts, before, ["--serve", "--current", str(order.job), str(order.out)])
        if code == EXIT_INTERRUPTED:
            return code
        orders.done()
        _progress(channel).done(code)
        order, restarts, before = None, 0, before + 1
    return EXIT_DONE


def _measure(job_path: Path, out: Path, channel: int | None, restarts: int, before: int, again: Sequence[str]) -> int:
    """Run one job and return its exit code; `before` jobs were measured in this process, `again` are arguments to go on with."""
    try:
        job = jobs.load(job_path)  # known to be good before torch is imported
        progress = _progress(channel)
        from runner.worker.run import Run

        import_s = 0.0 if before else _import_s()
        restart = _restarter(again, restarts, channel)
        run = Run(job, job_path.parent, out, progress, restarts, import_s, restart, before)
    except RequestError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return EXIT_REQUEST
    return run.run()


def _progress(channel: int | None) -> "Progress":
    """Import torch, once, and say so; return what speaks to the launcher."""
    from runner.worker.progress import Progress

    progress = Progress(channel)
    if "runner.worker.run" not in sys.modules:
        import runner.worker.run  # noqa: F401

        progress.ready(_import_s())
    return progress


_imported: list[float] = []


def _import_s() -> float:
    """Return the seconds from the start of this process until torch was there."""
    if not _imported:
        _imported.append(time.perf_counter() - STARTED)
    return _imported[0]


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


def _log_to(path: Path) -> None:
    """Send what anybody prints to a file; a full disk or a folder that is gone leaves it where it went before."""
    with contextlib.suppress(OSError):
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for stream in (1, 2):
            os.dup2(log, stream)
        os.close(log)


def _write_exit_code(out: Path, code: int) -> None:
    """Say how a job ended, for who follows it from afar: the last thing written into its folder."""
    with contextlib.suppress(OSError):
        out.mkdir(parents=True, exist_ok=True)
        beside = out / f".{EXIT_CODE}"
        beside.write_text(f"{code}\n")
        os.replace(beside, out / EXIT_CODE)


def _restarter(again: Sequence[str], restarts: int, channel: int | None) -> Callable[[], NoReturn]:
    """Return what replaces this process by a fresh one that continues the same journal."""

    def restart() -> NoReturn:
        arguments = [*again, f"--restarts={restarts + 1}"]
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
