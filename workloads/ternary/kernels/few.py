"""A few rows of activations, up to 16, by a CUDA kernel (few.cu): one launch, at the pace of the memory that the weights are in.

It is CUDA C++, compiled on first use by the NVRTC that comes with PyTorch: no compiler needs to be installed. What Triton doesn't
have, and this needs: activations that stay in shared memory while a program goes through many tiles of weights, and weights that
go from registers straight into a tensor core's operand. A kernel is compiled for one shape, which takes a second or two.

Consecutive calls overlap from SM 9.0 on (programmatic dependent launch): a call loads its first weights while the kernel before
it ends, and waits for that one's end before it reads activations or writes. So neither the kernel right before nor, where several
calls follow each other, the one before the first of them may write weights.
"""

import ctypes
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from workloads.ternary.packing import GROUP, GROUP_BYTES

MOST_ROWS = 16
ROWS, MOST_WARPS, MOST_DEPTH = 32, 16, 3
"""Rows of weights in a tile, warps of a block, and steps that a warp loads ahead; see few.cu."""

SLOT_BYTES = ROWS * GROUP_BYTES
PROGRAMMATIC_STREAM_SERIALIZATION = 6
"""CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION in cuda.h."""


@dataclass(frozen=True)
class Few:
    """A block has `warps`, each `steps` groups of 256 columns of a tile, loaded `depth` steps ahead, `first` of them before x.

    Sums of `held` tiles are added at a time; `blocks` share a multiprocessor. `split` blocks, a cluster, share the columns.
    """

    warps: int
    steps: int
    depth: int
    first: int
    held: int
    blocks: int
    split: int
    early: bool
    grid: int
    shared_bytes: int


@dataclass(frozen=True)
class Chip:
    """What a plan depends on: multiprocessors, shared memory of a block and of a multiprocessor, and SM 9.0's early launch."""

    processors: int
    block_bytes: int
    processor_bytes: int
    early: bool

    @classmethod
    def of(cls, device: torch.device) -> "Chip":
        """Return this GPU's."""
        found = torch.cuda.get_device_properties(device)
        block_bytes: int = getattr(found, "shared_memory_per_block_optin")  # noqa: B009 (PyTorch's stubs lack it)
        return cls(found.multi_processor_count, block_bytes, found.shared_memory_per_multiprocessor, found.major >= 9)


def shared(m: int, groups: int, eight: bool, split: int, warps: int, depth: int, held: int) -> int:
    """Return a block's bytes of shared memory: weights on their way, activations, sums, and two numbers a row."""
    x_row = groups * GROUP * (1 if eight else 2) + 64
    sums = warps + (2 * split if split > 1 else 0)
    return depth * warps * SLOT_BYTES + m * x_row + held * sums * m * ROWS * 4 + 8 * m


def few(m: int, n: int, k: int, eight: bool, chip: Chip) -> Few | None:
    """Return how m rows meet n x k weights, or None where they are too many, not in 16 bytes, or don't fit in shared memory.

    Two blocks share the columns where each would have as many bytes of activations to read as of weights, and all its tiles'
    sums fit at once, so that the two meet once: a tenth faster then, and slower elsewhere (docs/kernels.md).
    """
    if m > MOST_ROWS or k % 8:
        return None
    groups, tiles = -(-k // GROUP), -(-n // ROWS)
    halves = groups % 2 == 0 and groups >= 2 * MOST_WARPS and 2 * m * k * chip.processors >= n * k // 4
    together = _plan(m, groups // 2, tiles, eight, 2, chip) if chip.early and halves else None
    if together and together.held * together.grid // 2 >= tiles:
        return together
    return _plan(m, groups, tiles, eight, 1, chip)


def _plan(m: int, groups: int, tiles: int, eight: bool, split: int, chip: Chip) -> Few | None:
    """Every warp has the same number of groups where the depth allows it; a block with few warps shares its multiprocessor.

    The first step is loaded before x is, so that x doesn't wait behind all of them.
    """
    steps = -(-groups // MOST_WARPS)
    warps = -(-groups // steps)
    blocks = MOST_WARPS // warps
    room = min(chip.block_bytes, chip.processor_bytes // blocks - 1024)
    teams = min(tiles, chip.processors * blocks // split)
    most = -(-tiles // teams)
    for depth in range(min(MOST_DEPTH if split == 1 else 2, max(2, most * steps)), 1, -1):
        left = room - shared(m, groups, eight, split, warps, depth, 0)
        held = min(most, left // (shared(m, groups, eight, split, warps, 0, 1) - shared(m, groups, eight, split, warps, 0, 0)))
        if held > 0:
            shared_bytes = shared(m, groups, eight, split, warps, depth, held)
            return Few(warps, steps, depth, 1, held, blocks, split, chip.early, teams * split, shared_bytes)
    return None


class _Attribute(ctypes.Structure):
    """CUlaunchAttribute: a value of 64 bytes, of which an int is used."""

    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_int), ("rest", ctypes.c_char * 60))


class _Config(ctypes.Structure):
    """CUlaunchConfig."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.POINTER(_Attribute)),
        ("attribute_count", ctypes.c_uint),
    )


class Kernel:
    """The kernel of one shape, plan and device."""

    def __init__(self, m: int, n: int, k: int, eight: bool, plan: Few, device: int) -> None:
        """Compile; raises RuntimeError or OSError where NVRTC or the driver fails."""
        given = {
            "M": m,
            "N": n,
            "K": k,
            "EIGHT": int(eight),
            "EARLY": int(plan.early),
            "BLOCKS": plan.blocks,
            "SPLIT": plan.split,
        }
        given |= {"WARPS": plan.warps, "STEPS": plan.steps, "DEPTH": plan.depth, "FIRST": plan.first, "HELD": plan.held}
        with torch.cuda.device(device):
            self._compiled = torch.cuda._compile_kernel("".join(f"#define {a} {b}\n" for a, b in given.items()) + source(), "few")
            self._compiled.set_shared_memory_config(plan.shared_bytes)
        self._cuda = ctypes.CDLL("libcuda.so.1")
        self._attribute = _Attribute(PROGRAMMATIC_STREAM_SERIALIZATION, 0, 1)
        self._config = _Config((plan.grid, 1, 1), (plan.warps * 32, 1, 1), plan.shared_bytes)
        self._config.attributes, self._config.attribute_count = ctypes.pointer(self._attribute), int(plan.early)
        self.shape = (m, n, k)

    def __call__(self, x: Tensor, packed: Tensor, scale: float) -> Tensor:
        """Return x W^T * scale in bf16, [m, n], for bf16 x [m, k] and packed weights, both contiguous and at 16 bytes."""
        m, n, k = self.shape
        output = torch.empty(m, n, dtype=torch.bfloat16, device=x.device)
        if x.shape != (m, k) or x.dtype != torch.bfloat16 or not x.is_contiguous() or x.data_ptr() % 16 or packed.shape[0] != n:
            raise ValueError(f"expected contiguous bf16 x [{m}, {k}] at 16 bytes and {n} rows, not {x.dtype} {tuple(x.shape)}")
        values: tuple[Any, ...] = (
            ctypes.c_void_p(x.data_ptr()),
            ctypes.c_void_p(packed.data_ptr()),
            ctypes.c_void_p(output.data_ptr()),
            ctypes.c_double(scale),
        )
        arguments = (ctypes.c_void_p * 4)(*(ctypes.addressof(value) for value in values))
        self._config.stream = torch.cuda.current_stream(x.device).cuda_stream
        failed = self._cuda.cuLaunchKernelEx(ctypes.byref(self._config), self._compiled.func, arguments, None)
        if failed:
            raise RuntimeError(f"cuLaunchKernelEx failed with CUDA error {failed}")
        return output


@cache
def source() -> str:
    """Return the CUDA C++."""
    return Path(__file__).with_name("few.cu").read_text()


@cache
def kernel(m: int, n: int, k: int, eight: bool, plan: Few, device: int) -> Kernel:
    """Return the kernel of this shape and plan, compiled once."""
    return Kernel(m, n, k, eight, plan, device)
