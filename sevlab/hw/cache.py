"""Caches: lines of 64 bytes, each as one viewer sees it, and written back late.

A line's tag is its address *and* the view it was filled through: the key slot of
a private access, 0 for everybody who uses no key (the host, a guest with C = 0).
On a chip without SME_COHERENT two views of one address know nothing of each
other: each may hold the line, either may be stale, and the one that is written
back last is what memory holds (firmware.md 6.4). The secure processor takes
guest memory from DRAM, and sees no line at all.

So software must flush: CLFLUSH drops the host's lines of a range, VM_PAGE_FLUSH
one guest's lines of a page, WBINVD everybody's. A chip with SME_COHERENT writes
the other views back before it serves one. Without this model (`Host(caches=False)`)
every access is coherent, as if all flushes were made at once.

Eviction takes the line that was used longest ago. Not modelled: levels, sets,
more than one core's caches; a line is written back under the key that its slot
has *then*, and lost where the slot has none.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from sevlab.crypto import Buffer
from sevlab.hw.dram import Dram
from sevlab.hw.engine import Engine, NoKey
from sevlab.trace import Event, Trace, u16, u32, u64

LINE = 64
LINES = 1 << 14  # a megabyte
PAGE = 0x1000


class LinesWritten(Event, lane="engine"):
    """Dirty lines went to memory, under the key their view has now: `lines` of them, the first at `hpa`."""

    hpa: u64
    lines: u32
    asid: u16


class LinesLost(Event, lane="engine"):
    """Dirty lines of a slot without a key were written back: nobody can say what memory holds there now."""

    hpa: u64
    lines: u32
    asid: u16


class Line(NamedTuple):
    """One line in the cache: whose view (`asid`, 0 for no key), whether memory does not have it yet, its 64 bytes."""

    hpa: int
    asid: int
    dirty: bool
    data: bytes


class _Held:
    """A line's bytes and whether memory lacks them."""

    __slots__ = ("data", "dirty")

    def __init__(self, data: bytearray) -> None:
        self.data = data
        self.dirty = False


Tag = tuple[int, int]  # (hpa of the line, key slot)


class Caches:
    """The caches of one machine. `read` and `write` are the engine's, through them.

    `coherent` is the chip's SME_COHERENT. Addresses are hpas, lengths bytes. Raises as the engine does.
    """

    def __init__(self, engine: Engine, trace: Trace, lines: int = LINES) -> None:
        self.engine = engine
        self.dram = engine.dram
        self.trace = trace
        self.coherent = engine.chip.sme_coherent
        self.lines = lines
        self._c_bit = 1 << engine.chip.c_bit
        self._held: OrderedDict[Tag, _Held] = OrderedDict()  # the one used longest ago comes first
        self._views: dict[int, set[int]] = {}  # a line's address to the slots that hold it
        self._uncached: set[int] = set()  # frames that the host has mapped past its caches

    # --------------------------------------------------------- accesses

    def read(self, asid: int, hpa: int, n: int) -> bytes:
        """The `n` bytes at `hpa` as the viewer `asid` sees them: its own lines first, then memory."""
        hpa &= ~self._c_bit
        self.dram.check(hpa, n)
        if not asid and self._past(hpa):
            return self.engine.read(0, hpa, n)
        parts = []
        for at, size in _spans(hpa, n):
            skip = at % LINE
            parts.append(bytes(self._line(asid, at - skip).data[skip : skip + size]))
        return b"".join(parts)

    def write(self, asid: int, hpa: int, data: Buffer) -> None:
        """Put bytes into the viewer's lines. Memory gets them when a line is written back."""
        hpa &= ~self._c_bit
        self.dram.check(hpa, len(data))
        if not asid and self._past(hpa):
            self.engine.write(0, hpa, data)
            return
        done = 0
        for at, size in _spans(hpa, len(data)):
            skip = at % LINE
            held = self._line(asid, at - skip)
            held.data[skip : skip + size] = data[done : done + size]
            held.dirty = True
            done += size

    def _past(self, hpa: int) -> bool:
        return hpa // PAGE in self._uncached

    def _line(self, asid: int, hpa: int) -> _Held:
        """The line of this view, filled from memory if it is not there."""
        tag = hpa, asid
        held = self._held.get(tag)
        if self.coherent and self._views.get(hpa, ()) not in ((), {asid}):
            self._let_go([(hpa, view) for view in sorted(self._views[hpa]) if view != asid])
        if held is not None:
            self._held.move_to_end(tag)
            return held
        held = _Held(bytearray(self.engine.read(asid, hpa, LINE)))
        if len(self._held) >= self.lines:
            self._let_go([next(iter(self._held))])
        self._held[tag] = held
        self._views.setdefault(hpa, set()).add(asid)
        return held

    # --------------------------------------------------------- flushes

    def clflush(self, hpa: int, n: int) -> None:
        """Write back and drop the host's lines of a range; on a coherent chip everybody's."""
        self._let_go(self._tags(hpa, n, None if self.coherent else 0))

    def page_flush(self, hpa: int, asid: int) -> None:
        """VM_PAGE_FLUSH: write back and drop one guest's lines of a page."""
        self._let_go(self._tags(hpa & -PAGE, PAGE, asid))

    def wbinvd(self) -> None:
        """Write back and drop all lines, the one used longest ago first."""
        self._let_go(list(self._held))

    def snoop(self, paddr: int, n: int) -> None:
        """The secure processor is about to touch a range.

        Through an address without the C-bit it sees what the host wrote. Guest memory it takes from DRAM, where only
        a coherent chip has put everybody's lines.
        """
        if self.coherent or not paddr & self._c_bit:
            self._let_go(self._tags(paddr & ~self._c_bit, n, None if self.coherent else 0))

    def drop(self, hpa: int, n: int) -> None:
        """Forget the host's lines of a range: it was overwritten past the caches."""
        for tag in self._tags(hpa, n, 0):
            self._remove(tag)
        self._uncached.difference_update(range(hpa // PAGE, (hpa + n - 1) // PAGE + 1) if n else ())

    def uncached(self, hpa: int, n: int) -> None:
        """The host maps these frames past its caches, as it does with what it shares with a device."""
        self._let_go(self._tags(hpa, n, 0))
        self._uncached.update(range(hpa // PAGE, (hpa + n - 1) // PAGE + 1))

    def _tags(self, hpa: int, n: int, asid: int | None) -> list[Tag]:
        """The lines that are held of a range, of one view or (None) of all, in address order."""
        first, end = hpa & -LINE, hpa + n
        if (end - first) // LINE > len(self._views):
            found = sorted(line for line in self._views if first <= line < end)
        else:
            found = [line for line in range(first, end, LINE) if line in self._views]
        return [(line, view) for line in found for view in sorted(self._views[line]) if asid is None or view == asid]

    def _let_go(self, tags: Iterable[Tag]) -> None:
        """Write back what is dirty and drop it all; one row for each stretch of neighbours of one view."""
        start, count, whose, kept = 0, 0, 0, True
        for tag in tags:
            held = self._remove(tag)
            if not held.dirty:
                continue
            hpa, asid = tag
            good = self._write_back(hpa, asid, held.data)
            if count and (hpa, asid, good) == (start + count * LINE, whose, kept):
                count += 1
                continue
            self._note(start, count, whose, kept)
            start, count, whose, kept = hpa, 1, asid, good
        self._note(start, count, whose, kept)

    def _remove(self, tag: Tag) -> _Held:
        hpa, asid = tag
        views = self._views[hpa]
        views.discard(asid)
        if not views:
            del self._views[hpa]
        return self._held.pop(tag)

    def _write_back(self, hpa: int, asid: int, data: bytearray) -> bool:
        try:
            self.engine.write(asid, hpa, bytes(data))
        except NoKey:
            return False
        return True

    def _note(self, hpa: int, lines: int, asid: int, kept: bool) -> None:
        if lines and kept:
            self.trace.emit(LinesWritten, hpa, lines, asid)
        elif lines:
            self.trace.emit(LinesLost, hpa, lines, asid)

    # --------------------------------------------------------- for those who look

    def held(self, hpa: int, n: int = LINE) -> list[Line]:
        """The lines that anybody holds of a range, by address and view."""
        tags = self._tags(hpa, n, None)
        return [Line(*tag, self._held[tag].dirty, bytes(self._held[tag].data)) for tag in tags]

    def dirty(self) -> int:
        """How many lines memory does not have yet."""
        return sum(held.dirty for held in self._held.values())

    def __len__(self) -> int:
        """How many lines are held."""
        return len(self._held)

    def __repr__(self) -> str:
        kind = "coherent" if self.coherent else "each view for itself"
        return f"<Caches: {len(self)} of {self.lines} lines, {self.dirty()} dirty, {kind}>"


class HostMemory(Dram):
    """DRAM as the host's processes and kernel see it: through its own lines."""

    def __init__(self, dram: Dram, caches: Caches) -> None:
        self.size = dram.size
        self.memory, self.raw, self.lazy = dram.memory, dram.raw, dram.lazy
        self.caches = caches

    def read(self, hpa: int, n: int) -> bytes:
        """The `n` bytes at `hpa`, as a load of the host gets them."""
        return self.caches.read(0, hpa, n)

    def write(self, hpa: int, data: bytes | bytearray | memoryview) -> None:
        """Store bytes at `hpa`."""
        self.caches.write(0, hpa, data)

    def view(self, hpa: int, n: int) -> memoryview:
        """The bytes in memory themselves, which the host from now on maps past its caches."""
        self.caches.uncached(hpa, n)
        return super().view(hpa, n)

    def zero(self, hpa: int, n: int) -> None:
        """Clear a range past the caches. A guest's dirty lines of it, if nobody has flushed them, are still there."""
        super().zero(hpa, n)
        self.caches.drop(hpa, n)


def _spans(hpa: int, n: int) -> Iterator[tuple[int, int]]:
    """A range cut at the borders of lines, as (hpa, bytes)."""
    end = hpa + n
    while hpa < end:
        size = min(LINE - hpa % LINE, end - hpa)
        yield hpa, size
        hpa += size
