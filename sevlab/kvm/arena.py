"""A process's own use of its memory: scratch slots for the arguments of ioctls, and a heap.

This is user space: what a C program's stack and malloc would do. A pointer from
here is an hva like any other, and a handler that gets it can fault on it.
"""

from __future__ import annotations

from sevlab.kvm.backing import PAGE
from sevlab.kvm.mm import Mm
from sevlab.wire import Wire

SLOT = PAGE  # bytes of a slot: no argument of an ioctl is larger than a page
SLOTS = 64  # how many are mapped at a time
HEAP = 0x1_0000  # bytes of heap that are mapped at a time, at least


class Arena:
    """Slots and heap in one address space. It grows as needed and ends with the process."""

    def __init__(self, mm: Mm) -> None:
        self.mm = mm
        self._slots: list[int] = []  # free ones, the next last
        self._top = self._end = 0  # of the heap

    def lend(self, wire: Wire) -> int:
        """Put a structure into a slot: its address. Raises ValueError for one that is larger than a page."""
        data = wire.pack()
        if len(data) > SLOT:
            raise ValueError(f"{type(wire).__name__} has {len(data)} bytes; the argument of an ioctl has at most {SLOT}")
        if not self._slots:
            base = self.mm.mmap(SLOTS * SLOT)
            self._slots = [base + number * SLOT for number in reversed(range(SLOTS))]
        slot = self._slots[-1]
        self.mm.write(slot, data)
        self._slots.pop()
        return slot

    def take_back(self, slot: int, wire: Wire) -> None:
        """Read a slot back into its structure, in place, and have the slot again."""
        self._slots.append(slot)
        wire.load(self.mm.read(slot, wire.SIZE))

    def put(self, data: bytes) -> int:
        """Put bytes on the heap: their address, a multiple of 16."""
        size = max(-(-len(data) // 16), 1) * 16
        if self._top + size > self._end:
            length = max(HEAP, -(-size // PAGE) * PAGE)
            self._top = self.mm.mmap(length)
            self._end = self._top + length
        at, self._top = self._top, self._top + size
        self.mm.write(at, data)
        return at

    def fork(self, mm: Mm) -> Arena:
        """The same, in the child's copy of the memory. Slots in use stay the parent's."""
        child = Arena(mm)
        child._slots, child._top, child._end = list(self._slots), self._top, self._end
        return child
