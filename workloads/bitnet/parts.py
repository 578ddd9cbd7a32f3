"""Each attention and each MLP held to the reference by itself, given what transformers gave it.

Over many layers the steps of the quantisers add up, and the logits can be held to a wide bound only. Within one part few steps
differ, so that a norm left out, a rotation or a scale that is wrong stands out.
"""

from typing import Any

import torch
from torch import Tensor

from workloads.bitnet import reference

TOKENS = 256
"""How many of the text each part is given."""
BOUND = 0.05
"""On the relative L2 error of a part's output. Seen: up to 0.023 in bf16 and 0.001 in fp32; 0.8 and more without a sub-norm."""


@torch.no_grad()
def errors(network: Any, ids: Tensor) -> dict[str, float]:
    """Return the relative L2 error of every part by its name, on tokens [batch, len]."""
    found: dict[str, float] = {}
    theta = network.config.rope_parameters["rope_theta"]

    def hold(name: str, output: Tensor, true: Tensor) -> None:
        found[name] = float(torch.linalg.vector_norm(output.double() - true) / torch.linalg.vector_norm(true))

    def after(name: str) -> Any:
        def hook(module: Any, given: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
            x = (given[0] if given else named["hidden_states"]).double()
            if name.endswith("self_attn"):
                hold(name, output[0], reference.attention(x, module, theta))
            else:
                hold(name, output, reference.mlp(x, module))

        return hook

    parts = {f"layers.{index}.{name}": layer for index, layer in enumerate(network.model.layers) for name in ("self_attn", "mlp")}
    hooks = [
        getattr(layer, name.rsplit(".", 1)[1]).register_forward_hook(after(name), with_kwargs=True)
        for name, layer in parts.items()
    ]
    try:
        network(ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def faults(errors: dict[str, float]) -> list[str]:
    """Name the worst part if it is over the bound; NaN is."""
    wrong = {name: error for name, error in errors.items() if not error <= BOUND}
    if not wrong:
        return []
    name = max(wrong, key=lambda one: wrong[one])
    return [f"{len(wrong)} parts differ from the float64 reference: {name} by {wrong[name]:.2g}, over {BOUND}"]
