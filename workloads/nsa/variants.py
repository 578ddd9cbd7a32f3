"""From a forward function to a variant: forward alone, or forward and backward where the case asks for training."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Axes, Inputs, Unsupported, Variant
from workloads.nsa.problem import Problem, at_rows

GRADIENT_REL_L2 = 0.02
"""Bound for gradients in 16 bits: dS = P (dP - delta) subtracts nearly equal terms, each rounded to 8 or 11 bits."""

GRADIENT_ROW = 64
"""Tokens whose gradients are held together against their norm."""

Arguments = Callable[[Problem], tuple[Any, ...]]
Finish = Callable[[Any, Problem], Tensor]


def variant(
    operation: str,
    forward: Callable[..., Any],
    arguments: Arguments,
    *,
    backward: str | None = None,
    finish: Finish | None = None,
    counters: Callable[[Any, Inputs], dict[str, int]] | None = None,
) -> Variant:
    """Return the variant that times `forward(*arguments(problem))`, whose first or only result is [B, S, Hq, Dv].

    `backward` is the reason why it has none, if so. `finish(output, problem)` replaces the choice of the checked rows.
    """

    def prepare(inputs: Inputs) -> Inputs:
        problem: Problem = inputs[0]
        if problem.shape.backward:
            if backward is not None:
                raise Unsupported(f"forward only: {backward}")
            q, k, v, gates = (x.detach().requires_grad_() for x in (problem.q, problem.k, problem.v, problem.gates))
            problem = problem._replace(q=q, k=k, v=v, gates=gates)
        return *arguments(problem), problem

    def run(*prepared: Any) -> Any:
        *given, problem = prepared
        output = forward(*given)
        if not problem.shape.backward:
            return output
        first, *rest = output if isinstance(output, tuple) else (output,)
        return gradients(first, problem), *rest

    def finished(output: Any, prepared: Inputs) -> Tensor:
        problem: Problem = prepared[-1]
        if finish is not None:
            return finish(output, problem)
        first = output[0] if isinstance(output, tuple) else output
        return stacked(first) if problem.shape.backward else at_rows(first, problem)

    return Variant(run, prepare=prepare, finish=finished, operation=operation, counters=counters, rel_l2=_rel_l2)


def _rel_l2(axes: Axes) -> float | None:
    return GRADIENT_REL_L2 if axes.get("pass") == "forward_backward" and axes["dtype"] != "fp32" else None


def gradients(output: Tensor, problem: Problem) -> tuple[Tensor | None, ...]:
    """Return the gradients of q, k, v and the gates, None for what the output does not depend on."""
    leaves = (problem.q, problem.k, problem.v, problem.gates)
    found: tuple[Tensor | None, ...] = torch.autograd.grad(output, leaves, problem.grad, allow_unused=True)
    return found


def stacked(found: Sequence[Tensor | None]) -> Tensor:
    """Return gradients [B, S, H, D] as one tensor for the gate: a row is some GRADIENT_ROW neighbouring tokens of one head.

    A token alone is too little: the gradient of the first query is zero but for rounding, since its softmax is constant. Shorter
    rows are repeated up to the width of the longest, which changes no norm that they are held against.
    """
    rows = []
    for one in found:
        if one is not None:
            pieces = one.transpose(1, 2).tensor_split(-(-one.shape[1] // GRADIENT_ROW), 2)
            rows += [piece.flatten(2).flatten(0, 1) for piece in pieces]
    width = max(row.shape[-1] for row in rows)
    return torch.cat([row[:, torch.arange(width, device=row.device) % row.shape[-1]] for row in rows])
