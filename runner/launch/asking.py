"""How SkyPilot is asked: one question at a time, for a limited time, with nothing on the terminal and one line of trouble.

SkyPilot prints, logs, blocks for minutes and raises some fifty exceptions. Here it writes into a log file, every question has a
time limit, and what it raises becomes NoCapacity, Unreachable or another JobError.
"""

import contextlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from runner.errors import JobError, one_line
from runner.masking import mask

T = TypeVar("T")

MOST_TEXT = 300
ANSWER_S = 90.0
"""How long SkyPilot may take to answer a question. Its own server takes some 10 s to start."""


class NoCapacity(JobError):
    """None of the offers could be had now; nothing is left running."""


class Unreachable(JobError):
    """SkyPilot's server did not answer."""


class Asker:
    """Asks, and sends what is printed meanwhile to a log."""

    def __init__(self, log: Path) -> None:
        """Open the log."""
        # One file for good: SkyPilot's loggers keep the stream that they met first.
        self._log = open(log, "a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self._one_at_a_time = threading.RLock()  # two threads that redirect stdout would not put it back

    def ask(self, question: Callable[[], T], kinds: Any, limit_s: float = ANSWER_S, to_the_end: bool = False) -> T:
        """Return the answer; raises NoCapacity, Unreachable or JobError with one line, whatever the question raises.

        `kinds` is the module `sky.exceptions`. The question runs in a thread of its own, so that a server that hangs costs
        `limit_s` and Ctrl-C is answered at once, or, with `to_the_end`, after the answer.
        """
        answer: list[T] = []
        trouble: list[BaseException] = []

        done = threading.Event()

        def work() -> None:
            try:
                answer.append(question())
            except BaseException as error:  # click exits on some errors
                trouble.append(error)
            finally:
                done.set()

        thread = threading.Thread(target=work, daemon=True, name="skypilot")
        interrupted = False
        with self._one_at_a_time, self.quietly():
            thread.start()
            until = time.monotonic() + limit_s
            # An event, since Python 3.11 takes a thread whose join was interrupted for one that has ended.
            while not done.is_set() and time.monotonic() < until:
                try:
                    done.wait(0.1)
                except KeyboardInterrupt:
                    if not to_the_end:
                        raise
                    interrupted = True
        if interrupted:
            raise KeyboardInterrupt
        if trouble:
            raise _translated(trouble[0], kinds) from trouble[0]
        if not answer:
            raise Unreachable(f"SkyPilot did not answer within {limit_s:g} s")
        return answer[0]

    @contextlib.contextmanager
    def quietly(self) -> Iterator[None]:
        """Send what is printed to the log: the display has the terminal, through streams that it took before."""
        with contextlib.redirect_stdout(self._log), contextlib.redirect_stderr(self._log):
            yield


def _translated(error: BaseException, kinds: Any) -> JobError:
    from requests.exceptions import RequestException  # what SkyPilot's client speaks HTTP with

    text = _plain(str(error)) or type(error).__name__
    if isinstance(error, kinds.ResourcesUnavailableError):
        # SkyPilot's own text is a page with advice for its command line; each attempt's reason is in here.
        reasons = [_plain(str(one)) for one in getattr(error, "failover_history", None) or []]
        return NoCapacity("; ".join(dict.fromkeys(reasons))[:MOST_TEXT] or text[:MOST_TEXT])
    away = (kinds.ApiServerConnectionError, RequestException, ConnectionError, TimeoutError)
    if isinstance(error, away):
        return Unreachable(f"SkyPilot's API server can't be reached ({text})")
    return JobError(text)


def _plain(text: str) -> str:
    """Return a text of SkyPilot's in one line, without colours and secrets."""
    return mask(one_line(re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", text)))
