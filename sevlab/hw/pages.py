"""What each frame of memory is used for: a state, an owner, a count of pins and the last change, as four arrays.

This is bookkeeping of the emulator, not of the machine: widgets draw it, tests
balance it. A frame's owner is an ASID and not a VM, so that moving a VM touches no frame.
"""

from __future__ import annotations

from typing import Any, NamedTuple, NoReturn

from sevlab.columns import Column
from sevlab.trace import Event, Trace, u8, u16, u32

FREE, HOST, SHARED, PRIVATE, FIRMWARE, VMSA, GHCB, MOVED, STALE = range(9)
HELD = 64  # ranges whose pins are noted before they are entered
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
        self._pins = Column(count, 2)
        self._changed = Column(count, 4)  # the number of the event that changed the frame last, plus one
        # What those two columns are to get, noted as ranges until somebody looks or the range is another one:
        # most pins are gone before either happens.
        self._held: dict[tuple[int, int], int] = {}  # ranges with one pin each
        self._last = (0, 0)  # the range that changed last
        self._last_event = 0  # and by which event, plus one

    def mark(self, pfn: int, count: int, state: int, asid: int = 0) -> None:
        """Give a run of frames a state and an owner; one event, whatever its length."""
        if pfn < 0 or count < 0 or pfn + count > self.count:
            self._outside(pfn, count)
        if not 0 <= state < len(NAMES):
            raise ValueError(f"{state} is no page state")

        self.states.fill(pfn, count, state)
        self.asids.fill(pfn, count, asid)
        self._note(PagesMarked, pfn, count, state, asid)

    def overwritten(self, hpa: int, n: int) -> None:
        """Somebody changed raw bytes of a range: a guest's pages in it no longer read as what the guest wrote."""
        if n:
            first, last = hpa >> 12, hpa + n - 1 >> 12
            for run in self.runs(first, last - first + 1):
                if run.state in (PRIVATE, VMSA):
                    self.mark(run.first, run.length, STALE, run.asid)

    def pin(self, pfn: int, count: int = 1) -> None:
        """Pin a run once more. Raises OverflowError when a count would pass 65,535; then nothing is pinned."""
        if pfn < 0 or count < 0 or pfn + count > self.count:
            self._outside(pfn, count)
        held, run = self._held, (pfn, count)
        if run in held or len(held) == HELD or self._pins.bound + HELD >= self._pins.limit:
            self._settle()
            self._pins.add(pfn, count, 1)
        else:
            held[run] = 1
        self._note(PagesPinned, pfn, count)

    def unpin(self, pfn: int, count: int = 1) -> None:
        """Take one pin from a run. Raises OverflowError when a frame has none; then nothing is unpinned."""
        if pfn < 0 or count < 0 or pfn + count > self.count:
            self._outside(pfn, count)
        if self._held.pop((pfn, count), None) is None:
            self._settle()
            self._pins.add(pfn, count, -1)
        self._note(PagesUnpinned, pfn, count)

    def _note(self, event: type[Event], pfn: int, count: int, *values: int) -> None:
        """Say what happened, and remember for each frame that it did."""
        trace = self.trace
        if trace.on:
            trace.emit(event, pfn, count, *values)
            if (run := (pfn, count)) != self._last:
                self._changed.fill(*self._last, self._last_event)
                self._last = run
            self._last_event = trace.seq & 0xFFFF_FFFF

    def _settle(self) -> None:
        """Enter the pins that were only noted."""
        for run in self._held:
            self._pins.add(*run, 1)
        self._held.clear()

    @property
    def pin_counts(self) -> Column:
        """How often each frame is pinned."""
        self._settle()
        return self._pins

    @property
    def changed(self) -> Column:
        """For each frame the number of the event that changed it last, plus one."""
        self._changed.fill(*self._last, self._last_event)
        return self._changed

    def event(self, pfn: int) -> int | None:
        """The number (`seq`) of the event that changed a frame last; None if none did."""
        found = self.changed[pfn]
        return found - 1 if found else None

    def why(self, pfn: int) -> dict[str, Any] | None:
        """That event as a row of the trace; None if there was none, or a ring has forgotten it."""
        seq = self.event(pfn)
        if seq is None:
            return None
        rows = (self.trace.row(event, seq) for event in (PagesMarked, PagesPinned, PagesUnpinned))
        return next((row for row in rows if row is not None), None)

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
        if pfn < 0 or count < 0 or pfn + count > self.count:
            self._outside(pfn, count)
        return [Run(*run) for run in Column.runs(pfn, count, self.states, self.asids, self.pin_counts)]

    def _outside(self, pfn: int, count: int) -> NoReturn:
        raise ValueError(f"{count} frames from {pfn:#x} are not inside the machine's {self.count:#x}")

    def __repr__(self) -> str:
        return f"<Pages: {', '.join(f'{count} {name}' for name, count in self.counts().items() if count)}>"
