"""`python -m workloads.collectives.peer`: one of the other ranks. Takes orders on stdin, answers on stdout, dies with rank 0.

Orders are lines of JSON. `prepare` (with a problem), `try`, `reset` and `check` are answered, with `{"error": ...}` where they
fail; `run`, which is timed, is not.
"""

import ctypes
import dataclasses
import json
import os
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import torch

from workloads.collectives.member import Member, device_of, join
from workloads.collectives.problem import Problem

PR_SET_PDEATHSIG = 1


@dataclasses.dataclass(frozen=True)
class Place:
    """Who this is and where the others are: what rank 0 gives on the command line, as JSON."""

    backend: str
    rank: int
    ranks: int
    port: int
    parent: int
    idle_s: float


def die_with(parent: int) -> None:
    """Have the kernel kill this process with the thread that started it, and end it when its orders can't come any more."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it was gone before that
        os._exit(1)
    threading.Thread(target=_watch, daemon=True, name="watch").start()


def _watch() -> None:
    """Wait until nobody can write to stdin: in a collective the main thread would never see that."""
    poll = select.poll()
    poll.register(0, 0)
    poll.poll()
    os._exit(1)


def orders(idle_s: float) -> Iterator[dict[str, Any]]:
    """Yield the orders until stdin closes or none comes for `idle_s`: rank 0 has other things to do then."""
    pending = b""
    while select.select([0], [], [], idle_s)[0]:
        read = os.read(0, 65536)
        if not read:
            return
        *lines, pending = (pending + read).split(b"\n")
        yield from map(json.loads, lines)


def serve(place: Place, make: Callable[[Problem, int, torch.device], Member], answer: Callable[..., None]) -> None:
    """Do as told."""
    device, member = device_of(place.backend, place.rank), None
    for order in orders(place.idle_s):
        do = order["do"]
        if do == "run" and member is not None:
            member.run()
            continue
        found: dict[str, Any] = {}
        try:
            if do == "prepare":
                member = None  # its memory is needed
                member = make(Problem(**order["problem"]), place.rank, device)
                member.reset()
            elif member is not None and do == "check":
                found["wrong"] = member.wrong()
            elif member is not None:
                {"try": member.run, "reset": member.reset}[do]()
            if device.type == "cuda":
                torch.cuda.synchronize()
        except Exception as error:
            found = {"error": f"{type(error).__name__}: {error}"}
        answer(**found)
    if device.type == "cuda":
        torch.cuda.synchronize()  # who ends for being idle leaves no collective behind


def main(make: Callable[[Problem, int, torch.device], Member] = Member) -> None:
    """Serve as the rank that the command line names; `make` makes its members."""
    place = Place(**json.loads(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, it goes to rank 0 as well
    die_with(place.parent)
    answers = os.dup(1)
    os.dup2(2, 1)  # what libraries print must not look like an answer
    torch.set_num_threads(1)

    def answer(**found: Any) -> None:
        os.write(answers, json.dumps(found).encode() + b"\n")

    try:
        answer()
        join(place.backend, place.rank, place.ranks, place.port)
        answer()
        serve(place, make, answer)
    except BaseException as error:
        answer(error=f"{type(error).__name__}: {error}")
        os._exit(1)
    os._exit(0)  # taking the process group apart would wait for ranks that are gone


if __name__ == "__main__":
    main()
