"""Guest page tables: four levels in guest memory, walked through the nested tables and the engine.

An entry is eight bytes: flags, the guest-physical address of the next table or
page, and at the chip's C-bit position whether that page is private. The bit is
taken out before the nested translation and chooses the key of the access, not of
the walk: in an SEV guest the tables themselves are read through the guest's key,
whatever any bit says, and so is every fetch (firmware.md 6.3). Whoever can put
other bytes there under that key writes the guest's page tables; whoever cannot
makes noise of them.

Not modelled: a TLB (each access walks, so a changed entry counts at once),
accessed and dirty bits, user mode, no-execute, CR2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sevlab.hw.isa import GP, PF, Fault
from sevlab.hw.npt import NestedFault

if TYPE_CHECKING:
    from sevlab.hw.soc import Soc
    from sevlab.hw.vmcb import Vmcb

PRESENT, WRITABLE, LARGE = 1 << 0, 1 << 1, 1 << 7
PF_PRESENT, PF_WRITE, PF_RESERVED, PF_FETCH = 1 << 0, 1 << 1, 1 << 3, 1 << 4  # bits of #PF's error code
LEVELS = (39, 30, 21, 12)  # the lowest bit of the address that each level decides
WIDTH = 48  # bits of a guest-physical address
BELOW_RESERVED = (1 << 52) - 1  # above it: no-execute, protection keys, what software likes


def walk(soc: Soc, vmcb: Vmcb, gva: int, access: int = 0) -> tuple[int, bool]:
    """(gpa, private) behind a virtual address; `access` is PF_WRITE, PF_FETCH or 0 for a read.

    Raises Fault: GP for an address that is not canonical, PF as the tables say. Raises NestedFault when a table has
    no memory behind it.
    """
    if gva >> WIDTH - 1 not in (0, 0x1FFFF):
        raise Fault(GP)
    key = vmcb.asid if vmcb.sev else 0
    c_bit = 1 << soc.chip.c_bit if vmcb.sev else 0
    address = (1 << WIDTH) - 0x1000 & ~c_bit
    reserved = BELOW_RESERVED & -(1 << WIDTH) & ~c_bit
    table = vmcb.save.cr3 & address
    for level in LEVELS:
        entry = int.from_bytes(_entry(soc, vmcb, key, table + (gva >> level & 0x1FF) * 8), "little")
        if not entry & PRESENT:
            raise Fault(PF, access)
        large = level == 12 or bool(entry & LARGE)
        within = (1 << level) - 1
        if entry & reserved or (large and (level == 39 or entry & address & within & ~0x1FFF)):
            raise Fault(PF, access | PF_PRESENT | PF_RESERVED)
        if access & PF_WRITE and not entry & WRITABLE:
            raise Fault(PF, access | PF_PRESENT)
        if large:
            return entry & address & ~within | gva & within, bool(entry & c_bit)
        table = entry & address
    raise AssertionError("the last level is always a page")


def _entry(soc: Soc, vmcb: Vmcb, key: int, gpa: int) -> bytes:
    try:
        return soc.core.read(key, vmcb.npt.translate(gpa), 8)
    except NestedFault as fault:
        raise NestedFault(fault.gpa, table=True) from None
