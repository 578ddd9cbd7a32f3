"""One training step: forward, loss, backward, AdamW; and the check that the optimizer did what AdamW's first step is."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from runner.worker.workload import Axes, Incorrect, Inputs, Variant
from workloads.train_step import block, reference
from workloads.train_step.reference import Problem
from workloads.train_step.shape import Shape

LEARNING_RATE, BETAS, ADAM_EPS, WEIGHT_DECAY = 3e-4, (0.9, 0.95), 1e-8, 0.1
"""As Llama models were pretrained."""

UPDATE_OFF = 1e-3
"""How far a parameter's update may be off, in root mean square over the learning rate: float32 holds 1 - 3e-4 to four digits of
the 3e-4."""

GRADIENT_REL_L2 = 0.02
"""Bound in 16 bits: in the backward of a softmax nearly equal terms are subtracted, each rounded to 8 or 11 bits."""


class Step(NamedTuple):
    """float32 parameters by name, their optimizer, the input, whose gradient is wanted too, the attention; what it began with."""

    weights: dict[str, Tensor]
    optimizer: torch.optim.AdamW
    x: Tensor
    attend: block.Attend
    problem: Problem


Output = tuple[Tensor, list[Tensor], Tensor | None]
"""The block's output, the gradients of its parameters and of its input, and chosen blocks."""


def run(step: Step) -> Output:
    """Do one step. The gradients are handed out, so that none are left to be cleared by the next."""
    p = step.problem
    output, blocks = block.forward(step.weights, step.x, p.tables, p.shape, step.attend)
    loss = (output.float() - p.target).square().sum() / 2
    loss.backward()
    step.optimizer.step()
    leaves = [*step.weights.values(), step.x]
    gradients = [one.grad for one in leaves if one.grad is not None]
    step.optimizer.zero_grad(set_to_none=True)
    step.x.grad = None
    return output.detach(), gradients, blocks


def reset(step: Step) -> None:
    """Bring back the parameters and the optimizer as they were before the first step, in place: graphs hold their addresses."""
    with torch.no_grad():
        for name, one in step.weights.items():
            one.copy_(step.problem.weights[name])
    for state in step.optimizer.state.values():
        for value in state.values():
            value.zero_()


def variant(attention: Callable[[Shape, torch.device], block.Attend], sparse: bool = False) -> Variant:
    """Return the variant that trains a block with this attention."""

    def prepare(inputs: Inputs) -> Inputs:
        p: Problem = inputs[0]
        weights = {name: one.clone().requires_grad_() for name, one in p.of(sparse).items()}
        optimizer = torch.optim.AdamW(
            weights.values(),
            lr=LEARNING_RATE,
            betas=BETAS,
            eps=ADAM_EPS,
            weight_decay=WEIGHT_DECAY,
            fused=True,
            capturable=p.x.is_cuda,  # the step count stays on the GPU, as a CUDA graph needs it
        )
        return (Step(weights, optimizer, p.x.detach().requires_grad_(), attention(p.shape, p.x.device), p),)

    def finish(output: Output, prepared: Inputs) -> Tensor:
        step: Step = prepared[0]
        found, gradients, blocks = output
        check_update(step, gradients)
        rows = reference.rows(found, gradients, list(step.weights), step.problem.shape)
        return rows if blocks is None else reference.settled(rows, blocks.long(), step.problem)

    return Variant(
        run,
        prepare=prepare,
        finish=finish,
        reset=lambda prepared: reset(*prepared),
        counters=lambda output, prepared: moved(*prepared),
        operation="sparse" if sparse else "dense",
        rel_l2=_rel_l2,
    )


def _rel_l2(axes: Axes) -> float | None:
    return None if axes["dtype"] == "fp32" else GRADIENT_REL_L2


def check_update(step: Step, gradients: list[Tensor]) -> None:
    """Hold the parameters after the first step against AdamW's equations (arXiv 1711.05101), given the gradients there were.

    Bias correction makes the first step -lr (g / (|g| + eps) + decay w): a sign, hence no measure of gradients, which are held
    against the reference themselves. Raises Incorrect when it is another.
    """
    if len(gradients) != len(step.weights) + 1:
        raise Incorrect(f"{len(gradients)} gradients for {len(step.weights)} parameters and the input")
    for (name, after), gradient in zip(step.weights.items(), gradients, strict=False):
        before, g = step.problem.weights[name].double(), gradient.double()
        expected = -LEARNING_RATE * (g / (g.abs() + ADAM_EPS) + WEIGHT_DECAY * before)
        off = float((after.detach().double() - before - expected).square().mean().sqrt()) / LEARNING_RATE
        if not off <= UPDATE_OFF:
            raise Incorrect(f"AdamW moved {name} otherwise than its first step is: off by {off:.2e} of the learning rate")


def moved(step: Step) -> dict[str, int]:
    """Return how many numbers are in the parameters that the optimizer moved, and how many steps it says that it did."""
    steps: set[Any] = {int(state["step"]) for state in step.optimizer.state.values()}
    differing = [one for name, one in step.weights.items() if not torch.equal(one, step.problem.weights[name])]
    return {"parameters_moved": sum(one.numel() for one in differing), "optimizer_steps": max(steps, default=0)}
