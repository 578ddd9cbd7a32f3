"""The other ranks, as rank 0 sees them: processes that it starts, gives orders to, and takes with it when it ends.

They end when rank 0 closes their stdin, which happens however it ends: it returns, is killed, or replaces itself. On Linux the
kernel kills them too. What waits for them has a limit, and a rank that died is an error that names it.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import torch.distributed as dist

from workloads.collectives.member import TIMEOUT_S, join

IDLE_S = 30.0
"""Ranks that get no order for so long end by themselves: the job is over, and their GPUs are somebody else's."""

LEFT = "CROSSOVER_COLLECTIVES_PEERS"
"""Holds their process ids for the program that replaces this one, whose children they then are: see `_bury`."""

PEER = "workloads.collectives.peer"


class Group:
    """`ranks` ranks that form a process group, of which this process is rank 0."""

    def __init__(self, backend: str, ranks: int) -> None:
        """Start the others and join them; raises RuntimeError when one of them doesn't come."""
        if dist.is_initialized():
            raise RuntimeError("this process is part of another process group already")
        self.backend, self.ranks = backend, ranks
        self._ended: dict[int, int] = {}
        self._closing = False
        self._lines = [b""] * (ranks - 1)
        self._inherited = _inheritable()
        # bound here, to this machine only, so that no other process can have taken the port meanwhile
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
        os.environ.setdefault("TORCH_NCCL_ASYNC_ERROR_HANDLING", "2")  # give up a collective without ending this process
        self._peers: list[subprocess.Popen[bytes]] = []
        self._mourners: list[threading.Thread] = []
        with listener, self.whole():
            for rank in range(1, ranks):
                self._start(rank, port)
            self.answers()  # before joining, so that one that can't even start is told at once
            join(backend, 0, ranks, port, listener)
            self.answers()
        self.keep_from_exec()

    def _start(self, rank: int, port: int) -> None:
        place = {
            "backend": self.backend,
            "rank": rank,
            "ranks": self.ranks,
            "port": port,
            "parent": os.getpid(),
            "idle_s": IDLE_S,
        }
        path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {name: text for name, text in os.environ.items() if name != LEFT} | {"PYTHONPATH": path}
        command = [sys.executable, "-W", "ignore", "-m", PEER, json.dumps(place)]
        peer = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0)
        mourner = threading.Thread(target=self._mourn, args=(rank, peer), daemon=True, name=f"rank {rank}")
        mourner.start()
        self._peers.append(peer)
        self._mourners.append(mourner)
        os.environ[LEFT] = ",".join(str(one.pid) for one in self._peers)

    @property
    def alive(self) -> bool:
        """Whether all ranks are there."""
        return not self._ended and not self._closing

    def order(self, do: str, **more: Any) -> None:
        """Tell all other ranks what to do; raises RuntimeError when one of them is gone."""
        line = json.dumps({"do": do, **more}).encode() + b"\n"
        if not self.alive:
            raise self.failure("the other ranks were ended")
        for peer in self._peers:
            try:
                os.write(_open(peer.stdin), line)
            except OSError as error:
                raise self.failure(str(error)) from error

    def answers(self) -> list[dict[str, Any]]:
        """Wait for an answer of every other rank and return them.

        Raises MemoryError or RuntimeError with what one of them ran into, and RuntimeError when one is gone.
        """
        until = time.monotonic() + TIMEOUT_S
        found = [self._answer(rank, until) for rank in range(1, self.ranks)]
        for rank, answer in enumerate(found, 1):
            if error := answer.get("error"):
                raise (MemoryError if "OutOfMemory" in error else RuntimeError)(f"rank {rank}: {error}")
        return found

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """End the group when the block fails: ranks that are not at the same point would wait for each other."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    def _answer(self, rank: int, until: float) -> dict[str, Any]:
        stream = _open(self._peers[rank - 1].stdout)
        while b"\n" not in self._lines[rank - 1]:
            if not select.select([stream], [], [], max(0.0, until - time.monotonic()))[0]:
                raise self.failure(f"rank {rank} did not answer within {TIMEOUT_S:g} s")
            read = os.read(stream, 65536)
            if not read:
                raise self.failure(f"rank {rank} ended")
            self._lines[rank - 1] += read
        line, _, self._lines[rank - 1] = self._lines[rank - 1].partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def failure(self, seen: str) -> RuntimeError:
        """End the group and return the error that says which ranks ended before, and how; else what rank 0 `seen` of it."""
        until = time.monotonic() + 2
        while self.alive and time.monotonic() < until:
            time.sleep(0.02)  # a connection breaks before the process is known to have ended
        ends = [f"rank {rank} {_how(code)}{self._last_words(rank)}" for rank, code in sorted(self._ended.items())]
        self.close()
        return RuntimeError("; ".join(ends) or seen)

    def _last_words(self, rank: int) -> str:
        """Return what a rank that has ended said of it."""
        said, stream = self._lines[rank - 1], _open(self._peers[rank - 1].stdout)
        while select.select([stream], [], [], 0)[0] and (read := os.read(stream, 65536)):
            said += read
        errors = [error for line in said.splitlines() if (error := json.loads(line).get("error"))]
        return f": {errors[-1]}" if errors else ""

    def _mourn(self, rank: int, peer: subprocess.Popen[bytes]) -> None:
        """Wait for a rank's end. NCCL would wait for it for ever, so its collectives are given up.

        Not where it ended because it was idle: nothing waits then, and giving up could disturb what is measured by now.
        """
        code = peer.wait()
        if self._closing:
            return
        self._ended[rank] = code
        world = dist.group.WORLD
        if self.backend == "nccl" and code and world is not None:
            with contextlib.suppress(Exception):
                world.abort()

    def keep_from_exec(self) -> None:
        """Have the sockets that backends opened closed when this process replaces itself; they open some at first use."""
        for descriptor in _inheritable() - self._inherited:
            with contextlib.suppress(OSError):
                os.set_inheritable(descriptor, False)

    def close(self) -> None:
        """Leave the process group and end the other ranks; again does nothing."""
        if self._closing:
            return
        self._closing = True
        if dist.is_initialized():
            leave = dist.distributed_c10d._abort_process_group if self.backend == "nccl" else dist.destroy_process_group
            with contextlib.suppress(Exception):
                leave()
        for peer in self._peers:
            with contextlib.suppress(OSError):
                if peer.stdin is not None:
                    peer.stdin.close()
        for peer, mourner in zip(self._peers, self._mourners, strict=True):
            mourner.join(1)
            peer.kill()
            mourner.join()
            if peer.stdout is not None:
                peer.stdout.close()
        os.environ.pop(LEFT, None)


def _open(stream: IO[bytes] | None) -> int:
    assert stream is not None
    return stream.fileno()


def _how(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


def _inheritable() -> set[int]:
    """Return the descriptors that would outlive an exec, but for the three standard ones."""
    found = set()
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            if int(name) > 2 and os.get_inheritable(int(name)):
                found.add(int(name))
    return found


def _bury() -> None:
    """End and reap the ranks of the program that this one replaced: they hold GPUs, and nobody else can reap them."""
    for pid in filter(None, os.environ.pop(LEFT, "").split(",")):
        with contextlib.suppress(ChildProcessError, ProcessLookupError):
            if os.waitpid(int(pid), os.WNOHANG) == (0, 0):
                os.kill(int(pid), signal.SIGKILL)
                os.waitpid(int(pid), 0)


_bury()
