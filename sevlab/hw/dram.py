"""DRAM: bytes at system physical addresses, as the memory bus carries them.

Memory that was never written is zero and costs nothing: a 64 GiB machine is a
reservation, not an allocation.
"""

from __future__ import annotations

from typing import Protocol

from sevlab.bulk import PAGE, Memory


class Owed(Protocol):
    """Who has bytes that belong into memory and writes them when somebody looks (`sevlab.hw.savearea`)."""

    def owes(self, hpa: int, end: int) -> bool:
        """Whether any of them belong into [hpa, end)."""

    def settle(self, keep: bool = False) -> None:
        """Write them; with `keep` from now on at once, since somebody keeps a view."""


class Dram:
    """`size` bytes of memory, a multiple of 4096. All addresses are hpas, all lengths bytes.

    Raises ValueError for a range that is not inside the memory.
    """

    def __init__(self, size: int) -> None:
        if size <= 0 or size % PAGE:
            raise ValueError(f"DRAM comes in whole pages of {PAGE} bytes, not in {size}")
        self.size = size
        self.memory = Memory(size)
        self.raw = self.memory.raw
        self.lazy: dict[int, list[Owed]] = {}  # by page number: who may owe it bytes

    def read(self, hpa: int, n: int) -> bytes:
        """The `n` raw bytes at `hpa`: what a probe on the bus sees."""
        if hpa < 0 or n < 0 or hpa + n > self.size:
            self._outside(hpa, n)
        if self.lazy and (hpa >> 12 in self.lazy or (hpa & 0xFFF) + n > PAGE):
            self.settle(hpa, n)
        return self.raw[hpa : hpa + n]

    def write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Put raw bytes at `hpa`."""
        end = hpa + len(data)
        if hpa < 0 or end > self.size:
            self._outside(hpa, len(data))
        if self.lazy and (hpa >> 12 in self.lazy or (hpa & 0xFFF) + len(data) > PAGE):
            self.settle(hpa, len(data))
        self.raw[hpa:end] = data

    def view(self, hpa: int, n: int) -> memoryview:
        """The raw bytes themselves, writable, without a copy."""
        if hpa < 0 or n < 0 or hpa + n > self.size:
            self._outside(hpa, n)
        if self.lazy:
            self.settle(hpa, n, keep=True)
        return self.memory.view[hpa : hpa + n]

    def zero(self, hpa: int, n: int) -> None:
        """Clear a range; long runs of pages are given back to the system, which reads the same and costs less."""
        if hpa < 0 or n < 0 or hpa + n > self.size:
            self._outside(hpa, n)
        if self.lazy:
            self.settle(hpa, n)
        self.memory.zero(hpa, n)

    def watch(self, hpa: int, owner: Owed) -> None:
        """From now on `owner` is asked before anybody reads or writes the page at `hpa`."""
        owners = self.lazy.setdefault(hpa // PAGE, [])
        if owner not in owners:
            owners.append(owner)

    def unwatch(self, owner: Owed) -> None:
        """Nobody needs to ask `owner` any more."""
        for page in [page for page, owners in self.lazy.items() if owner in owners]:
            self.lazy[page].remove(owner)
            if not self.lazy[page]:
                del self.lazy[page]

    def settle(self, hpa: int = 0, n: int | None = None, *, keep: bool = False) -> None:
        """Have everything written that somebody owes to a range (all of memory without one)."""
        end = self.size if n is None else hpa + max(n, 1)
        first, last = hpa // PAGE, (end - 1) // PAGE
        pages = [first] if first == last else [page for page in self.lazy if first <= page <= last]
        for page in pages:
            for owner in [one for one in self.lazy.get(page, ()) if one.owes(hpa, end)]:
                owner.settle(keep)

    def check(self, hpa: int, n: int) -> None:
        """Raise ValueError unless the range lies inside the memory."""
        if hpa < 0 or n < 0 or hpa + n > self.size:
            self._outside(hpa, n)

    def _outside(self, hpa: int, n: int) -> None:
        raise ValueError(f"{n:#x} bytes at {hpa:#x} are not inside the {self.size:#x} bytes of DRAM")

    def __len__(self) -> int:
        return self.size

    def __repr__(self) -> str:
        return f"<Dram: {self.size >> 20} MiB>"
