"""How many SHA-256d (the SHA-256 of the SHA-256, FIPS 180-4) of a Bitcoin block header a device computes, a nonce each.

| module | idea |
|---|---|
| sha256 | the standard in whole numbers, and the answers that it prints |
| torch_ops | PyTorch's integer operators |
| kernels | the Triton kernel |
| trits | the report's "TriHash", which is constant |

The nonces run from a first one on, drawn so that the header's own nonce is among them. The first 64 of the header's 80 bytes are
the same for all nonces: their state is made once, on the host, so a nonce costs two blocks.
"""

import hashlib
import struct
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from runner.worker.compilers import check_triton
from runner.worker.workload import Axes, Context, Incorrect, Inputs, Variant, Work, Workload
from workloads.hash_rate import sha256, torch_ops, trits

ROUND_OPS, SCHEDULE_OPS, SUM_OPS = 26, 13, 8
OPS_PER_BLOCK = 64 * ROUND_OPS + 48 * SCHEDULE_OPS + SUM_OPS
"""The standard's formulas as they are printed, with a rotation as one operation.

A round: 2 Sigma of 3 rotations and 2 XOR, Ch of 4, Maj of 5, 7 additions. A word of the schedule: 2 sigma of 5, 3 additions.
"""

CHUNK = 2**22
"""Nonces that are hashed again at a time to count the digests that agree: the words of so many take half a GiB."""


def inputs(axes: Axes, context: Context) -> Inputs:
    """Return the header [20] with the first nonce, the number of nonces, which of them are checked, and trits [.., 256].

    The header's words are big-endian, as SHA-256 reads them, in int32. Raises ValueError when params.header is no 80 bytes.
    """
    header, n = bytes.fromhex(context.params["header"]), int(axes["nonces"])
    if len(header) != 80:
        raise ValueError(f"params.header has {len(header)} bytes; expected the 80 of a block header, in hexadecimal")
    device, generator = context.device, context.generator
    answer = int(torch.randint(n, (), device=device, generator=generator))
    first = (struct.unpack("<I", header[76:])[0] - answer) % 2**32
    words = [sha256.signed(word) for word in struct.unpack(">20I", header[:76] + struct.pack("<I", first))]
    rows = torch.arange(n, device=device)
    if n > context.params["check_nonces"]:
        drawn = torch.randint(n, (context.params["check_nonces"],), device=device, generator=generator)
        rows = torch.cat([drawn, torch.tensor([0, answer, n - 1], device=device)])
    return torch.tensor(words, dtype=torch.int32, device=device), n, rows, trits.draw(n, device, generator)


def reference(header: Tensor, n: int, rows: Tensor, drawn: Tensor) -> Tensor:
    """The digests of the checked nonces by hashlib, as words [rows, 8]; float64 holds 32 bits exactly."""
    before, first = _header(header)
    found = []
    for row in rows.tolist():
        message = before + struct.pack("<I", (first + row) % 2**32)
        found.append(struct.unpack(">8I", hashlib.sha256(hashlib.sha256(message).digest()).digest()))
    return torch.tensor(found, dtype=torch.float64, device=header.device)


def _header(header: Tensor) -> tuple[bytes, int]:
    """Return the 76 bytes before the nonce, and the first nonce."""
    packed = struct.pack(">20i", *header.tolist())
    return packed[:76], struct.unpack("<I", packed[76:])[0]


def work(axes: Axes, params: Mapping[str, Any], dtype: str) -> Work:
    """Two blocks for each nonce; the header read, 32 bytes written for each nonce."""
    n = axes["nonces"]
    return Work(2.0 * OPS_PER_BLOCK * n, 80 + 32.0 * n, {"throughput_mh_per_s": n / 1e6})


def counters(axes: Axes, params: Mapping[str, Any]) -> Mapping[str, int]:
    """Every digest agrees with the one by other operators."""
    return {"digests_agreed": axes["nonces"]}


def _middle(header: Tensor) -> Tensor:
    """Return the state after the first 64 bytes [8], the words up to the nonce [3] and the first nonce, int32 [12]."""
    before, first = _header(header)
    words = struct.unpack(">19I", before)
    middle = [*sha256.compress(sha256.INITIAL, words[:16]), *words[16:], first]
    return torch.tensor([sha256.signed(word) for word in middle], dtype=torch.int32, device=header.device)


def _torch_inputs(inputs: Inputs) -> Inputs:
    return _prepared(inputs, torch_ops.fold)


def _triton_inputs(inputs: Inputs) -> Inputs:
    check_triton(inputs[0].device)
    from workloads.hash_rate import kernels

    return _prepared(inputs, kernels.fold)


def _prepared(inputs: Inputs, fold: Any) -> Inputs:
    header, n, rows, _ = inputs
    wrong = sha256.wrong_answer(lambda state, block: fold(state, block, header.device))
    if wrong:
        raise Incorrect(wrong)
    return _middle(header), n, rows


def _triton(middle: Tensor, n: int, rows: Tensor) -> Tensor:
    from workloads.hash_rate import kernels

    digests: Tensor = kernels.sha256d(middle, n)
    return digests


def _torch(middle: Tensor, n: int, rows: Tensor) -> Tensor:
    return torch_ops.sha256d(middle, n)


def _checked(output: Tensor, prepared: Inputs) -> Tensor:
    """Return the words of the checked nonces, [rows, 8], without their sign."""
    return (output[:, prepared[2]].T.long() & sha256.MASK).double()


def _agreed(output: Tensor, prepared: Inputs) -> Mapping[str, int]:
    """Count the digests that PyTorch's operators give too, over all nonces."""
    middle, n, _ = prepared
    agreed = 0
    for start in range(0, n, CHUNK):
        moved = torch.cat([middle[:11], middle[11:] + start])
        part = output[:, start : start + CHUNK]
        agreed += int((part == torch_ops.sha256d(moved, part.shape[1])).all(0).sum())
    return {"digests_agreed": agreed}


def _not_constant(output: Tensor, prepared: Inputs) -> Tensor:
    """Raise Incorrect where all inputs have one "hash"."""
    if len(output) > 1 and bool((output == output[0]).all()):
        found = f"{int(output[0])} for each of {len(output)} random inputs"
        raise Incorrect(f"it is constant: {found}, as d * d = |d| for a trit d, so the two sums that it XORs are equal")
    return output.double()


WORKLOAD = Workload(
    inputs=inputs,
    reference=reference,
    work=work,
    counters=counters,
    variants={
        "torch_ops": Variant(_torch, dtype="int32", prepare=_torch_inputs, finish=_checked, rel_l2=0.0),
        "triton": Variant(_triton, dtype="int32", prepare=_triton_inputs, finish=_checked, rel_l2=0.0, counters=_agreed),
        "trihash_report": Variant(
            trits.trihash, dtype="int32", prepare=lambda inputs: inputs[3:], finish=_not_constant, rel_l2=0.0
        ),
    },
)
