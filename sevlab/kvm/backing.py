"""Backings: memory that can be mapped, and the frames it lies in.

A `Backing` is the pages of one private mapping, or a memfd's. It knows its frames
as a list of runs, never page by page. The first touch of a page gives it a frame;
a page that was only read is zero and needs none.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from errno import EBUSY, EFAULT, EINVAL
from operator import attrgetter
from typing import NamedTuple, Protocol

from sevlab.hw.pages import MOVED, PRIVATE, STALE
from sevlab.kvm.fd import CARRIERS, KvmError, need
from sevlab.kvm.frames import Frames, Run

PAGE = 0x1000

first_of = attrgetter("first")


class Window(Protocol):
    """What a backing knows of a place where its pages can be seen: `pages` of them from `offset` on."""

    offset: int

    @property
    def pages(self) -> int: ...

    def tell(self, page: int, count: int) -> None:
        """These pages of the backing are about to change their frames."""


class Extent:
    """Pages of a backing whose frames are neighbours: page `first` lies in frame `pfn`, and so on."""

    __slots__ = ("count", "first", "pfn")

    def __init__(self, first: int, pfn: int, count: int) -> None:
        self.first = first
        self.pfn = pfn
        self.count = count

    def __repr__(self) -> str:
        return f"<Extent: pages {self.first} to {self.first + self.count - 1} at pfn {self.pfn:#x}>"


class Swapped(NamedTuple):
    """A page that was swapped out: its raw bytes, the frame they were bound to, and what that frame was."""

    raw: bytes
    pfn: int
    state: int
    asid: int


class Backing:
    """`pages` pages of memory that can be mapped, private to one address space or `shared`.

    Its frames live as long as a page of it is mapped, held (`hold`, as a file does
    for its whole life) or pinned. The kernel's own pages are not `movable`.
    """

    def __init__(self, frames: Frames, pages: int, *, shared: bool = False, movable: bool = True) -> None:
        self.frames = frames
        self.pages = pages
        self.shared = shared
        self.movable = movable
        self.holders = 0
        self.mappings: list[Window] = []
        self._extents: list[Extent] = []  # by first page, never touching where their frames are neighbours
        self._pins: dict[int, tuple[int, int, list[Run]]] = {}  # a number for each pin: (first page, count, the runs)
        self._swapped: dict[int, Swapped] = {}  # pages whose bytes lie on the disk, by page
        self._next_pin = 0

    # -------------------------------------------------------- its frames

    def find(self, page: int) -> tuple[int | None, int]:
        """The frame of a page and how many pages go on like that; (None, n) for n pages without frames.

        A page that was swapped out comes back at this look.
        """
        if page in self._swapped:
            self._swap_in(page)
        extents = self._extents
        at = bisect_right(extents, page, key=first_of) if len(extents) > 1 else len(extents)
        if at:
            extent = extents[at - 1]
            into = page - extent.first
            if 0 <= into < extent.count:
                return extent.pfn + into, extent.count - into
            at -= into < 0
        following = self._extents[at].first if at < len(self._extents) else self.pages
        if self._swapped:
            following = min([following, *(other for other in self._swapped if other > page)])
        return None, following - page

    def runs(self, page: int, count: int) -> Iterator[tuple[int | None, int]]:
        """A range as (pfn, count), with (None, count) where no frames are."""
        while count > 0:
            pfn, size = self.find(page)
            size = min(size, count)
            yield pfn, size
            page += size
            count -= size

    def assign(self, page: int, count: int) -> list[Run]:
        """Make sure that a range has frames; its runs, joined where frames are neighbours. Raises ENOMEM."""
        holes, at = [], page
        for pfn, size in self.runs(page, count):
            if pfn is None:
                holes.append((at, size))
            at += size
        self.frames.require(sum(size for _, size in holes))

        for at, size in holes:
            for pfn, got in self.frames.take(size):
                self._put(at, pfn, got)
                at += got
        joined: list[Run] = []
        for pfn, size in self.runs(page, count):
            assert pfn is not None
            if joined and sum(joined[-1]) == pfn:
                joined[-1] = (joined[-1][0], joined[-1][1] + size)
            else:
                joined.append((pfn, size))
        return joined

    def page(self, page: int) -> int:
        """The frame of one page, given now if it has none. Raises ENOMEM."""
        pfn, _ = self.find(page)
        if pfn is None:
            pfn = self.frames.take(1)[0][0]
            self._put(page, pfn, 1)
        return pfn

    def view(self, page: int, count: int = 1) -> memoryview:
        """The raw bytes of pages whose frames are neighbours, writable, without a copy.

        Untouched pages get frames that are. Raises ENOMEM, and EINVAL where frames are no neighbours already.
        """
        pfn, untouched = self.find(page)
        if pfn is None and untouched >= count:
            self._put(page, self.frames.take_run(count), count)
        runs = self.assign(page, count)
        need(len(runs) == 1, EINVAL)  # not physically contiguous
        return self.frames.dram.view(runs[0][0] << 12, count << 12)

    def move(self, page: int, pfn: int | None = None) -> tuple[int, int]:
        """Compaction: copy a page's raw bytes to another frame (`pfn`, or any that is free), and go on there.

        Everybody who maps the page is told first. A guest's private page is stale then: its bytes are
        bound to the old address. Answers (old pfn, new pfn). Raises EFAULT for a page without a frame,
        EBUSY for one that may not move or a `pfn` in use, ENOMEM when there is no frame to go to.
        """
        old = self._loose(page)
        new = self.frames.take(1)[0][0] if pfn is None else self.frames.take_at(pfn)

        for mapping in self.mappings:
            mapping.tell(page, 1)
        dram, states = self.frames.dram, self.frames.pages
        dram.write(new << 12, dram.view(old << 12, PAGE))
        state, asid = states.state(old), states.asid(old)
        states.mark(new, 1, STALE if state == PRIVATE else state, asid)
        self._take(page, 1)
        self._put(page, new, 1)
        self.frames.give(old, 1, MOVED)
        return old, new

    def swap_out(self, page: int) -> int:
        """Write a page's raw bytes to the disk and give its frame away: that frame's number.

        It comes back, in whatever frame is free then, when somebody next looks. Raises as `move`.
        """
        old = self._loose(page)

        for mapping in self.mappings:
            mapping.tell(page, 1)
        states = self.frames.pages
        raw = bytes(self.frames.dram.view(old << 12, PAGE))
        self._take(page, 1)
        self._swapped[page] = Swapped(raw, old, states.state(old), states.asid(old))
        self.frames.give(old, 1, MOVED)
        return old

    def _swap_in(self, page: int) -> None:
        """Bring a page back. A guest's private page is stale, unless it comes to lie where it was."""
        pfn = self.frames.take(1)[0][0]  # ENOMEM
        raw, old, state, asid = self._swapped.pop(page)

        self.frames.dram.write(pfn << 12, raw)
        self.frames.pages.mark(pfn, 1, STALE if state == PRIVATE and pfn != old else state, asid)
        self._put(page, pfn, 1)

    def _loose(self, page: int) -> int:
        """The frame of a page that may leave it. Raises EFAULT for a page without one, EBUSY for one that must stay."""
        pfn, _ = self.find(page)
        if pfn is None:
            raise KvmError(EFAULT, why="the page was never touched: there is nothing to move")
        if not self.movable or self.pinned(page):
            what = "pinned" if self.movable else "the kernel's own"
            raise KvmError(EBUSY, why=f"frame {pfn:#x} is {what}: it stays where it is")
        return pfn

    def _put(self, page: int, pfn: int, count: int) -> None:
        """Enter frames for pages that have none."""
        at = bisect_right(self._extents, page, key=first_of)
        if at:
            before = self._extents[at - 1]
            if before.first + before.count == page and before.pfn + before.count == pfn:
                before.count += count
                self._join(at - 1)
                return
        self._extents.insert(at, Extent(page, pfn, count))
        self._join(at)

    def _join(self, at: int) -> None:
        if at + 1 < len(self._extents):
            one, two = self._extents[at], self._extents[at + 1]
            if one.first + one.count == two.first and one.pfn + one.count == two.pfn:
                one.count += two.count
                del self._extents[at + 1]

    def _take(self, page: int, count: int) -> list[tuple[int, Run]]:
        """Forget the frames of a range: what they were, as (page, (pfn, count))."""
        taken: list[tuple[int, Run]] = []
        end = page + count
        for gone in [other for other in self._swapped if page <= other < end]:
            del self._swapped[gone]
        at = bisect_right(self._extents, page, key=first_of)
        if at and self._extents[at - 1].first + self._extents[at - 1].count > page:
            at -= 1
        while at < len(self._extents) and self._extents[at].first < end:
            extent = self._extents.pop(at)
            left = max(page - extent.first, 0)
            right = max(extent.first + extent.count - end, 0)
            taken.append((extent.first + left, (extent.pfn + left, extent.count - left - right)))
            if left:
                self._extents.insert(at, Extent(extent.first, extent.pfn, left))
                at += 1
            if right:
                self._extents.insert(at, Extent(end, extent.pfn + extent.count - right, right))
        return taken

    # ---------------------------------------------------------- its life

    def hold(self) -> Backing:
        """One holder more that keeps the frames without mapping them."""
        self.holders += 1
        return self

    def drop(self) -> None:
        """One holder less."""
        self.holders -= 1
        self.give_back(0, self.pages)

    def pin(self, page: int, count: int) -> tuple[int, list[Run]]:
        """Keep a range where it is; the pin's number, and its runs, which stay the pin's. Raises ENOMEM."""
        first, size = self.find(page)
        runs = self.assign(page, count) if first is None or size < count else [(first, count)]

        pages = self.frames.pages
        for pfn, size in runs:
            pages.pin(pfn, size)
        number = self._next_pin
        self._next_pin += 1
        self._pins[number] = page, count, runs
        return number, runs

    def unpin(self, number: int) -> None:
        """Let go of a pin. Frames that nothing else keeps are free then."""
        page, count, runs = self._pins.pop(number)
        pages = self.frames.pages
        for pfn, size in runs:  # it could not move
            pages.unpin(pfn, size)
        if not self.holders:
            self.give_back(page, count)

    def pinned(self, page: int) -> bool:
        """Whether a page is pinned."""
        return any(first <= page < first + count for first, count, _ in self._pins.values())

    def give_back(self, page: int, count: int) -> None:
        """Free the frames of a range, except those that are mapped, held or pinned."""
        if self.holders or (self.shared and self.mappings):
            return
        for mapping in self.mappings:
            if mapping.offset <= page and page + count <= mapping.offset + mapping.pages:
                return
        kept = [(m.offset, m.offset + m.pages) for m in self.mappings]
        kept += [(first, first + size) for first, size, _ in self._pins.values()]
        at, end = page, page + count
        for first, last in [*sorted(kept), (end, end)]:
            if at < min(first, end):
                for _, run in self._take(at, min(first, end) - at):
                    self.frames.give(*run)
            at = max(at, last)

    def copy(self) -> Backing:
        """The same bytes in frames of their own: what fork makes of private memory. Raises ENOMEM."""
        twin = Backing(self.frames, self.pages)
        self.frames.require(len(self))

        dram = self.frames.dram
        for extent in self._extents:
            source, page = extent.pfn, extent.first
            for pfn, size in self.frames.take(extent.count):
                dram.write(pfn << 12, dram.view(source << 12, size << 12))
                twin._put(page, pfn, size)
                source, page = source + size, page + size
        twin._swapped = dict(self._swapped)
        return twin

    def __len__(self) -> int:
        """How many pages have frames."""
        return sum(extent.count for extent in self._extents)

    def __repr__(self) -> str:
        kind = "shared" if self.shared else "private"
        return f"<Backing: {len(self)} of {self.pages} pages, {kind}, {len(self._extents)} runs, {len(self._pins)} pins>"


# Their refusals carry their own words; the rung is whoever asked.
WORDY = (Backing.assign, Backing.page, Backing.pin, Backing.move, Backing.swap_out, Backing._loose, Backing.copy)
CARRIERS.update(method.__code__ for method in WORDY)
