"""SHA-256 (FIPS 180-4) in whole numbers: the constants, one block on the host, and the answers that the standard prints.

A message is padded to blocks of 16 words of 32 bits. Hashing folds one block after the other into a state of 8 words.
SHA-256d, with which Bitcoin numbers its blocks, is the SHA-256 of the SHA-256.
"""

import struct
from collections.abc import Callable, Sequence

MASK = 0xFFFFFFFF

PRIMES = (
    2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127,
    131, 137, 139, 149, 151, 157, 163, 167, 173, 179, 181, 191, 193, 197, 199, 211, 223, 227, 229, 233, 239, 241, 251, 257, 263,
    269, 271, 277, 281, 283, 293, 307, 311,
)  # fmt: skip


def _root(value: int, power: int) -> int:
    """Return the largest whole number whose `power` is at most `value`."""
    low, high = 0, 1 << value.bit_length()
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if middle**power <= value else (low, middle - 1)
    return low


K = tuple(_root(prime << 96, 3) & MASK for prime in PRIMES)
"""The first 32 bits of the fractions of the cube roots of the first 64 primes (section 4.2.2)."""

INITIAL = tuple(_root(prime << 64, 2) & MASK for prime in PRIMES[:8])
"""The same of the square roots of the first eight: the state before the first block (section 5.3.3)."""

DIGEST_PADDING = (0x80000000, 0, 0, 0, 0, 0, 0, 256)
"""What follows the 8 words of a digest in the block that the second hash reads."""

HEADER_PADDING = (0x80000000, *[0] * 10, 640)
"""What follows the last four words of an 80-byte header in its second block."""

KNOWN_ANSWERS = {
    b"": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"abc": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
    b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq": (
        "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"
    ),
}
"""Messages of no, one and two blocks' worth with their digests, from NIST's examples for FIPS 180-4."""

Compress = Callable[[Sequence[int], Sequence[int]], Sequence[int]]
"""Takes the state [8] and a block [16], returns the new state."""


def rotate(word: int, by: int) -> int:
    """Rotate a word to the right."""
    return (word >> by | word << (32 - by)) & MASK


def compress(state: Sequence[int], block: Sequence[int]) -> list[int]:
    """Return the state after one block, by the standard's section 6.2.2."""
    w = list(block)
    for t in range(16, 64):
        s0 = rotate(w[t - 15], 7) ^ rotate(w[t - 15], 18) ^ w[t - 15] >> 3
        s1 = rotate(w[t - 2], 17) ^ rotate(w[t - 2], 19) ^ w[t - 2] >> 10
        w.append((s1 + w[t - 7] + s0 + w[t - 16]) & MASK)
    a, b, c, d, e, f, g, h = state
    for t in range(64):
        first = h + (rotate(e, 6) ^ rotate(e, 11) ^ rotate(e, 25)) + (e & f ^ ~e & g) + K[t] + w[t]
        second = (rotate(a, 2) ^ rotate(a, 13) ^ rotate(a, 22)) + (a & b ^ a & c ^ b & c)
        a, b, c, d, e, f, g, h = (first + second) & MASK, a, b, c, (d + first) & MASK, e, f, g
    return [(old + new) & MASK for old, new in zip(state, (a, b, c, d, e, f, g, h), strict=True)]


def digest(message: bytes, fold: Compress = compress) -> str:
    """Return the SHA-256 of a message in hexadecimal, its blocks folded by `fold`."""
    padded = message + b"\x80" + bytes(-(len(message) + 9) % 64) + struct.pack(">Q", 8 * len(message))
    state: Sequence[int] = INITIAL
    for start in range(0, len(padded), 64):
        state = fold(state, struct.unpack(">16I", padded[start : start + 64]))
    return struct.pack(">8I", *state).hex()


def wrong_answer(fold: Compress) -> str | None:
    """Say which known answer a way to fold blocks gets wrong, None when it gets all of them right."""
    for message, expected in KNOWN_ANSWERS.items():
        found = digest(message, fold)
        if found != expected:
            return f"SHA-256 of {message.decode()!r} came out as {found[:16]}..., the known answer is {expected[:16]}..."
    return None


def signed(word: int) -> int:
    """Return the int32 that has the bits of a word."""
    return word - (1 << 32) if word >> 31 else word
