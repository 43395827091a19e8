"""What the owner was handed: refused in his own words when it is of another kind."""

from __future__ import annotations

from os import PathLike
from typing import Any

from sevlab.given import having, number


def need_bytes(what: str, value: Any) -> bytes:
    """The value as bytes. Raises TypeError, saying how one comes by them."""
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    how = ""
    if isinstance(value, str | PathLike):
        how = "; pathlib.Path(...).read_bytes() has those of a file, bytes.fromhex(...) those of a hex text"
    elif hasattr(value, "image"):
        how = "; a program's are its .image()"
    raise TypeError(f"{what} is bytes, not {type(value).__name__}{how}")  # its value may be a key, and goes into no traceback


def need_policy(value: Any) -> int:
    """The value as it is. Raises TypeError for what is no number, ValueError for one that has not 32 bits."""
    if not 0 <= number("a policy", value) < 1 << 32:
        raise ValueError(f"a policy has 32 bits, {value:#x} does not fit")
    return int(value)


def need_trace(value: Any) -> None:
    """Refuse what is neither None nor a place for rows: TypeError, before the work is done."""
    if value is not None:
        having("trace", value, ("emit",), "a Trace, such as host.trace")
