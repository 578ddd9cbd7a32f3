"""Generation with a BitNet b1.58 model through Hugging Face transformers: reading a prompt, and one token more.

| module | idea |
|---|---|
| source | which files: a folder, or a pinned revision of the hub |
| architecture | what a config implies: parameters in closed form, least work |
| loading | the model as transformers loads it, and what is wrong with it |
| ternary | the ternary weights of a quantised layer |
| reference, parts | the model in float64, unfused; each attention and MLP held to it |
| quality | perplexity, repetition, answers |
| text | the bundled text |
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import (
    Axes,
    Context,
    Figure,
    Incorrect,
    Inputs,
    Operation,
    Params,
    Unsupported,
    Variant,
    Work,
    Workload,
)
from workloads.bitnet import reference, source
from workloads.bitnet.architecture import Architecture
from workloads.bitnet.loading import Model, config_of, layers_on, load, parameters, ternary_layers
from workloads.bitnet.quality import quality

REL_L2 = {"bf16": 0.25, "fp32": 0.1}
"""Bounds on the logits, wider than a matmul's. Rounding moves some activation over an edge of the 8-bit quantiser, by a whole
step, and the next layer's quantiser makes more of that, until any two ways to compute differ by about the steps themselves. Seen:
up to 1e-4 in fp32 and 0.4% in bf16 for two trained layers, 5% and 12% for thirty untrained ones. `parts` has a closer bound."""


@dataclass(frozen=True)
class Problem:
    """The model, what of its params the figures need, and the tokens [batch, prompt_len + 1] of a case."""

    model: Model
    params: Params
    ids: Tensor


@dataclass(frozen=True)
class Refused:
    """Why no variant may run: `prepare` is where a variant says so."""

    reason: str


def inputs(axes: Axes, context: Context) -> Inputs:
    """Load the model and cut prompts from the text, each from a place of its own, with the token that comes after it."""
    try:
        model = load(context.params, axes["dtype"], context.device)
    except Incorrect as error:
        return (Refused(str(error)),)
    length = axes["prompt_len"] + 1
    if length > model.architecture.max_positions:
        raise Unsupported(f"the model has {model.architecture.max_positions} positions, prompt_len + 1 is {length}")
    starts = torch.randint(len(model.ids), (axes["batch"], 1), device=context.device, generator=context.generator)
    places = starts + torch.arange(length, device=context.device)
    return (Problem(model, context.params, model.ids[places % len(model.ids)]),)


def _reference(skip: int) -> Any:
    """Return what computes the true logits of the last position, `skip` tokens before the end, with no cache."""

    def compute(problem: Problem | Refused) -> Tensor:
        if isinstance(problem, Refused):  # nothing will be compared with this
            return torch.zeros(1, 1, dtype=torch.float64)
        ids = problem.ids[:, : problem.ids.shape[1] - skip]
        return reference.logits(problem.model.network, ids, last_only=True)

    return compute


def _accepted(inputs: Inputs) -> Problem:
    """Return the problem; raises Incorrect when the model was refused."""
    problem: Problem | Refused = inputs[0]
    if isinstance(problem, Refused):
        raise Incorrect(problem.reason)
    return problem


def _prefill_inputs(inputs: Inputs) -> Inputs:
    problem = _accepted(inputs)
    return problem.model, problem.ids[:, :-1].contiguous(), problem


@torch.no_grad()
def _prefill(model: Model, ids: Tensor, problem: Problem) -> Tensor:
    """Read the prompts into a new cache, as `generate` does; return the logits of the last token [batch, vocab]."""
    logits: Tensor = model.network(ids, use_cache=True, logits_to_keep=1).logits[:, -1]
    return logits


@torch.no_grad()
def _decode_inputs(inputs: Inputs) -> Inputs:
    """Read the prompts into a static cache with room for one token more, in eights, as attention kernels want their masks.

    Its layers count their tokens each by itself; here the counts are views of one tensor, so that one fill takes the step back.
    """
    problem = _accepted(inputs)
    model, network, prompt_len = problem.model, problem.model.network, problem.ids.shape[1] - 1
    cache = source.imported("transformers").StaticCache(config=network.config, max_cache_len=-(-(prompt_len + 1) // 8) * 8)
    network(problem.ids[:, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
    lengths = torch.full((len(cache.layers),), prompt_len, device=problem.ids.device)
    for index, layer in enumerate(cache.layers):
        layer.cumulative_length = lengths[index]
    return model, problem.ids[:, -1:].contiguous(), problem, cache, lengths, prompt_len


@torch.no_grad()
def _decode(model: Model, ids: Tensor, problem: Problem, cache: Any, lengths: Tensor, prompt_len: int) -> Tensor:
    """Take one step for every sequence, always the same one; return its logits [batch, vocab]."""
    lengths.fill_(prompt_len)
    logits: Tensor = model.network(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    return logits


def _float(output: Tensor, prepared: Inputs) -> Tensor:
    return output.double()


def _figures(output: Tensor, prepared: Inputs) -> Mapping[str, Figure]:
    """What the model is."""
    model, ids = prepared[0], prepared[1]
    found = {
        "perplexity": model.perplexity,
        "perplexity_reference": model.perplexity_reference,
        "worst_part_error": model.worst_part_error,
        "parameters_millions": parameters(model.network) / 1e6,
        "model_memory_mb": model.memory_mb,
        "layers_on_device": layers_on(model.network, ids.device),
        "ternary_layers": ternary_layers(model.network),
    }
    return {name: Figure(value) for name, value in found.items()}


def _figures_and_quality(output: Tensor, prepared: Inputs) -> Mapping[str, Figure]:
    """What the model is, and how well it writes."""
    model, params = prepared[0], prepared[2].params
    written = quality(model.network, model.tokenizer, params["prompts"], params["new_tokens"])
    return {**_figures(output, prepared), **{name: Figure(value) for name, value in vars(written).items()}}


def _work(step: str) -> Any:
    def work(axes: Axes, params: Params, dtype: str) -> Work:
        found: Work = getattr(Architecture.of(config_of(source.folder(params))), step)(axes["batch"], axes["prompt_len"], dtype)
        return found

    return work


WORKLOAD = Workload(
    inputs=inputs,
    rates_by="wall",  # a step of the class needs the host for longer than the GPU, and whoever generates waits for it
    operations={
        "prefill": Operation(_reference(skip=1), _work("prefill")),
        "decode": Operation(_reference(skip=0), _work("decode")),
    },
    variants={
        "prefill": Variant(
            _prefill,
            operation="prefill",
            prepare=_prefill_inputs,
            finish=_float,
            figures=_figures,
            rel_l2=lambda axes: REL_L2[axes["dtype"]],
        ),
        "decode": Variant(
            _decode,
            operation="decode",
            prepare=_decode_inputs,
            finish=_float,
            figures=_figures_and_quality,
            rel_l2=lambda axes: REL_L2[axes["dtype"]],
        ),
    },
)
