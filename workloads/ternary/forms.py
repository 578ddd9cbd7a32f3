"""What the variants share: weights are brought into a form once, and their bytes and the error are figures of every form."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Figure, Inputs, Variant
from workloads.ternary.problem import reference

Hold = Callable[[Tensor, Tensor, Tensor], tuple[Any, ...]]
"""From activations, weights and scale to what `run` takes: activations first, then the weights in the variant's form."""


def form(
    run: Callable[..., Tensor], hold: Hold, dtype: str, operation: str = "dense", finish: Callable[..., Tensor] | None = None
) -> Variant:
    """Return the variant `run(*held)`, with `held` from `hold`; `finish(output, *held)` brings its output to the units of y."""

    def prepare(inputs: Inputs) -> Inputs:
        return (*hold(*inputs), inputs)

    def timed(*prepared: Any) -> Tensor:
        return run(*prepared[:-1])

    def finished(output: Tensor, prepared: Inputs) -> Tensor:
        return finish(output, *prepared[:-1]) if finish else output

    def figures(output: Tensor, prepared: Inputs) -> Mapping[str, Figure]:
        truth = reference(*prepared[-1])
        off = torch.linalg.vector_norm(finished(output, prepared).double() - truth) / torch.linalg.vector_norm(truth)
        return {"weight_mb": Figure(prepared[1].nbytes / 1e6), "rel_error": Figure(float(off))}

    return Variant(timed, dtype=dtype, prepare=prepare, finish=finished, operation=operation, figures=figures)


def linear(x: Tensor, weights: Tensor, scale: float) -> Tensor:
    """Return x W^T * scale by one matmul in the dtype that both have: the scale is the matmul's own factor, which is free."""
    unread = x.new_empty(1)  # what addmm would add, times beta
    return torch.addmm(unread, x, weights.t(), beta=0, alpha=scale)
