"""The seam `quirks`: bugs that ship, as they are, and mended.

`AS_IS` is what the kernel does, `MENDED` what it was meant to do: the exercise
"find the bug that still ships" runs on both.

* DBG_ENCRYPT to a destination that is not 16-byte aligned decrypts the blocks
  around it, patches them and encrypts them back; but it rounds up the length
  alone and forgets how far into the first block it began. Where the two together
  reach into one more block, that block is never written, and the call succeeds.
  In all kernels up to 6.12; rewritten in 7.x (8d6297a3e73e). Source: kvm.md B10.
"""

from __future__ import annotations

from typing import Protocol

BLOCK = 16


class Quirks(Protocol):
    """What the kernel asks of this seam."""

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        """How many bytes DBG_ENCRYPT writes back for `size` bytes that begin `into` a block."""


class AsIs:
    """As the kernels ship."""

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        return size + BLOCK - 1 & -BLOCK

    def __repr__(self) -> str:
        return "AsIs()"


class Mended:
    """As they were meant."""

    def dbg_encrypt_size(self, into: int, size: int) -> int:
        return into + size + BLOCK - 1 & -BLOCK

    def __repr__(self) -> str:
        return "Mended()"


AS_IS, MENDED = AsIs(), Mended()
