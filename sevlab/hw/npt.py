"""Nested page tables: where a guest's memory lies in the machine.

A nested table maps guest frames to machine frames. It is the host's own, in the
clear, and nothing in it is measured: a host may change it at any moment, and a
guest cannot see that it did. What it cannot choose is whether an access is
private; that is the guest's C-bit, which never comes here.

The walk is a lookup. On a miss the processor would leave the guest with a nested
page fault and the kernel would fill the entry in; here the kernel's answer is
asked for in place (`fault`), so that only a gpa with no memory behind it becomes
a VMEXIT. Not modelled: large pages, access rights, accessed and dirty bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

PAGE = 0x1000


class NestedFault(Exception):
    """Nothing is mapped at `gpa`, and the kernel has nothing to map there: VMEXIT 0x400.

    `table` says that the processor was reading the guest's own page tables.
    """

    def __init__(self, gpa: int, *, table: bool = False) -> None:
        super().__init__(f"no memory behind gpa {gpa:#x}" + (", where a page table should be" if table else ""))
        self.gpa = gpa
        self.table = table


class Npt:
    """One VM's nested page table.

    `fault(gfn)` is the kernel's page-fault handler: it answers the pfn to map
    there, None when no slot covers the frame, or raises OSError (EFAULT, ENOMEM).
    `table` maps gfn to pfn; `version` grows whenever an entry changes or goes, as
    a processor's TLB would want to know.
    """

    __slots__ = ("fault", "table", "version")

    def __init__(self, fault: Callable[[int], int | None]) -> None:
        self.fault = fault
        self.table: dict[int, int] = {}
        self.version = 0

    def translate(self, gpa: int) -> int:
        """The hpa behind `gpa`.

        Raises NestedFault when there is none, OSError as the kernel's handler does.
        """
        pfn = self.table.get(gpa >> 12)
        if pfn is None:
            pfn = self.fault(gpa >> 12)
            if pfn is None:
                raise NestedFault(gpa)
            self.table[gpa >> 12] = pfn
        return pfn << 12 | gpa & 0xFFF

    def runs(self, gpa: int, n: int) -> Iterator[tuple[int, int]]:
        """The machine's runs behind `n` bytes from `gpa`, as (hpa, bytes), each as long as it can be.

        Raises NestedFault as `translate`, when the missing page is reached.
        """
        start, size = self.translate(gpa), min(n, PAGE - (gpa & 0xFFF))
        done = size
        while done < n:
            hpa, piece = self.translate(gpa + done), min(n - done, PAGE)
            if hpa != start + size:
                yield start, size
                start, size = hpa, 0
            size += piece
            done += piece
        yield start, size

    def remap(self, gpa: int, hpa: int) -> None:
        """Point the page at `gpa` to the frame at `hpa`: no byte moves. Both page-aligned, else ValueError."""
        if (gpa | hpa) & 0xFFF:
            raise ValueError(f"a mapping is a page to a page; gpa {gpa:#x} and hpa {hpa:#x} are not both page-aligned")
        self.table[gpa >> 12] = hpa >> 12
        self.version += 1

    def drop(self, gfn: int, count: int = 1) -> None:
        """Forget `count` frames from `gfn`: the next access asks the kernel again."""
        if count > len(self.table):
            for key in [key for key in self.table if gfn <= key < gfn + count]:
                del self.table[key]
        else:
            for key in range(gfn, gfn + count):
                self.table.pop(key, None)
        self.version += 1

    def __len__(self) -> int:
        """How many pages are mapped."""
        return len(self.table)

    def __repr__(self) -> str:
        return f"<Npt: {len(self.table)} pages mapped>"
