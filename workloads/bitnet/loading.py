"""A model as transformers loads it, held to what a BitNet must be: what is none, or makes no sense, is refused."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from runner.worker.workload import Incorrect, Unsupported
from workloads.bitnet import parts, reference, source, ternary
from workloads.bitnet.architecture import LINEARS, MODEL_CLASS, MODEL_TYPE, Architecture
from workloads.bitnet.quality import WINDOW, perplexity
from workloads.bitnet.text import TEXT

DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
RECOMPILE_LIMIT = 64
"""transformers compiles its quantisers anew for each kind of shape; beyond PyTorch's limit of 8 they would go on uncompiled."""


@dataclass(frozen=True)
class Model:
    """A model that passed: `ids` are the tokens of the text [len], `perplexity` is transformers', the next the reference's.

    `worst_part_error` is the largest relative L2 error of an attention or MLP given the same input.
    """

    network: Any
    tokenizer: Any
    architecture: Architecture
    ids: Tensor
    perplexity: float
    perplexity_reference: float
    worst_part_error: float

    @property
    def memory_mb(self) -> float:
        """MB (10^6 bytes) that parameters and buffers take on the device, shared ones once."""
        held = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.network.parameters(), *self.network.buffers())}
        return float(sum(held.values()) / 1e6)


def config_of(folder: Path) -> Any:
    """Return the model's config as transformers reads it."""
    return source.imported("transformers").AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def load(params: Mapping[str, Any], dtype: str, device: torch.device) -> Model:
    """Load and check the model that the params name.

    Raises Unsupported where there is none to load, Incorrect when it is not what it should be: the class, the keys, the number
    of parameters, ternary weights, the device of each layer, the perplexity, each attention and MLP.
    """
    source.require(params)
    folder = source.folder(params)
    _check_type(folder)
    transformers = source.imported("transformers")
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, RECOMPILE_LIMIT)
    network, info = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        dtype=DTYPES[dtype],
        device_map={"": str(device)},
        output_loading_info=True,
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    network.eval().requires_grad_(False)
    _refuse(structure_faults(network, info, device))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    ids = torch.tensor(tokenizer(_text(params)).input_ids, device=device)
    if int(ids.max()) >= network.config.vocab_size:
        raise Incorrect(f"the tokenizer has token id {int(ids.max())}, the model {network.config.vocab_size} rows")
    architecture = Architecture.of(network.config)
    window = min(WINDOW, architecture.max_positions)
    found = perplexity(lambda part: network(part, use_cache=False).logits, ids, window)
    true = perplexity(lambda part: reference.logits(network, part), ids, window)
    _refuse(perplexity_faults(found, true, params["max_perplexity"], params["perplexity_tolerance"]))
    errors = parts.errors(network, ids[None, : min(parts.TOKENS, window)])
    _refuse(parts.faults(errors))
    return Model(network, tokenizer, architecture, ids, found, true, max(errors.values()))


def _refuse(faults: Iterable[str]) -> None:
    if text := "; ".join(faults):
        raise Incorrect(text)


def _check_type(folder: Path) -> None:
    """Let a BitNet pass, and a Llama, as which a BitNet may have been saved: all that is wrong then is worth saying."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Unsupported(f"{folder} has no config.json that can be read ({error}); name the folder of a model") from error
    if config.get("model_type") not in (MODEL_TYPE, "llama"):
        own = ", and it comes with code of its own, which is never run" if config.get("auto_map") else ""
        raise Incorrect(f"the config says model_type {config.get('model_type')}, not {MODEL_TYPE}{own}")


def _text(params: Mapping[str, Any]) -> str:
    if not params["text"]:
        return TEXT
    try:
        return Path(params["text"]).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Unsupported(f"can't read workload.params.text={params['text']}: {error}; null is the bundled text") from error


def linears(network: Any) -> list[tuple[str, Any]]:
    """Return the linear layers of all decoder layers with their names."""
    layers = enumerate(network.model.layers)
    return [(f"layers.{index}.{name}", layer.get_submodule(name)) for index, layer in layers for name in LINEARS]


def ternary_layers(network: Any) -> int:
    """Count the linear layers whose weights are ternary."""
    return sum(ternary.fault(layer) is None for _, layer in linears(network))


def layers_on(network: Any, device: torch.device) -> int:
    """Count the decoder layers that are on the kind of device with all their tensors."""
    held = [[*layer.parameters(), *layer.buffers()] for layer in network.model.layers]
    return sum(all(tensor.device.type == device.type for tensor in tensors) for tensors in held)


def parameters(network: Any) -> int:
    """Count the model's parameters: shared ones once, packed ones by what they stand for."""
    packed = sum(layer.weight.numel() * ternary.PER_BYTE for _, layer in linears(network) if ternary.kind(layer) == "packed")
    return int(packed + sum(one.numel() for one in network.parameters()))


def structure_faults(network: Any, info: Mapping[str, Iterable[Any]], device: torch.device) -> list[str]:
    """Say what is wrong with the class, the keys, the number of parameters, the linear layers or where the layers are."""
    faults, found, architecture = [], type(network).__name__, Architecture.of(network.config)
    named = (getattr(network.config, "architectures", None) or [found])[0]
    if {found, named} != {MODEL_CLASS}:
        said = "" if named == found else f" (the config names {named})"
        faults.append(f"loaded as {found}{said}, not {MODEL_CLASS}")
    for what in ("missing", "unexpected", "mismatched"):
        if keys := sorted(map(str, info.get(f"{what}_keys", ()))):
            faults.append(f"{len(keys)} {what} keys, as in {keys[0]}")
    if (counted := parameters(network)) != architecture.parameters:
        faults.append(f"{counted} parameters, a BitNet of this config has {architecture.parameters}")
    if wrong := [(name, fault) for name, layer in linears(network) if (fault := ternary.fault(layer))]:
        faults.append(f"{len(wrong)} linear layers not ternary: {wrong[0][0]} {wrong[0][1]}")
    if (there := layers_on(network, device)) != architecture.num_layers:
        faults.append(f"{there} of {architecture.num_layers} layers are on {device}")
    return faults


def perplexity_faults(found: float, true: float, highest: float, tolerance: float) -> list[str]:
    """Say whether a perplexity is too high, or too far from the reference's; NaN is."""
    faults = []
    if not found <= highest:
        faults.append(f"perplexity {found:.4g} on the text is over {highest}: it does not model this language")
    if not abs(found / true - 1) <= tolerance:
        faults.append(f"perplexity {found:.4g} on the text, where the float64 reference has {true:.4g}")
    return faults
