"""What keeps a cluster from being forgotten: a screen that is gone raises nothing, and its end can't be interrupted."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")


def harmless(tell: Callable[[T], None]) -> Callable[[T], None]:
    """Return `tell` without the errors of a terminal that was closed or a pipe that nobody reads: the run goes on without it."""

    def told(what: T) -> None:
        with contextlib.suppress(Exception):  # a terminal raises OSError, a closed file ValueError, a signal handler RuntimeError
            tell(what)

    return told


@contextlib.contextmanager
def unstoppable(say: Callable[[], None]) -> Iterator[None]:
    """Answer Ctrl-C and SIGTERM with a word while the cluster is being ended."""
    before = {number: signal.signal(number, lambda *_: say()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
