"""GUIDs as UEFI stores them: the first three groups little-endian, the rest as written."""

from __future__ import annotations

__all__ = ["guid", "guid_text"]


def guid(text: str) -> bytes:
    """The 16 bytes in memory of a GUID written as `1e74f542-71dd-4d66-963e-ef4287ff173b`.

    Raises ValueError when the text is no GUID.
    """
    parts = text.split("-")
    if [len(part) for part in parts] != [8, 4, 4, 4, 12] or not set("".join(parts)) <= set("0123456789abcdefABCDEF"):
        raise ValueError(f"{text!r} is no GUID")
    a, b, c, d, e = (bytes.fromhex(part) for part in parts)
    return a[::-1] + b[::-1] + c[::-1] + d + e


def guid_text(data: bytes) -> str:
    """The text of a GUID from its 16 bytes in memory.

    Raises ValueError when there are not 16 of them.
    """
    if len(data) != 16:
        raise ValueError(f"a GUID takes 16 bytes, {len(data)} are there")
    a, b, c = data[3::-1], data[5:3:-1], data[7:5:-1]
    return "-".join(part.hex() for part in (a, b, c, data[8:10], data[10:16]))
