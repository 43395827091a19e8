"""The system on a chip: cores, engine, memory and clock in one place."""

from __future__ import annotations

from sevlab.bulk import PAGE
from sevlab.crypto import Stream
from sevlab.hw import chips
from sevlab.hw.cache import Caches, HostMemory
from sevlab.hw.chips import Chip
from sevlab.hw.clock import Clock
from sevlab.hw.dram import Dram
from sevlab.hw.engine import Engine
from sevlab.hw.pages import Pages
from sevlab.hw.program import Programs
from sevlab.trace import Event, Trace, u16, u64


class Wbinvd(Event, lane="kvm"):
    """Every core wrote back its caches and emptied them."""


class Clflush(Event, lane="kvm"):
    """The lines of a range were written back and dropped, in the host's view of them."""

    hpa: u64
    size: u64


class PageFlushed(Event, lane="kvm"):
    """One guest page was flushed by MSR C001_011E, in the view of an ASID."""

    hpa: u64
    asid: u16


class Soc:
    """One machine's silicon: `chip`, `clock`, `stream`, `trace`, `dram`, `engine`, `pages`, `programs`.

    `memory` counts bytes. `programs` knows, by the SHA-256 of a page, the (program, arguments) that a
    processor runs when it fetches that page. `written_back` says that no line of a deactivated
    guest is left in a cache: `wbinvd` sets it, the firmware clears it at DEACTIVATE.

    `core` is memory as a processor reads and writes it, `host` as the host's own software does; `dram` is
    what the bus carries. With `caches` there are lines between them (`sevlab.hw.cache`); without, all are coherent.
    """

    def __init__(self, chip: str | Chip, stream: Stream, trace: Trace, memory: int, *, caches: bool = False) -> None:
        self.chip = chips.by_name(chip)
        self.stream = stream
        self.trace = trace
        self.clock = Clock(trace)
        self.dram = Dram(memory)
        self.engine = Engine(self.chip, stream, self.dram, trace)
        self.caches: Caches | None = Caches(self.engine, trace) if caches else None
        self.core: Engine | Caches = self.engine if self.caches is None else self.caches
        self.host = self.dram if self.caches is None else HostMemory(self.dram, self.caches)
        self.pages = Pages(memory // PAGE, trace)
        self.programs = Programs()
        self.written_back = True  # no guest has run yet

    def wbinvd(self) -> None:
        """WBINVD on all cores."""
        self.clock.spend("WBINVD")
        if self.caches is not None:
            self.caches.wbinvd()
        self.written_back = True
        self.trace.emit(Wbinvd)

    def clflush(self, hpa: int, n: int) -> None:
        """CLFLUSH over a range of the host's view."""
        self.clock.spend("CLFLUSH", n)
        if self.caches is not None:
            self.caches.clflush(hpa, n)
        self.trace.emit(Clflush, hpa, n)

    def page_flush(self, hpa: int, asid: int) -> None:
        """VM_PAGE_FLUSH: the lines of one page in a guest's view."""
        self.clock.spend("VM_PAGE_FLUSH")
        if self.caches is not None:
            self.caches.page_flush(hpa, asid)
        self.trace.emit(PageFlushed, hpa, asid)

    def __repr__(self) -> str:
        return f"<Soc: {self.chip.name}, {self.dram.size >> 20} MiB>"
