"""SHA-256d of many nonces in one Triton kernel: a nonce for each lane, every word in a register, all 128 rounds unrolled.

Nothing is read but 12 words that all nonces share; the digests are written word by word, [8, n], so that neighbours write
neighbouring addresses. Words are uint32: shifts bring zeros in, sums wrap.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from workloads.hash_rate import sha256

K = tl.constexpr(sha256.K)
INITIAL = tl.constexpr(sha256.INITIAL)
LANES = 128
WARPS = 4
"""A nonce for each thread: two would need twice the registers, and there is nothing to wait for that a second could hide."""

MOST_PROGRAMS = 2**16
"""Enough for every GPU to be full for long; each of them then hashes several times LANES nonces."""


@triton.jit
def _rotate(word, BY: tl.constexpr):
    return (word >> BY) | (word << (32 - BY))


@triton.jit
def _compress(state, block):
    """Fold a block (a tuple of 16 words) into a state (8 words).

    The schedule is a window of 16 that moves with the rounds; the last words of it, which no round reads, the compiler drops.
    """
    a, b, c, d, e, f, g, h = state
    w = block
    for t in tl.static_range(64):
        word = w[0]
        first = h + (_rotate(e, 6) ^ _rotate(e, 11) ^ _rotate(e, 25)) + (g ^ (e & (f ^ g))) + K[t] + word
        second = (_rotate(a, 2) ^ _rotate(a, 13) ^ _rotate(a, 22)) + ((a & b) | (c & (a | b)))
        h = g
        g = f
        f = e
        e = d + first
        d = c
        c = b
        b = a
        a = first + second
        s0 = _rotate(w[1], 7) ^ _rotate(w[1], 18) ^ (w[1] >> 3)
        s1 = _rotate(w[14], 17) ^ _rotate(w[14], 19) ^ (w[14] >> 10)
        w = w[1:] + (s1 + w[9] + s0 + word,)  # noqa: RUF005 # Triton has no starred tuples
    return (
        state[0] + a, state[1] + b, state[2] + c, state[3] + d,
        state[4] + e, state[5] + f, state[6] + g, state[7] + h,
    )  # fmt: skip


@triton.jit
def _one(words, INDEX: tl.constexpr):
    return tl.load(words + INDEX).to(tl.uint32, bitcast=True)


@triton.jit
def _word(words, INDEX: tl.constexpr, LANES: tl.constexpr):
    """Return one word for all lanes."""
    return tl.full([LANES], 0, tl.uint32) + _one(words, INDEX)


@triton.jit
def _digests(middle, output, n, step, LANES: tl.constexpr):
    """Hash nonces `step` apart, from the program's own on, up to n.

    The pointers move along with the loop, which spares the compiler minutes: behind a pointer that is worked out in place it
    looks through all operations connected with it, for each store, in time that grows with their square.
    """
    start = tl.program_id(0) * LANES
    lane = tl.arange(0, LANES)
    zero = tl.full([LANES], 0, tl.uint32)
    one = tl.full([LANES], 0x80000000, tl.uint32)
    state = (
        _word(middle, 0, LANES), _word(middle, 1, LANES), _word(middle, 2, LANES), _word(middle, 3, LANES),
        _word(middle, 4, LANES), _word(middle, 5, LANES), _word(middle, 6, LANES), _word(middle, 7, LANES),
    )  # fmt: skip
    initial = (
        zero + INITIAL[0], zero + INITIAL[1], zero + INITIAL[2], zero + INITIAL[3],
        zero + INITIAL[4], zero + INITIAL[5], zero + INITIAL[6], zero + INITIAL[7],
    )  # fmt: skip
    at = output + start + lane
    at_1 = at + n
    at_2 = at_1 + n
    at_3 = at_2 + n
    at_4 = at_3 + n
    at_5 = at_4 + n
    at_6 = at_5 + n
    at_7 = at_6 + n
    for first in range(start, n, step):
        nonce = _word(middle, 11, LANES) + (first + lane).to(tl.uint32, bitcast=True)
        swapped = (nonce << 24) | ((nonce & 0xFF00) << 8) | ((nonce >> 8) & 0xFF00) | (nonce >> 24)
        block = (
            _word(middle, 8, LANES), _word(middle, 9, LANES), _word(middle, 10, LANES), swapped,
            one, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero, zero + 640,
        )  # fmt: skip
        inner = _compress(state, block)
        digest = _compress(initial, inner + (one, zero, zero, zero, zero, zero, zero, zero + 256))  # noqa: RUF005 # as above
        real = first + lane < n
        tl.store(at, digest[0].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_1, digest[1].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_2, digest[2].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_3, digest[3].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_4, digest[4].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_5, digest[5].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_6, digest[6].to(tl.int32, bitcast=True), mask=real)
        tl.store(at_7, digest[7].to(tl.int32, bitcast=True), mask=real)
        at += step
        at_1 += step
        at_2 += step
        at_3 += step
        at_4 += step
        at_5 += step
        at_6 += step
        at_7 += step


@triton.jit
def _fold(words, output):
    """One block of 16 words folded into a state of 8, which come first in `words`: for known answers."""
    state = (
        _one(words, 0), _one(words, 1), _one(words, 2), _one(words, 3),
        _one(words, 4), _one(words, 5), _one(words, 6), _one(words, 7),
    )  # fmt: skip
    block = (
        _one(words, 8), _one(words, 9), _one(words, 10), _one(words, 11),
        _one(words, 12), _one(words, 13), _one(words, 14), _one(words, 15),
        _one(words, 16), _one(words, 17), _one(words, 18), _one(words, 19),
        _one(words, 20), _one(words, 21), _one(words, 22), _one(words, 23),
    )  # fmt: skip
    folded = _compress(state, block)
    for word in tl.static_range(8):
        tl.store(output + word, folded[word].to(tl.int32, bitcast=True))


def sha256d(middle: Tensor, n: int) -> Tensor:
    """Return the digests of n nonces as words, [8, n] int32; `middle` as in workloads/hash_rate/torch_ops.py."""
    output = torch.empty(8, n, dtype=torch.int32, device=middle.device)
    programs = min(triton.cdiv(n, LANES), MOST_PROGRAMS)
    _digests[(programs,)](middle, output, n, programs * LANES, LANES=LANES, num_warps=WARPS)
    return output


def fold(state: Sequence[int], block: Sequence[int], device: torch.device) -> list[int]:
    """Compress one block on the device, for known answers."""
    words = torch.tensor([sha256.signed(word) for word in (*state, *block)], dtype=torch.int32, device=device)
    output = torch.empty(8, dtype=torch.int32, device=device)
    _fold[(1,)](words, output, num_warps=1)
    return [word & sha256.MASK for word in output.tolist()]
