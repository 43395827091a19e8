"""CRC-64 (ECMA-182), the check value that the firmware keeps of an encrypted register page.

The polynomial that real firmware uses is not published and cannot be observed
from outside (firmware.md 2.4): this one is a stated choice.
"""

from __future__ import annotations

from functools import cache

POLYNOMIAL = 0x42F0E1EBA9EA3693
_MASK = (1 << 64) - 1


@cache
def _table() -> list[int]:
    """What each value of the leading byte leaves behind."""
    table = []
    for byte in range(256):
        value = byte << 56
        for _ in range(8):
            value = (value << 1 ^ (POLYNOMIAL if value >> 63 else 0)) & _MASK
        table.append(value)
    return table


def crc64(data: bytes | bytearray | memoryview) -> int:
    """The check value of `data`: most significant bit first, start 0, no final xor."""
    value, table = 0, _table()
    for byte in data:
        value = (value << 8 & _MASK) ^ table[value >> 56 ^ byte]
    return value
