"""Collectives over several ranks of one machine: over NCCL between GPUs, over Gloo between processes of a CPU.

| module | idea |
|---|---|
| problem | what every rank must hold afterwards, element by element |
| member | one rank's buffers, the collectives, the check |
| group | the other ranks, as rank 0 sees them |
| peer | the process that each of them is |

The process that measures is rank 0. For each call it tells the others what to do and does the same; times are its own.
"""

import atexit
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from runner.worker.workload import BYTES_PER_ELEMENT, Axes, Context, Incorrect, Inputs, Unsupported, Variant, Work, Workload
from workloads.collectives.group import Group
from workloads.collectives.member import Member
from workloads.collectives.problem import Problem, truth

MISSING = ("not implement", "not support", "unsupported")


class Kept:
    """The group of the case before: starting ranks takes seconds, and the next case mostly wants the same."""

    def __init__(self) -> None:
        self._group: Group | None = None

    def group(self, backend: str, ranks: int) -> Group:
        """Return a group of living ranks."""
        kept = self._group
        if kept is None or not kept.alive or (kept.backend, kept.ranks) != (backend, ranks):
            self.close()
            self._group = kept = Group(backend, ranks)
        return kept

    def close(self) -> None:
        """End the ranks."""
        kept, self._group = self._group, None
        if kept is not None:
            kept.close()


KEPT = Kept()
atexit.register(KEPT.close)


@dataclasses.dataclass
class Session:
    """One problem, prepared on all ranks; `wrong` has the wrong elements of each rank, once they are counted."""

    group: Group
    member: Member
    wrong: list[int] = dataclasses.field(default_factory=list)

    def reset(self) -> None:
        """Have every rank write its inputs anew."""
        with self.group.whole():
            self.group.order("reset")
            self.member.reset()
            self.group.answers()

    def run(self) -> Tensor:
        """Have every rank do the collectives; the others don't answer, as this is timed."""
        if self.group.backend == "nccl" and torch.cuda.is_current_stream_capturing():
            raise RuntimeError("a collective with other processes can't be captured into a CUDA graph")
        self.group.order("run")
        try:
            return self.member.run()
        except (RuntimeError, ValueError) as error:
            raise self.group.failure(f"{type(error).__name__}: {error}") from error

    def check(self) -> None:
        """Count the wrong elements of every rank."""
        with self.group.whole():
            self.group.order("check")
            self.wrong = [self.member.wrong(), *(answer["wrong"] for answer in self.group.answers())]


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the problem and the device. Raises Unsupported where its bytes can't be split evenly."""
    seed = int(torch.randint(2**31, (), device=context.device, generator=context.generator))
    problem = Problem(axes["collective"], axes["ranks"], axes["bytes"], axes["dtype"], seed)
    if problem.fault:
        raise Unsupported(problem.fault)
    return problem, context.device


def reference(problem: Problem, device: torch.device) -> Tensor:
    """What rank 0 must hold."""
    return truth(problem, 0, device)


def factor(collective: str, ranks: int) -> float:
    """Return bus bandwidth over algorithm bandwidth, as nccl-tests has it in doc/PERFORMANCE.md."""
    if collective == "broadcast":
        return 1.0
    return (2 if collective == "all_reduce" else 1) * (ranks - 1) / ranks


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """A rank's part: of all sums its share, and its input read and its output written once (it receives a broadcast)."""
    problem = Problem(axes["collective"], axes["ranks"], axes["bytes"], dtype, 0)
    sums = problem.collective in ("all_reduce", "reduce_scatter")
    moved = problem.received + (0 if problem.collective == "broadcast" else problem.sent)
    size = float(problem.size)
    return Work(
        ops=float(problem.share * (problem.ranks - 1)) if sums else 0.0,
        bytes=float(moved * BYTES_PER_ELEMENT[dtype]),
        per_second={
            "algorithm_bandwidth_gbps": size / 1e9,
            "bus_bandwidth_gbps": size * factor(problem.collective, problem.ranks) / 1e9,
        },
    )


def counters(axes: Axes, params: Mapping[str, Any]) -> Mapping[str, int]:
    """No wrong element on any rank."""
    return {"wrong_elements": 0, "ranks_checked": axes["ranks"]}


def _nccl(inputs: Inputs) -> Inputs:
    problem, device = inputs
    if device.type != "cuda":
        raise Unsupported("NCCL moves data between GPUs, and this is a CPU; see gloo")
    found = torch.cuda.device_count()
    if found < problem.ranks:
        raise Unsupported(f"{problem.ranks} ranks need {problem.ranks} GPUs, this machine has {found}")
    names = {torch.cuda.get_device_name(rank) for rank in range(problem.ranks)}
    if len(names) > 1:
        raise Unsupported(f"the GPUs are not alike: {', '.join(sorted(names))}; choose with CUDA_VISIBLE_DEVICES")
    if not dist.is_available() or not dist.is_nccl_available():
        raise Unsupported("this torch has no NCCL; install one for CUDA")
    return _prepared("nccl", problem, device)


def _gloo(inputs: Inputs) -> Inputs:
    problem, device = inputs
    if device.type != "cpu":
        raise Unsupported("Gloo is measured between processes of a CPU; between GPUs see nccl")
    if not dist.is_available() or not dist.is_gloo_available():
        raise Unsupported("this torch has no Gloo")
    return _prepared("gloo", problem, device)


def _prepared(backend: str, problem: Problem, device: torch.device) -> Inputs:
    """Return the session and rank 0's buffers, after all ranks have done the collectives once: connections are made then."""
    group = KEPT.group(backend, problem.ranks)
    with group.whole():
        group.order("prepare", problem=dataclasses.asdict(problem))
        member = Member(problem, 0, device)
        member.reset()
        group.answers()
        group.order("try")
        try:
            member.run()
        except RuntimeError as error:  # or NotImplementedError, which is one
            if any(mark in str(error).lower() for mark in MISSING):
                raise Unsupported(f"{backend} in torch {torch.__version__} has no {problem.collective}: {error}") from error
            raise group.failure(f"{type(error).__name__}: {error}") from error
        group.answers()
        group.keep_from_exec()
    return Session(group, member), member.tensors


def _run(session: Session, tensors: list[Tensor]) -> Tensor:
    return session.run()


def _finish(output: Tensor, prepared: Inputs) -> Tensor:
    """Have every rank check all that it holds; rank 0's output then goes to the gate."""
    session = prepared[0]
    session.check()
    total = len(session.member.outputs) * session.member.problem.received
    bad = [f"{count} of {total} elements on rank {rank}" for rank, count in enumerate(session.wrong) if rank and count]
    if bad:
        raise Incorrect(f"wrong: {', '.join(bad)}")
    return output


def _counted(output: Tensor, prepared: Inputs) -> Mapping[str, int]:
    wrong = prepared[0].wrong
    return {"wrong_elements": sum(wrong), "ranks_checked": len(wrong)}


def _variant(prepare: Any) -> Variant:
    return Variant(
        _run,
        prepare=prepare,
        finish=_finish,
        rel_l2=0.0,
        counters=_counted,
        repeats=lambda prepared: prepared[0].member.problem.repeats,
        capturable=False,
        reset=lambda prepared: prepared[0].reset(),
    )


WORKLOAD = Workload(
    inputs=inputs,
    reference=reference,
    work=work,
    counters=counters,
    variants={"nccl": _variant(_nccl), "gloo": _variant(_gloo)},
)
