"""A processor's accesses to memory: fetch, load and store, through nested page tables and the engine.

Which key an access uses is the guest's ASID and the C-bit together; a fetch is
private whatever the page tables say (firmware.md 6.3). Once a guest has loaded
CR3, an access that does not name its C-bit goes through the guest's own tables.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sevlab.hw.engine import NoKey
from sevlab.hw.isa import Fault, Instruction
from sevlab.hw.npt import PAGE, NestedFault
from sevlab.hw.pages import FIRMWARE, GHCB, PRIVATE, SHARED, VMSA
from sevlab.hw.paging import PF_FETCH, PF_WRITE, walk
from sevlab.hw.program import Program
from sevlab.hw.thread import Thread, TripleFault
from sevlab.hw.vmcb import Vmcb
from sevlab.trace import Event, name, u16, u64

if TYPE_CHECKING:
    from sevlab.hw.soc import Soc

KEPT = (FIRMWARE, VMSA, GHCB)  # a store does not change what such a page is
DIGEST_AT = 64  # where in a page one block is remembered in clear, to know the key again


class Fetched(Event, lane="guest"):
    """A processor found a program in the page at `gpa`, as its key shows that page."""

    asid: u16
    gpa: u64
    program: name


def _code(soc: Soc, vmcb: Vmcb, address: int) -> tuple[int, int]:
    """Where the page of a program lies: (gpa of the address, hpa of its page)."""
    if vmcb.save.cr3:
        address, _ = walk(soc, vmcb, address, PF_FETCH)
    return address, vmcb.npt.translate(address) & -PAGE


def _as_kept(soc: Soc, key: int, hpa: int) -> bytes:
    """A page as the processor can tell that it is unchanged: its bytes on the bus, or with caches what it would read."""
    return soc.dram.read(hpa, PAGE) if soc.caches is None else soc.core.read(key, hpa, PAGE)


def fetch(soc: Soc, vmcb: Vmcb, address: int) -> tuple[Program, tuple[Any, ...]]:
    """The program in the page at `address`, through the guest's key whatever its page tables say.

    Raises TripleFault when there is none, NestedFault when there is no memory, Fault as the page tables say.
    """
    gpa, hpa = _code(soc, vmcb, address)
    key = vmcb.asid if vmcb.sev else 0
    try:
        page = soc.core.read(key, hpa, PAGE)
    except NoKey as error:
        raise TripleFault(str(error)) from error
    known = soc.programs.find(page)
    if known is None:
        raise TripleFault(f"no program in the page at gpa {gpa & -PAGE:#x}" + (f" under the key of slot {key}" if key else ""))
    vmcb.code = address
    vmcb.seen = (hpa, key, _as_kept(soc, key, hpa), page[DIGEST_AT : DIGEST_AT + 16])
    soc.trace.emit(Fetched, key, gpa, known[0].name)
    return known


def fetch_again(soc: Soc, vmcb: Vmcb, thread: Thread) -> None:
    """Make sure that the page of a running program is what it was: cheap where nothing has changed.

    The same frame, the same bytes on the bus and the same key are the same program. Raises as `fetch` does, and
    TripleFault when the page now holds another program than the registers belong to.
    """
    _, hpa = _code(soc, vmcb, vmcb.code)
    key = vmcb.asid if vmcb.sev else 0
    same = vmcb.seen and vmcb.seen[:2] == (hpa, key) and _as_kept(soc, key, hpa) == vmcb.seen[2]
    if same and (not key or soc.core.read(key, hpa + DIGEST_AT, 16) == vmcb.seen[3]):
        return
    program, _ = fetch(soc, vmcb, vmcb.code)
    if program.digest != thread.program.digest:
        raise TripleFault(f"gpa {vmcb.code & -PAGE:#x} holds {program.name} now, the registers are {thread.program.name}'s")


def load_cr3(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> None:
    """Use other page tables, from the fetch of the next instruction on. Raises TripleFault when they do not map the program."""
    before, vmcb.save.cr3 = vmcb.save.cr3, instruction[1]
    try:
        if vmcb.thread:
            fetch_again(soc, vmcb, vmcb.thread)
    except Fault as fault:
        raise TripleFault(f"the page tables at gpa {instruction[1]:#x} do not map the program: {fault}") from fault
    except NestedFault:
        vmcb.save.cr3 = before  # the instruction has not happened: it may be tried again
        raise


def _pieces(soc: Soc, vmcb: Vmcb, gva: int, n: int, access: int) -> list[tuple[int, int, int]]:
    """An access through the guest's page tables as (key, hpa, bytes); nothing is read or written yet."""
    parts: list[tuple[int, int, bool]] = []
    done = 0
    while done < n or not parts:
        size = min(n - done, PAGE - (gva + done & 0xFFF))
        parts.append((*walk(soc, vmcb, gva + done, access), size))  # type: ignore[arg-type]
        done += max(size, 1)
    vmcb.gpa = parts[0][0]
    keyed = [(vmcb.asid if vmcb.sev and private else 0, gpa, size) for gpa, private, size in parts]
    return [(key, vmcb.npt.translate(gpa), size) for key, gpa, size in keyed]


def load(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> bytes:
    """The bytes that a load instruction reads. Raises NestedFault before any is read."""
    _, gpa, n, c = instruction
    if c is None and vmcb.save.cr3:
        return b"".join([soc.core.read(key, hpa, size) for key, hpa, size in _pieces(soc, vmcb, gpa, n, 0)])
    key = vmcb.asid if vmcb.sev and c is not False else 0
    if (gpa & 0xFFF) + n <= PAGE:
        return soc.core.read(key, vmcb.npt.translate(gpa), n) if n else b""
    return b"".join([soc.core.read(key, hpa, size) for hpa, size in list(vmcb.npt.runs(gpa, n))])


def store(soc: Soc, vmcb: Vmcb, instruction: Instruction) -> None:
    """Do what a store instruction says. Raises NestedFault before any byte is written."""
    _, gpa, data, c = instruction
    if c is None and vmcb.save.cr3:
        pieces = _pieces(soc, vmcb, gpa, len(data), PF_WRITE)
    else:
        key = vmcb.asid if vmcb.sev and c is not False else 0
        if (gpa & 0xFFF) + len(data) <= PAGE:
            pieces = [(key, vmcb.npt.translate(gpa), len(data))]
        else:
            pieces = [(key, hpa, size) for hpa, size in vmcb.npt.runs(gpa, len(data))]
    done = 0
    for key, hpa, size in pieces:
        soc.core.write(key, hpa, data[done : done + size])
        if vmcb.sev and size:
            _mark(soc, key, hpa, size)
        done += size
    if vmcb.thread and gpa <= (vmcb.code | PAGE - 1) and gpa + len(data) > vmcb.code & -PAGE:
        fetch_again(soc, vmcb, vmcb.thread)  # the guest wrote over its own program


def _mark(soc: Soc, key: int, hpa: int, n: int) -> None:
    """Keep the page states true: a page is what the last store through it made of it."""
    pages, state = soc.pages, PRIVATE if key else SHARED
    first, last = hpa >> 12, hpa + n - 1 >> 12
    if first == last:
        was = pages.state(first)
        if (was != state or (key and pages.asid(first) != key)) and was not in KEPT:
            pages.mark(first, 1, state, key)
        return
    for run in pages.runs(first, last - first + 1):
        if (run.state != state or (key and run.asid != key)) and run.state not in KEPT:
            pages.mark(run.first, run.length, state, key)
