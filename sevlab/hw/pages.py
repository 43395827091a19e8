"""What each frame of memory is used for: a state, an owner and a count of pins, as three arrays.

This is bookkeeping of the emulator, not of the machine: widgets draw it, tests
balance it. A frame's owner is an ASID and not a VM, so that moving a VM touches no frame.
"""

from __future__ import annotations

from typing import NamedTuple

from sevlab.bulk import Column
from sevlab.trace import Event, Trace, u8, u16, u32

FREE, HOST, SHARED, PRIVATE, FIRMWARE, VMSA, GHCB, MOVED, STALE = range(9)
NAMES = ("free", "host", "shared", "private", "firmware", "vmsa", "ghcb", "moved", "stale")


class PagesMarked(Event, lane="host"):
    """A run of frames got a new use."""

    first: u32
    count: u32
    state: u8
    asid: u16


class PagesPinned(Event, lane="kvm"):
    """A run of frames may not move: one more pin on each."""

    first: u32
    count: u32


class PagesUnpinned(Event, lane="kvm"):
    """One pin less on each frame of a run."""

    first: u32
    count: u32


class Run(NamedTuple):
    """Neighbouring frames of one state, owner and pin count."""

    first: int
    length: int
    state: int
    asid: int
    pins: int


class Pages:
    """The state of `count` frames. Frames are named by pfn; a range outside raises ValueError."""

    def __init__(self, count: int, trace: Trace) -> None:
        self.count = count
        self.trace = trace
        self.states = Column(count, 1)
        self.asids = Column(count, 2)
        self.pin_counts = Column(count, 2)

    def mark(self, pfn: int, count: int, state: int, asid: int = 0) -> None:
        """Give a run of frames a state and an owner; one event, whatever its length."""
        self._inside(pfn, count)
        if not 0 <= state < len(NAMES):
            raise ValueError(f"{state} is no page state")

        self.states.fill(pfn, count, state)
        self.asids.fill(pfn, count, asid)
        self.trace.emit(PagesMarked, pfn, count, state, asid)

    def pin(self, pfn: int, count: int = 1) -> None:
        """Pin a run once more. Raises OverflowError when a count would pass 65,535; then nothing is pinned."""
        self._inside(pfn, count)
        self.pin_counts.add(pfn, count, 1)
        self.trace.emit(PagesPinned, pfn, count)

    def unpin(self, pfn: int, count: int = 1) -> None:
        """Take one pin from a run. Raises OverflowError when a frame has none; then nothing is unpinned."""
        self._inside(pfn, count)
        self.pin_counts.add(pfn, count, -1)
        self.trace.emit(PagesUnpinned, pfn, count)

    def state(self, pfn: int) -> int:
        """The state of one frame."""
        return self.states[pfn]

    def asid(self, pfn: int) -> int:
        """The owner of one frame, 0 for nobody."""
        return self.asids[pfn]

    def pins(self, pfn: int) -> int:
        """How often one frame is pinned."""
        return self.pin_counts[pfn]

    def counts(self) -> dict[str, int]:
        """How many frames are in each state, by name."""
        found = self.states.counts()
        return {name: found.get(state, 0) for state, name in enumerate(NAMES)}

    def pinned(self) -> int:
        """How many frames are pinned at least once."""
        return self.count - self.pin_counts.counts().get(0, 0)

    def runs(self, pfn: int = 0, count: int | None = None) -> list[Run]:
        """The frames of a range as runs, in order: what a picture draws."""
        count = self.count - pfn if count is None else count
        self._inside(pfn, count)
        return [Run(*run) for run in Column.runs(pfn, count, self.states, self.asids, self.pin_counts)]

    def _inside(self, pfn: int, count: int) -> None:
        if pfn < 0 or count < 0 or pfn + count > self.count:
            raise ValueError(f"{count} frames from {pfn:#x} are not inside the machine's {self.count:#x}")

    def __repr__(self) -> str:
        return f"<Pages: {', '.join(f'{count} {name}' for name, count in self.counts().items() if count)}>"
