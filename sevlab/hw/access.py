"""A processor's accesses to memory: fetch, load and store, through nested page tables and the engine.

Which key an access uses is the guest's ASID and the C-bit together; a fetch is
private whatever the page tables say (firmware.md 6.3).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sevlab.hw.engine import NoKey
from sevlab.hw.isa import Instruction
from sevlab.hw.npt import PAGE
from sevlab.hw.pages import FIRMWARE, GHCB, PRIVATE, SHARED, VMSA
from sevlab.hw.program import Program
from sevlab.hw.thread import Thread, TripleFault
from sevlab.hw.vmcb import Vmcb
from sevlab.trace import Event, name, u16, u64

if TYPE_CHECKING:
    from sevlab.hw.soc import Soc

DIGEST_AT = 64  # where in a page one block is remembered in clear, to know the key again


class Fetched(Event, lane="guest"):
    """A processor found a program in the page at `gpa`, as its key shows that page."""

    asid: u16
    gpa: u64
    program: name


def fetch(soc: Soc, vmcb: Vmcb, gpa: int) -> tuple[Program, tuple[Any, ...]]:
    """The program in the page at `gpa`, through the guest's key whatever its page tables say.

    Raises TripleFault when there is none, NestedFault when there is no memory.
    """
    hpa = vmcb.npt.translate(gpa) & -PAGE
    key = vmcb.asid if vmcb.sev else 0
    try:
        page = soc.engine.read(key, hpa, PAGE)
    except NoKey as error:
        raise TripleFault(str(error)) from error
    known = soc.programs.find(page)
    if known is None:
        raise TripleFault(f"no program in the page at gpa {gpa & -PAGE:#x}" + (f" under the key of slot {key}" if key else ""))
    vmcb.code = gpa
    vmcb.seen = (hpa, key, soc.dram.read(hpa, PAGE), page[DIGEST_AT : DIGEST_AT + 16])
    soc.trace.emit(Fetched, key, gpa, known[0].name)
    return known


def fetch_again(soc: Soc, vmcb: Vmcb, thread: Thread) -> None:
    """Make sure that the page of a running program is what it was: cheap where nothing has changed.

    The same frame, the same bytes on the bus and the same key are the same program. Raises as `fetch` does, and
    TripleFault when the page now holds another program than the registers belong to.
    """
    hpa = vmcb.npt.translate(vmcb.code) & -PAGE
    key = vmcb.asid if vmcb.sev else 0
    same = vmcb.seen and vmcb.seen[:2] == (hpa, key) and soc.dram.read(hpa, PAGE) == vmcb.seen[2]
    if same and (not key or soc.engine.read(key, hpa + DIGEST_AT, 16) == vmcb.seen[3]):
        return
    program, _ = fetch(soc, vmcb, vmcb.code)
    if program.digest != thread.program.digest:
        raise TripleFault(f"gpa {vmcb.code & -PAGE:#x} holds {program.name} now, the registers are {thread.program.name}'s")


def load(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> bytes:
    """The bytes that a load instruction reads. Raises NestedFault before any is read."""
    _, gpa, n, c = instruction
    key = vmcb.asid if vmcb.sev and c is not False else 0
    if (gpa & 0xFFF) + n <= PAGE:
        return soc.engine.read(key, vmcb.npt.translate(gpa), n) if n else b""
    return b"".join([soc.engine.read(key, hpa, size) for hpa, size in list(vmcb.npt.runs(gpa, n))])


def store(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> None:
    """Do what a store instruction says. Raises NestedFault before any byte is written."""
    _, gpa, data, c = instruction
    key = vmcb.asid if vmcb.sev and c is not False else 0
    if (gpa & 0xFFF) + len(data) <= PAGE:
        hpa = vmcb.npt.translate(gpa)
        soc.engine.write(key, hpa, data)
        if vmcb.sev:
            _mark(soc, key, hpa, len(data))
    else:
        done = 0
        for hpa, size in list(vmcb.npt.runs(gpa, len(data))):
            soc.engine.write(key, hpa, data[done : done + size])
            if vmcb.sev:
                _mark(soc, key, hpa, size)
            done += size
    if vmcb.thread and gpa <= (vmcb.code | PAGE - 1) and gpa + len(data) > vmcb.code & -PAGE:
        fetch_again(soc, vmcb, vmcb.thread)  # the guest wrote over its own program


def _mark(soc: Soc, key: int, hpa: int, n: int) -> None:
    """Keep the page states true: a page is what the last store through it made of it."""
    pages, state = soc.pages, PRIVATE if key else SHARED
    for pfn in range(hpa >> 12, (hpa + n - 1 >> 12) + 1):
        was = pages.state(pfn)
        if (was != state or (key and pages.asid(pfn) != key)) and was not in (FIRMWARE, VMSA, GHCB):
            pages.mark(pfn, 1, state, key)
