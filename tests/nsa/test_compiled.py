"""The kernels of a decode step compile for GPUs that are not here: what the interpreter takes, the compiler may refuse."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch

from workloads.nsa import step
from workloads.nsa.cache import Cache
from workloads.nsa.geometry import Geometry

triton = pytest.importorskip("triton")
pytestmark = pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")

TYPES = {
    torch.bfloat16: "*bf16", torch.float32: "*fp32", torch.int32: "*i32", torch.int64: "*i64", float: "fp32", int: "i32",
}  # fmt: skip
OPTIONS = ("num_warps", "num_stages", "launch_pdl")


def compiled(kernel: Any, given: tuple[Any, ...], named: dict[str, Any], sm: int) -> Any:
    """Compile one launch for `sm` as the launch would, but for what it learns of the values' alignment."""
    options = {name: named.pop(name) for name in OPTIONS if name in named}
    values = inspect.signature(kernel.fn).bind(*given, **named).arguments
    constants = {name: values[name] for name in (p.name for p in kernel.params if p.is_constexpr)}
    types = {
        name: TYPES[value.dtype if isinstance(value, torch.Tensor) else type(value)]
        for name, value in values.items()
        if name not in constants
    }
    signature = {name: types.get(name, "constexpr") for name in kernel.arg_names}
    source = triton.compiler.ASTSource(kernel, signature, constants)
    return triton.compile(source, target=triton.backends.compiler.GPUTarget("cuda", sm, 32), options=options)


@pytest.mark.parametrize("sm", [
    90, *(pytest.param(sm, marks=pytest.mark.long) for sm in (80, 86, 89)),
])  # fmt: skip
@pytest.mark.parametrize("group", [1, 16])
def test_a_decode_step_compiles(sm: int, group: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    found: dict[str, Any] = {}

    def launch(kernel: Any, *given: Any, grid: Any, warmup: bool, **named: Any) -> None:
        found[kernel.fn.__name__] = compiled(kernel, given, named | ({"EARLY": True} if sm >= 90 else {}), sm)

    monkeypatch.setattr(triton.runtime.jit.JITFunction, "run", launch)
    q, gates = torch.zeros(1, 1, group, 128, dtype=torch.bfloat16), torch.zeros(1, 1, group, 3, dtype=torch.bfloat16)
    k = torch.zeros(1, 1000, 1, 128, dtype=torch.bfloat16)
    cache = Cache.of(k, k, [1000], Geometry())
    from workloads.nsa.kernels.decode_plan import Workspace  # imports Triton

    step.whole_triton(q, gates, cache, torch.tensor([[999]]), Workspace.of(q, k, k, Geometry()))
    assert set(found) == {"_decode_compressed", "_decode_choose", "_decode_attend", "_decode_sum"}
    room = 232448 if sm == 90 else 101376  # bytes of a block; of SM 8.x the least has
    assert all(one.metadata.shared <= room for one in found.values())
