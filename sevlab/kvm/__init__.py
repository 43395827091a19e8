"""The host kernel: processes and descriptors, KVM, the ccp driver, cgroups. One file for each kind of descriptor.

Here stands what all of them share: the row of an ioctl table, and the way in and
out of a caller's memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from sevlab.wire import Wire

W = TypeVar("W", bound=Wire)


class Row(NamedTuple):
    """One ioctl or one command: who serves it, the structure that its argument points at, what the emulation leaves out."""

    handler: Callable[..., Any]
    arg: type[Wire] | None = None
    leaves_out: str = ""


def copy_from_user(caller: Any, hva: int, kind: type[W]) -> W:
    """The structure at `hva` of the caller's memory. Raises EFAULT."""
    return kind.unpack(caller.read(hva, kind.SIZE))


def copy_to_user(caller: Any, hva: int, value: Wire) -> None:
    """Write a structure to `hva` of the caller's memory. Raises EFAULT."""
    caller.write(hva, value.pack())
