"""What can go wrong, by who has to act; each carries the one line a person reads and the exit code."""

import difflib
from collections.abc import Iterable

EXIT_DONE = 0
EXIT_FAILED = 1
EXIT_REQUEST = 2
EXIT_INTERRUPTED = 130


class RequestError(Exception):
    """The request is wrong: nothing was launched. The message says what, what was expected and what to type."""

    exit_code = EXIT_REQUEST


class JobError(Exception):
    """The request was fine and the job could not be done; what was measured is kept."""

    exit_code = EXIT_FAILED


def nearest(word: str, choices: Iterable[str]) -> str:
    """Return the help for a misspelt name: the nearest choices, or all of them when none is near.

    >>> nearest("matmull", ["matmul", "inspect"])
    'did you mean matmul?'
    """
    known = sorted(choices)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"choose from {', '.join(known)}" if known else "there are none to choose from"


def one_line(text: str) -> str:
    """Fold a message into one line: the contract for anything that ends with exit code 2."""
    return " ".join(text.split())
