"""How a layer is cut into programs: the tile by the rows of activations, its depth by how many multiprocessors would be idle."""

from dataclasses import dataclass

import triton


@dataclass(frozen=True)
class Plan:
    """A program has `features` rows of weights, `width` bytes of each at a time, and `tokens` rows of activations.

    The bytes of a weight row are dealt to `splits` programs, `depth` bytes to each; their partial sums are added afterwards.
    """

    tokens: int
    features: int
    width: int
    depth: int
    splits: int
    num_warps: int


def plan(m: int, n: int, row_bytes: int, processors: int) -> Plan:
    """Return how m rows of activations meet n rows of weights of `row_bytes` bytes, on a GPU of that many multiprocessors.

    A single row needs no matrix product, only products and a sum. A tile of more has at least 16 rows, the least that a tensor
    core takes, and many features, so that few programs read the same activations. Four warps a tile of 128 x 128 leave a thread
    enough registers for what the tensor cores of SM 9.0 take from there.
    """
    if m == 1:
        tokens, features, width, num_warps = 1, 8, 512, 8
    elif m <= 64:
        tokens, features, width, num_warps = max(16, triton.next_power_of_2(m)), 128, 64, 8
    else:
        tokens, features, width, num_warps = 128, 128, 32, 4
    width = min(width, triton.next_power_of_2(row_bytes))
    steps = triton.cdiv(row_bytes, width)
    programs = triton.cdiv(n, features) * triton.cdiv(m, tokens)
    steps_of_each = triton.cdiv(steps, max(1, processors // programs))
    return Plan(tokens, features, width, steps_of_each * width, triton.cdiv(steps, steps_of_each), num_warps)
