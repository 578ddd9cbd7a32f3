"""What keeps a cluster from being forgotten: a screen that is gone raises nothing, and signals do what they are told to."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn, TypeVar

T = TypeVar("T")


def harmless(tell: Callable[[T], None]) -> Callable[[T], None]:
    """Return `tell` without the errors of a terminal that was closed or a pipe that nobody reads: the run goes on without it."""

    def told(what: T) -> None:
        with contextlib.suppress(Exception):  # a terminal raises OSError, a closed file ValueError, a signal handler RuntimeError
            tell(what)

    return told


@contextlib.contextmanager
def on_signal(act: Callable[[], None]) -> Iterator[None]:
    """Have Ctrl-C, and being told to end, do this and nothing else: what runs is ended in order."""
    before = {number: signal.signal(number, lambda *_: act()) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(number: int, frame: object) -> NoReturn:
    """Treat a signal like Ctrl-C, whichever it is: a signal handler."""
    raise KeyboardInterrupt
