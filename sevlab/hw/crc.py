"""CRC-64 (ECMA-182), the check value that is kept of a sealed register page: the firmware writes it first, then every VMEXIT.

The polynomial that real firmware uses is not published and cannot be observed
from outside (firmware.md 2.4): this one is a stated choice. It is linear and has
no key: it notices damage and old pages, as long as nobody can write where it lies.
"""

from __future__ import annotations

import struct
from functools import cache

POLYNOMIAL = 0x42F0E1EBA9EA3693
_MASK = (1 << 64) - 1


def _times_x(value: int, times: int) -> int:
    for _ in range(times):
        value = (value << 1 ^ (POLYNOMIAL if value >> 63 else 0)) & _MASK
    return value


@cache
def _table() -> tuple[int, ...]:
    """What each value of the leading byte leaves behind."""
    return tuple(_times_x(byte << 56, 8) for byte in range(256))


def crc64(data: bytes | bytearray | memoryview) -> int:
    """The check value of `data`: most significant bit first, start 0, no final xor."""
    value, table = 0, _table()
    for byte in data:
        value = (value << 8 & _MASK) ^ table[value >> 56 ^ byte]
    return value


@cache
def _places(count: int) -> list[int]:
    """What a last bit of 1 in each of `count` eight-byte words (big-endian) adds to the check value of them all."""
    places, value = [0] * count, POLYNOMIAL
    for at in reversed(range(count)):
        places[at] = value
        value = _times_x(value, 64)
    return places


@cache
def _bits(count: int, at: int) -> tuple[int, ...]:
    """What each bit of word `at` of `count` adds, the last bit first."""
    bits = [_places(count)[at]]
    for _ in range(63):
        bits.append(_times_x(bits[-1], 1))
    return tuple(bits)


def sparse_crc64(data: bytes | bytearray) -> int:
    """`crc64` of bytes that are mostly zero, whole eight-byte words: the sum of what each bit that is set adds.

    Raises ValueError for a length that is no multiple of 8.
    """
    count, rest = divmod(len(data), 8)
    if rest:
        raise ValueError(f"{len(data)} bytes are no whole words")
    value = 0
    for at, word in enumerate(struct.unpack(f">{count}Q", data)):
        if word:
            bits = _bits(count, at)
            while word:
                low = word & -word
                value ^= bits[low.bit_length() - 1]
                word ^= low
    return value
