"""Page frames: which are in use, and where the next ones come from.

A frame is a number; its bytes lie in the machine's DRAM. Frames are handed out
in runs, the lowest first, so that what is allocated together lies together. A
frame that was never used is zero. One that comes back keeps its old bytes until
it is handed out again and zeroed then: what a careless host leaves lying about
can be read on the bus, but never by the next process.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from errno import EBUSY, ENOMEM

from sevlab.hw.pages import FREE, HOST
from sevlab.hw.soc import Soc
from sevlab.kvm.fd import CARRIERS, KvmError

LOW = 256  # the first MiB is the firmware's, as on any PC; nobody is ever handed address 0

Run = tuple[int, int]  # (pfn, count): neighbouring frames


class Frames:
    """The frames of one machine. `free` counts what is left."""

    def __init__(self, soc: Soc) -> None:
        self.dram = soc.host
        self.pages = soc.pages
        self.end = soc.dram.size >> 12
        self.fresh = min(LOW, self.end // 2)  # from here on nothing was ever used
        self.free = self.end - self.fresh
        self._starts: list[int] = []  # runs that came back, in order and never touching
        self._counts: list[int] = []

    def require(self, count: int) -> None:
        """Raise ENOMEM unless `count` frames are free."""
        if count > self.free:
            raise KvmError(ENOMEM, why=f"{count} frames are wanted and {self.free} are free")

    def take(self, count: int) -> list[Run]:
        """`count` zeroed frames as runs, the lowest that are free.

        Raises ENOMEM when the machine has fewer; then none is taken.
        """
        self.require(count)

        runs: list[Run] = []
        while count and self._starts:
            pfn, size = self._starts[0], min(count, self._counts[0])
            self._cut(0, pfn, size)
            self._hand_out(runs, pfn, size, used=True)
            count -= size
        if count:
            self._hand_out(runs, self.fresh, count, used=False)
            self.fresh += count
            self.free -= count
        return runs

    def take_run(self, count: int, align: int = 1) -> int:
        """The pfn of `count` zeroed frames in one run, at a multiple of `align` frames.

        Raises ENOMEM when there is no such run.
        """
        for index, (start, size) in enumerate(zip(self._starts, self._counts, strict=True)):
            pfn = -(-start // align) * align
            if pfn + count <= start + size:
                self._cut(index, pfn, count)
                self._hand_out([], pfn, count, used=True)
                return pfn
        pfn = -(-self.fresh // align) * align
        if pfn + count > self.end:
            raise KvmError(ENOMEM, why=f"no {count} frames in one run, at a multiple of {align}")

        self._take_fresh(pfn, count)
        return pfn

    def take_at(self, pfn: int) -> int:
        """One zeroed frame, this one and no other. Raises EBUSY when it is not free."""
        at = bisect_right(self._starts, pfn) - 1
        returned = at >= 0 and pfn < self._starts[at] + self._counts[at]
        if not returned and not self.fresh <= pfn < self.end:
            raise KvmError(EBUSY, why=f"frame {pfn:#x} is in use, or the machine has none of that number")

        if returned:
            self._cut(at, pfn, 1)
            self._hand_out([], pfn, 1, used=True)
        else:
            self._take_fresh(pfn, 1)
        return pfn

    def give(self, pfn: int, count: int, state: int = FREE) -> None:
        """Frames come back, marked as free or as `state`. Their bytes stay until somebody else gets them."""
        self.pages.mark(pfn, count, state)
        self._insert(pfn, count)

    def __iter__(self) -> Iterator[Run]:
        """The free runs, lowest first."""
        yield from zip(self._starts, self._counts, strict=True)
        yield self.fresh, self.end - self.fresh

    def _hand_out(self, runs: list[Run], pfn: int, count: int, *, used: bool) -> None:
        if used:
            self.dram.zero(pfn << 12, count << 12)
        self.pages.mark(pfn, count, HOST)
        if runs and sum(runs[-1]) == pfn:
            runs[-1] = (runs[-1][0], runs[-1][1] + count)
        else:
            runs.append((pfn, count))

    def _take_fresh(self, pfn: int, count: int) -> None:
        """Hand out frames that were never used; those below them count as returned."""
        below = self.fresh
        self.fresh = pfn + count
        self.free -= pfn + count - below
        if below < pfn:
            self._insert(below, pfn - below)
        self._hand_out([], pfn, count, used=False)

    def _cut(self, index: int, pfn: int, count: int) -> None:
        """Take frames out of the middle of a returned run."""
        start, size = self._starts[index], self._counts[index]
        left, right = pfn - start, start + size - pfn - count
        rest = [(start, left)] * bool(left) + [(pfn + count, right)] * bool(right)
        self._starts[index : index + 1] = [first for first, _ in rest]
        self._counts[index : index + 1] = [length for _, length in rest]
        self.free -= count

    def _insert(self, pfn: int, count: int) -> None:
        """Put frames among those that came back, joined to their neighbours."""
        at = bisect_right(self._starts, pfn)
        self.free += count
        if at and self._starts[at - 1] + self._counts[at - 1] == pfn:
            at -= 1
            self._counts[at] += count
        else:
            self._starts.insert(at, pfn)
            self._counts.insert(at, count)
        if at + 1 < len(self._starts) and self._starts[at] + self._counts[at] == self._starts[at + 1]:
            self._counts[at] += self._counts.pop(at + 1)
            del self._starts[at + 1]


CARRIERS.update(method.__code__ for method in (Frames.require, Frames.take, Frames.take_run, Frames.take_at))
