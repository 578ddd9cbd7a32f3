"""Looks for wrong results and races of the kernels on a GPU: random shapes against float64, and the same call 1,000 times.

    PYTHONPATH=. python benchmarks/check_kernels.py --out docs/results/h200/check_kernels.json

Shapes are drawn anew for each --seed and go through the workloads' own references and gate. What is repeated must be equal bit
by bit. A decode step is also captured into a CUDA graph once and replayed while its sequences grow. Needs a CUDA GPU.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from runner import spec
from runner.paths import conf_dir
from runner.worker import gate
from runner.worker.device import software
from runner.worker.workload import Context, Workload
from workloads.nsa import decode, prefill, step
from workloads.nsa.cache import Cache
from workloads.nsa.geometry import Geometry
from workloads.ternary import WORKLOAD as TERNARY

BOUNDS = spec.Gate(**yaml.safe_load((conf_dir() / "measure" / "default.yaml").read_text())["gate"])
PAPER = {"block_len": 32, "stride": 16, "select_len": 64, "num_select": 16, "window": 512, "lengths": "equal"}
LAYERS = {"one": [4096, 4096]}


def decode_cases(pick: random.Random, count: int) -> Iterator[dict[str, Any]]:
    """The paper's shape at both ends of its contexts and in large batches, then random ones."""
    paper = PAPER | {"heads": 64, "kv_heads": 4, "head_dim": 128, "v_head_dim": 128, "dtype": "bf16"}
    yield from (paper | {"batch": batch, "context": context} for batch, context in ((1, 262144), (64, 8192), (16, 32), (1, 47)))
    for _ in range(count):
        kv_heads = pick.choice([1, 2, 4])
        yield PAPER | {
            "batch": pick.randint(1, 5), "context": pick.randint(32, 20000), "kv_heads": kv_heads,
            "heads": kv_heads * pick.choice([1, 2, 3, 4, 8, 16]), "head_dim": pick.choice([64, 128, 192]),
            "v_head_dim": pick.choice([64, 96, 128]), "dtype": pick.choice(["bf16", "fp16"]),
            "lengths": pick.choice(["equal", "ragged"]),
        }  # fmt: skip


def prefill_cases(pick: random.Random, count: int) -> Iterator[dict[str, Any]]:
    """Random prompts."""
    for _ in range(count):
        kv_heads = pick.choice([1, 2])
        yield PAPER | {
            "batch": pick.randint(1, 2), "seq_len": pick.randint(64, 6000), "kv_heads": kv_heads, "pass": "forward",
            "heads": kv_heads * pick.choice([1, 2, 4, 8, 16]), "head_dim": pick.choice([64, 128, 192]),
            "v_head_dim": pick.choice([64, 128]), "dtype": pick.choice(["bf16", "fp16"]),
        }  # fmt: skip


def ternary_cases(pick: random.Random, count: int) -> Iterator[dict[str, Any]]:
    """Random layers; their sizes go into LAYERS."""
    for number in range(count):
        LAYERS[str(number)] = [pick.randint(1, 6000), pick.randint(1, 9000)]
        yield {"m": pick.choice([1, 2, 3, 8, 9, 16, 17, 64, 300]), "layer": str(number)}


def inputs_of(workload: Workload, case: Mapping[str, Any], seed: int) -> tuple[Any, ...]:
    """The inputs of a case on the GPU."""
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return workload.inputs(dict(case), Context(torch.device("cuda"), {"check_rows": 512, "layers": LAYERS}, generator))


def hold(workload: Workload, name: str, case: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """Hold one variant against the reference on one case."""
    variant, inputs = workload.variants[name], inputs_of(workload, case, seed)
    prepared = variant.prepare(inputs)
    found = variant.finish(variant.run(*prepared), prepared)
    reference = workload.computed_by(name).reference(*inputs).double()
    result = gate.check(found, reference, BOUNDS.rel_l2[variant.dtype_of(case)], BOUNDS)
    return {"variant": name, "case": dict(case) | ({"layer": LAYERS[case["layer"]]} if "layer" in case else {}),
            "rel_l2": result.rel_l2, "failure": result.failure}  # fmt: skip


def repeat(workload: Workload, name: str, case: Mapping[str, Any], times: int) -> dict[str, Any]:
    """Call one variant again and again on the same inputs, and count the results that are not the first one's bits."""
    variant = workload.variants[name]
    prepared = variant.prepare(inputs_of(workload, case, 0))
    first = tensors(variant.run(*prepared))
    differ = sum(
        any(not torch.equal(one, other) for one, other in zip(first, tensors(variant.run(*prepared)), strict=True))
        for _ in range(times)
    )
    return {"variant": name, "case": dict(case), "repeats": times, "differ": differ}


def tensors(output: Any) -> list[torch.Tensor]:
    """What a variant gave."""
    return list(output) if isinstance(output, tuple) else [output]


def replay_while_growing(steps: int) -> dict[str, Any]:
    """Capture a decode step once, let every sequence grow by a token, replay; count what a fresh call does not give."""
    geometry, lengths, room = Geometry(), [4000, 31, 1040], 4000 + steps
    q, k, v = (torch.randn(3, tokens, heads, 128, device="cuda").bfloat16() for tokens, heads in ((1, 32), (room, 2), (room, 2)))
    gates = torch.rand(3, 1, 32, 3, device="cuda").bfloat16()
    cache = Cache.of(k, v, lengths, geometry)
    workspace = step.workspace_for(q, cache)
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        step.whole_triton(q, gates, cache, None, workspace)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=side):
        output, blocks = step.whole_triton(q, gates, cache, None, workspace)
    differ = 0
    for more in range(1, steps + 1):
        cache.ends += 1  # in place: where the graph reads it
        graph.replay()
        fresh = Cache.of(k, v, [length + more for length in lengths], geometry)
        fresh.pooled_k[:, :], fresh.pooled_v[:, :] = cache.pooled_k, cache.pooled_v
        again, chosen = step.whole_triton(q, gates, fresh, None, step.workspace_for(q, fresh))
        differ += not (torch.equal(output, again) and torch.equal(blocks, chosen))
    return {"steps": steps, "differ": differ}


def main() -> int:
    """Read the command line, check, write; 1 when something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shapes", type=int, default=8, help="random ones for each kind of kernel")
    parser.add_argument("--repeats", type=int, default=1000)
    given = parser.parse_args()
    pick = random.Random(given.seed)
    held = [hold(decode.WORKLOAD, "whole_triton", case, i) for i, case in enumerate(decode_cases(pick, given.shapes))]
    held += [hold(prefill.WORKLOAD, "whole", case, i) for i, case in enumerate(prefill_cases(pick, given.shapes))]
    for i, case in enumerate(ternary_cases(pick, given.shapes)):
        held += [hold(TERNARY, name, case, i) for name in ("packed2bit", "packed2bit_int8")]
    bf16 = PAPER | {"heads": 64, "kv_heads": 4, "head_dim": 128, "v_head_dim": 128, "dtype": "bf16"}
    repeated = [
        repeat(decode.WORKLOAD, "whole_triton", bf16 | {"batch": batch, "context": context}, given.repeats)
        for batch, context in ((1, 65536), (16, 8192))
    ]
    repeated.append(repeat(prefill.WORKLOAD, "whole", bf16 | {"batch": 1, "seq_len": 4160, "pass": "forward"}, given.repeats))
    for name in ("packed2bit", "packed2bit_int8"):
        repeated += [repeat(TERNARY, name, {"m": m, "layer": "one"}, given.repeats) for m in (1, 8)]
    grown = replay_while_growing(100)
    report = {"software": software(), "gpu": torch.cuda.get_device_name(), "held": held, "repeated": repeated, "grown": grown}
    if given.out:
        given.out.write_text(json.dumps(report, indent=1) + "\n")
    wrong = [one for one in held if one["failure"]]
    races = [one for one in repeated if one["differ"]]
    print(f"{len(held)} shapes, wrong: {wrong}\n{len(repeated)} calls repeated, differing: {races}\na graph replayed: {grown}")
    return int(bool(wrong or races or grown["differ"]))


if __name__ == "__main__":
    sys.exit(main())
