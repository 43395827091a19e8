"""Address spaces and pins.

An `Mm` maps backings at addresses and remembers the pages it has looked up. A
`Pin` keeps pages where they are, and alive, whatever the process does with its
mappings.

Not modelled: access rights of a mapping, copy on write (fork copies), and so no merging of equal pages.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from errno import EFAULT, EINVAL, ENOMEM, EPERM
from operator import attrgetter

from sevlab.kvm.backing import PAGE, Backing
from sevlab.kvm.fd import CARRIERS, File, KvmError, need
from sevlab.kvm.frames import Frames, Run

__all__ = ["PAGE", "TASK_SIZE", "Backing", "Mapping", "Mm", "Notifier", "Pin"]

TASK_SIZE = 0x7FFF_FFFF_F000  # one past the last address of a process
MMAP_MIN = 0x1_0000  # vm.mmap_min_addr
MMAP_BASE = 0x7FFF_F000_0000  # mappings grow down from here
HUGE = 0x20_0000  # a mapping this large is aligned to it

Notifier = Callable[[int, int], None]  # (va, bytes): this range is about to lose its frames

start_of = attrgetter("start")


def _fault(va: int, reason: str = "nothing is mapped there") -> KvmError:
    return KvmError(EFAULT, why=f"{va:#x}: {reason}")


class Mapping:
    """A range of addresses that shows pages of a backing, from page `offset` on. `file` is kept while it is mapped."""

    __slots__ = ("backing", "end", "file", "mm", "offset", "start")

    def __init__(self, mm: Mm, start: int, end: int, backing: Backing, offset: int, file: File | None) -> None:
        self.mm = mm
        self.start = start
        self.end = end
        self.backing = backing
        self.offset = offset
        self.file = file

    @property
    def pages(self) -> int:
        return (self.end - self.start) >> 12

    def tell(self, page: int, count: int) -> None:
        """Pages of the backing are about to change their frames: forget them, and tell who looks on."""
        first, last = max(page, self.offset), min(page + count, self.offset + self.pages)
        if first < last:
            self.mm.invalidate(self.start + ((first - self.offset) << 12), (last - first) << 12)

    def __repr__(self) -> str:
        return f"<Mapping: {self.start:#x} to {self.end:#x}, {self.backing!r}>"


class Pin:
    """Pages that stay where they are until `release`.

    `runs` are (pfn, count), joined where frames are neighbours; the first byte is
    `first_offset` bytes into the first frame; `pages` is how many pages are touched.
    """

    __slots__ = ("_parts", "first_offset", "pages", "runs")

    def __init__(self, parts: list[tuple[Backing, int]], runs: list[Run], first_offset: int, pages: int) -> None:
        self._parts = parts
        self.runs = runs
        self.first_offset = first_offset
        self.pages = pages

    def release(self) -> None:
        """Let go. A second time changes nothing."""
        parts = self._parts
        if parts:
            self._parts = []
            for backing, number in parts:
                backing.unpin(number)

    def __enter__(self) -> Pin:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def __repr__(self) -> str:
        return f"<Pin: {self.pages} pages in {len(self.runs)} runs>"


class Mm:
    """One address space. Its identity says which process a VM belongs to.

    `notifiers` are told (va, bytes) before a range loses its frames.
    """

    def __init__(self, frames: Frames) -> None:
        self.frames = frames
        self.dram = frames.dram
        self.notifiers: list[Notifier] = []
        self._mappings: list[Mapping] = []  # by start, never overlapping
        self._found: Mapping | None = None  # the one that was asked for last
        self._pages: dict[int, int] = {}  # pages looked up before: va >> 12 to pfn
        self._next = MMAP_BASE

    # ---------------------------------------------------------- mappings

    def mmap(
        self, length: int, *, at: int | None = None, backing: Backing | None = None, offset: int = 0, file: File | None = None
    ) -> int:
        """Map `length` bytes, rounded up to pages: fresh private memory, or `backing` from page `offset` on.

        With `at` exactly there, in place of whatever was mapped. A `file` is kept (one reference) while
        mapped. Raises EINVAL (no length, `at` unaligned), ENOMEM (no room), EPERM (the lowest 64 KiB).
        """
        size = -(-length // PAGE) * PAGE
        need(length > 0, EINVAL)  # !len
        need(size <= TASK_SIZE - MMAP_MIN, ENOMEM)  # len > TASK_SIZE
        if at is None:
            start = (self._next - size) & -(HUGE if size >= HUGE else PAGE)
            need(start >= MMAP_MIN, ENOMEM)  # get_unmapped_area()
        else:
            start = at
            need(not at & (PAGE - 1), EINVAL)  # offset_in_page(addr)
            need(at >= 0 and at + size <= TASK_SIZE, ENOMEM)  # addr > TASK_SIZE - len
            need(at >= MMAP_MIN, EPERM)  # addr < mmap_min_addr

        if at is None:
            self._next = start - PAGE  # a page of nothing between two mappings: running over the end is found out
        else:
            self.munmap(start, size)
        if backing is None:
            backing = Backing(self.frames, size >> 12)
        self._map(Mapping(self, start, start + size, backing, offset, file.get() if file else None))
        return start

    def munmap(self, va: int, length: int) -> None:
        """Unmap every page of a range; pages that are not mapped are passed over.

        Raises EINVAL for an unaligned address, no length, or a range beyond the address space.
        """
        size = -(-length // PAGE) * PAGE
        need(not va & (PAGE - 1), EINVAL)  # offset_in_page(start)
        need(length > 0, EINVAL)  # !len
        need(0 <= va <= TASK_SIZE - size, EINVAL)  # start > TASK_SIZE

        end = va + size
        for mapping in self._over(va, end):
            start, stop = max(va, mapping.start), min(end, mapping.end)
            self.invalidate(start, stop - start)
            self._cut(mapping, start, stop)

    def teardown(self) -> None:
        """The address space ends: everything is unmapped, the lowest address first."""
        while self._mappings:
            mapping = self._mappings[0]
            self.munmap(mapping.start, mapping.end - mapping.start)

    def fork(self) -> Mm:
        """A copy of the address space: private pages copied now, shared ones shared. Raises ENOMEM."""
        child = Mm(self.frames)
        child._next = self._next
        copies: dict[Backing, Backing] = {}
        try:
            for mapping in self._mappings:
                backing = mapping.backing
                if not backing.shared:
                    if backing not in copies:
                        copies[backing] = backing.copy()
                    backing = copies[backing]
                file = mapping.file.get() if mapping.file else None
                child._map(Mapping(child, mapping.start, mapping.end, backing, mapping.offset, file))
        except KvmError:
            child.teardown()
            raise
        for twin in copies.values():
            twin.give_back(0, twin.pages)  # what was only pinned is not the child's
        return child

    def invalidate(self, va: int, n: int) -> None:
        """A range is about to lose its frames: tell who looks on, and forget what was looked up."""
        for notifier in list(self.notifiers):
            notifier(va, n)
        first, count = va >> 12, n >> 12
        if count > len(self._pages):
            for page in [page for page in self._pages if first <= page < first + count]:
                del self._pages[page]
        else:
            for page in range(first, first + count):
                self._pages.pop(page, None)

    def find(self, va: int) -> Mapping | None:
        """The mapping at an address."""
        found = self._found
        if found is not None and found.start <= va < found.end:
            return found
        at = bisect_right(self._mappings, va, key=start_of)
        if at and va < self._mappings[at - 1].end:
            self._found = self._mappings[at - 1]
            return self._found
        return None

    def _over(self, va: int, end: int) -> list[Mapping]:
        """The mappings that a range touches."""
        at = max(bisect_right(self._mappings, va, key=start_of) - 1, 0)
        found = []
        while at < len(self._mappings) and self._mappings[at].start < end:
            if self._mappings[at].end > va:
                found.append(self._mappings[at])
            at += 1
        return found

    def _map(self, mapping: Mapping) -> None:
        insort(self._mappings, mapping, key=start_of)
        mapping.backing.mappings.append(mapping)

    def _cut(self, mapping: Mapping, start: int, stop: int) -> None:
        """Take a range out of a mapping; what is left stays mapped."""
        backing, offset = mapping.backing, mapping.offset
        page = offset + ((start - mapping.start) >> 12)
        self._found = None
        if stop < mapping.end:
            rest = offset + ((stop - mapping.start) >> 12)
            self._map(Mapping(self, stop, mapping.end, backing, rest, mapping.file.get() if mapping.file else None))
        if mapping.start < start:
            mapping.end = start
            file = None
        else:
            self._mappings.remove(mapping)
            backing.mappings.remove(mapping)
            file = mapping.file
        backing.give_back(page, (stop - start) >> 12)
        if file:
            file.put()

    # ------------------------------------------------------------- bytes

    def page(self, va: int) -> int:
        """The frame behind an address, given at this first touch if need be. Raises EFAULT, ENOMEM."""
        pfn = self._pages.get(va >> 12)
        if pfn is None:
            mapping = self.find(va)
            if mapping is None:
                raise _fault(va)
            page = mapping.offset + ((va - mapping.start) >> 12)
            if page >= mapping.backing.pages:
                raise _fault(va, "the mapping goes beyond the end of its file")
            pfn = self._pages[va >> 12] = mapping.backing.page(page)
        return pfn

    def _seen(self, va: int) -> int | None:
        """The frame behind an address, remembered from now on; None for a page without one. Raises EFAULT."""
        mapping = self.find(va)
        if mapping is None:
            raise _fault(va)
        pfn, _ = mapping.backing.find(mapping.offset + ((va - mapping.start) >> 12))
        if pfn is not None:
            self._pages[va >> 12] = pfn
        return pfn

    def translate(self, va: int) -> int:
        """The hpa behind an address; nothing is touched. Raises EFAULT where there is no mapping or no frame yet."""
        pfn = self._seen(va)
        if pfn is None:
            raise _fault(va, "the page was never touched")
        return pfn << 12 | va & (PAGE - 1)

    def move(self, va: int, pfn: int | None = None) -> tuple[int, int]:
        """Compaction of the page at `va`, as `Backing.move`: (old pfn, new pfn). Raises EFAULT, EBUSY, ENOMEM."""
        mapping = self._mapping(va)
        return mapping.backing.move(mapping.offset + ((va - mapping.start) >> 12), pfn)

    def swap_out(self, va: int) -> int:
        """Swap out the page at `va`, as `Backing.swap_out`: the frame it left. Raises EFAULT, EBUSY."""
        mapping = self._mapping(va)
        return mapping.backing.swap_out(mapping.offset + ((va - mapping.start) >> 12))

    def _mapping(self, va: int) -> Mapping:
        mapping = self.find(va)
        if mapping is None:
            raise _fault(va)
        return mapping

    def read(self, va: int, n: int) -> bytes:
        """`n` bytes at `va`. Raises EFAULT unless all of them are mapped."""
        inside = va & 0xFFF
        if inside + n <= 0x1000:
            pfn = self._pages.get(va >> 12)
            if pfn is not None:
                return self.dram.read(pfn << 12 | inside, n)
            pfn = self._seen(va) if n else None
            if pfn is not None:
                return self.dram.read(pfn << 12 | inside, n)
        if not n:
            return b""
        parts, left = [], n
        for backing, page, count in self._pieces(va, n):
            for pfn, size in backing.runs(page, count):
                piece = min((size << 12) - inside, left)
                parts.append(bytes(piece) if pfn is None else self.dram.read(pfn << 12 | inside, piece))
                left -= piece
                inside = 0
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def write(self, va: int, data: bytes | bytearray | memoryview) -> None:
        """Put bytes at `va`. At a hole raises EFAULT; what lies before it is written."""
        n, inside = len(data), va & 0xFFF
        if inside + n <= 0x1000:
            pfn = self._pages.get(va >> 12)
            if pfn is None and n:
                pfn = self.page(va)
            if pfn is not None:
                self.dram.write(pfn << 12 | inside, data)
            return
        view, done = memoryview(data), 0
        for backing, page, count in self._pieces(va, n):
            for pfn, size in backing.assign(page, count):
                piece = min((size << 12) - inside, n - done)
                self.dram.write(pfn << 12 | inside, view[done : done + piece])
                done += piece
                inside = 0

    def _pieces(self, va: int, n: int) -> Iterator[tuple[Backing, int, int]]:
        """The pages of a range as (backing, first page, count); raises EFAULT where a hole begins."""
        at, end = va & ~0xFFF, va + n
        while at < end:
            mapping = self.find(at)
            if mapping is None:
                raise _fault(max(at, va))
            stop = min(mapping.end, -(-end // PAGE) * PAGE)
            page = mapping.offset + ((at - mapping.start) >> 12)
            count = min((stop - at) >> 12, mapping.backing.pages - page)
            if count > 0:
                yield mapping.backing, page, count
            if count < (stop - at) >> 12:
                raise _fault(at + (max(count, 0) << 12), "the mapping goes beyond the end of its file")
            at = stop

    def pin(self, va: int, n: int, write: bool = True) -> Pin:
        """Pin the pages that `n` bytes from `va` touch; a page without a frame gets one.

        Raises EFAULT at a hole, ENOMEM when frames run out; then nothing stays pinned. `write` changes
        nothing here: no page is shared for reading only.
        """
        count = ((va & 0xFFF) + n + PAGE - 1) >> 12
        mapping = self.find(va)
        if mapping is not None and va + n <= mapping.end and n > 0:
            backing = mapping.backing
            page = mapping.offset + ((va - mapping.start) >> 12)
            if page + count <= backing.pages:  # all in one: nearly always
                number, runs = backing.pin(page, count)
                return Pin([(backing, number)], runs, va & 0xFFF, count)
        pin = Pin([], [], va & 0xFFF, count)
        try:
            for backing, page, count in self._pieces(va, n):
                number, kept = backing.pin(page, count)
                pin._parts.append((backing, number))
                runs = [*kept]
                if pin.runs and sum(pin.runs[-1]) == runs[0][0]:  # one run over two mappings
                    first, count = pin.runs.pop()
                    runs[0] = (first, count + runs[0][1])
                pin.runs += runs
        except KvmError:
            pin.release()
            raise
        return pin

    def __repr__(self) -> str:
        return f"<Mm: {len(self._mappings)} mappings>"


# Their refusals carry their own words; the rung is whoever asked.
WORDY = (Mm.page, Mm._seen, Mm.translate, Mm._mapping, Mm.move, Mm.swap_out, Mm.read, Mm.write, Mm._pieces, Mm.pin)
CARRIERS.update(method.__code__ for method in WORDY)
