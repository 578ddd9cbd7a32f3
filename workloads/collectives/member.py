"""One rank's part: its buffers for a problem, the collectives themselves, and the check of what they left. Rank 0 has it too."""

import math
import socket
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from workloads.collectives import problem as problems
from workloads.collectives.problem import Problem

TIMEOUT_S = 60.0
"""After so long a collective that does not end is given up, where the backend can tell."""


def device_of(backend: str, rank: int) -> torch.device:
    """Return where a rank's buffers are: NCCL's on the GPU of its number."""
    return torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")


def join(backend: str, rank: int, ranks: int, port: int, listener: socket.socket | None = None) -> None:
    """Meet the other ranks at a store on `port` and form the process group with them; who has the `listener` keeps the store."""
    timeout, bound = timedelta(seconds=TIMEOUT_S), dict[str, Any]()
    descriptor = None if listener is None else listener.detach()
    store = dist.TCPStore(  # type: ignore[attr-defined] # torch doesn't say that it exports it
        "127.0.0.1", port, ranks, listener is not None, timeout, wait_for_workers=False, master_listen_fd=descriptor
    )
    if backend == "nccl":
        torch.cuda.set_device(rank)
        bound = {"device_id": device_of(backend, rank)}
    dist.init_process_group(backend, store=store, rank=rank, world_size=ranks, timeout=timeout, **bound)


class Member:
    """The buffers of one rank for one problem.

    all_reduce works in place, so each of the collectives that one order asks for has a buffer of its own: after `reset` and one
    `run`, each of them holds the sum once. The others leave their inputs alone and can be repeated as they are.
    """

    def __init__(self, problem: Problem, rank: int, device: torch.device) -> None:
        self.problem, self.rank = problem, rank
        dtype = problems.DTYPES[problem.dtype]
        copies = problem.repeats if problem.collective == "all_reduce" else 1
        self.outputs = [torch.empty(problem.received, dtype=dtype, device=device) for _ in range(copies)]
        in_place = problem.collective in problems.IN_PLACE
        self.inputs = self.outputs if in_place else [torch.empty(problem.sent, dtype=dtype, device=device)]

    @property
    def tensors(self) -> list[Tensor]:
        """Every buffer, once."""
        return self.outputs if self.inputs is self.outputs else self.outputs + self.inputs

    def reset(self) -> None:
        """Write the inputs anew, and NaN to what must be received."""
        for output in self.outputs:
            output.fill_(math.nan)
        if self.problem.collective != "broadcast" or self.rank == self.problem.root:
            for buffer in self.inputs:
                problems.fill(buffer, self.problem, self.rank)

    def run(self) -> Tensor:
        """Do the collective `problem.repeats` times, one behind the other; return the last output."""
        for repeat in range(self.problem.repeats):
            self.once(self.outputs[repeat % len(self.outputs)])
        return self.outputs[-1]

    def once(self, output: Tensor) -> None:
        """Do the collective once."""
        source = self.inputs[0]
        match self.problem.collective:
            case "all_reduce":
                dist.all_reduce(output)
            case "all_gather":
                ALL_GATHER(output, source)
            case "reduce_scatter":
                REDUCE_SCATTER(output, source)
            case "broadcast":
                dist.broadcast(output, self.problem.root)
            case _:
                dist.all_to_all_single(output, source)

    def wrong(self) -> int:
        """Count the wrong elements of all outputs."""
        return sum(problems.wrong(output, self.problem, self.rank) for output in self.outputs)


ALL_GATHER: Any = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
REDUCE_SCATTER: Any = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
"""What torch calls them since 2.13, else what it called them before."""
