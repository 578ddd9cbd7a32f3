"""What really ran: the names of the kernels (GPU) or operators (CPU) behind one call, as evidence of the backend."""

import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from runner.worker.device import Device
from runner.worker.timers import Call

KEPT = 8


def kernels(call: Call, device: Device, capturable: bool = True) -> list[str] | None:
    """Return the names of what one call ran, in order, each once and at most eight; None where that can't be told.

    On a GPU the call is captured into a CUDA graph and the graph's kernel nodes are listed: the profiler would do too, but
    it stays attached to the process and slows later launches. On a CPU, and for what can't be captured, the operators are
    listed as they are dispatched; where something was compiled, which a dispatch mode would break, the profiler lists them.
    A call that is not `capturable` must not be captured.
    """
    found: list[str] = []
    try:
        if device.torch_device.type == "cuda" and capturable:
            found = _captured(call)
    except (RuntimeError, OSError):
        torch.cuda.synchronize()
    try:
        found = found or (_profiled(call) if "torch._dynamo" in sys.modules else _dispatched(call))
    except RuntimeError:  # the call refuses to be watched
        return None
    return list(dict.fromkeys(found))[:KEPT]


def _captured(call: Call) -> list[str]:
    graph = torch.cuda.CUDAGraph(keep_graph=True)
    graph.enable_debug_mode()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.graph(graph, stream=stream):
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.dot"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch announces that it dumps
            graph.debug_dump(str(path))
        return parse_dot(path.read_text())


def parse_dot(text: str) -> list[str]:
    """Return the kernel names in the dump of a CUDA graph (Graphviz), in order."""
    return re.findall(r"(\w+)\\<\\<\\<", text)


class _Operators(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # True, the default, imports torch._dynamo at the first call: 1.7 s

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call] # torch leaves it untyped
        self.names: list[str] = []

    def __torch_dispatch__(
        self,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        self.names.append(str(function))
        return function(*args, **(kwargs or {}))


def _profiled(call: Call) -> list[str]:
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return [event.name for event in profile.events() if event.cpu_parent is None]


def _dispatched(call: Call) -> list[str]:
    with _Operators() as operators:
        call()
    names: list[str] = operators.names
    return names
