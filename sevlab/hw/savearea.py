"""The sealed save area of an SEV-ES processor: taken at VMRUN, written at VMEXIT, checked against the firmware's CRC.

At VMEXIT the registers go into the page at `hpa`, under the guest's key, and the
page's check value into the firmware's own memory (TMR). VMRUN takes the page back
if its check value is right. So a host that writes into the page, or puts an old one
back, finds that its guest does not run; what it can do is look: the same registers
are the same bytes.

The page is written lazily, when somebody looks at it, and then it holds what it
would have held since the exit. Whoever reads or writes DRAM asks `Dram.settle`
first, so that nobody can tell the difference (a law in the tests holds both equal).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from sevlab.abi.vmsa import Vmsa
from sevlab.hw.crc import sparse_crc64
from sevlab.hw.engine import NoKey
from sevlab.hw.npt import PAGE
from sevlab.hw.registers import RIP, RSP, U64, Registers, position, put, take
from sevlab.hw.thread import Moment, Thread

if TYPE_CHECKING:
    from sevlab.hw.soc import Soc
    from sevlab.hw.vmcb import Vmcb

CRC_COVERS = 0xFC0  # bytes of the page that the check value covers
CRC_FIELDS = 0x380  # where the firmware writes into the page: a zero, then where the check value lies
CRC_BLOCK = 64  # bytes of the TMR that a page's check value has to itself
CR3 = 0x150
PROBE = 0x170  # a block that is remembered in clear, to know the key again
REMEMBERED = 64  # moments of one processor that a page put back can name

_FIELDS = struct.Struct("<QQ")
_CHECK = struct.Struct("<Q")


def seal(soc: Soc, asid: int, hpa: int, page: bytes | bytearray, block: int) -> None:
    """What the firmware does with a measured page: its own two fields, the check value into the TMR at `block`, encryption."""
    page = bytearray(page)
    _FIELDS.pack_into(page, CRC_FIELDS, 0, block)
    soc.dram.write(block, _CHECK.pack(sparse_crc64(page[:CRC_COVERS])))
    soc.dram.write(hpa, page)
    soc.engine.encrypt(asid, hpa, PAGE)


class SaveArea:
    """The state of one sealed processor, between the page and the processor's own registers.

    `registers` is the live file while the guest runs. `owed` says that the page does not yet hold what the last exit
    left. `eager` (somebody keeps a view of the page) writes it at every exit.
    """

    __slots__ = (
        *("_left", "_moments", "_soc", "asid", "block", "check", "cr3", "cs_base", "eager", "hpa"),
        *("image", "owed", "registers", "saved", "sealed"),
    )

    def __init__(self, soc: Soc, asid: int, hpa: int, image: bytes) -> None:
        self._soc, self.asid, self.hpa = soc, asid, hpa
        self.image = bytearray(image)
        self.block = _FIELDS.unpack_from(image, CRC_FIELDS)[1]
        self.registers: Registers = take(image)
        self.cs_base = int.from_bytes(image[0x18:0x20], "little")
        self.cr3 = int.from_bytes(image[CR3 : CR3 + 8], "little")
        self.sealed = b""  # the page as it was last written, on the bus
        self.check = b""
        self.saved: list[tuple[int, ...]] = []  # registers that a #VC handler puts back when it returns
        self.owed = self.eager = False
        self._left: tuple[tuple[int, ...], int, Thread | None, int, bool, tuple[tuple[int, ...], ...]] = ((), 0, None, 0, False, ())
        self._moments: dict[bytes, tuple[Moment, tuple[tuple[int, ...], ...]]] = {}
        soc.dram.watch(hpa, self)
        soc.dram.watch(self.block, self)

    @property
    def start(self) -> int:
        """CS:IP, where a processor without a thread begins."""
        return self.cs_base + self.registers[RIP]

    def leave(self, vmcb: Vmcb) -> None:
        """VMEXIT: this is what the page holds from now on."""
        registers, thread, self.cr3 = self.registers, vmcb.thread, vmcb.save.cr3
        if thread is not None and thread.send is not None:
            line, registers[RSP] = position(thread)
            registers[RIP] = (vmcb.code & -PAGE | line) - self.cs_base & U64
        self._left = (tuple(registers), self.cr3, thread, len(thread.log) if thread else 0, vmcb.skip, tuple(self.saved))
        self.owed = True
        if self.eager:
            self.settle()

    def owes(self, hpa: int, end: int) -> bool:
        """Whether the page or its check value lies in [hpa, end)."""
        return (self.block < end and hpa < self.block + _CHECK.size) or (self.hpa < end and hpa < self.hpa + PAGE)

    def settle(self, keep: bool = False) -> None:
        """Write what is owed: the page under the guest's key, its check value into the TMR."""
        self.eager = self.eager or keep
        if not self.owed:
            return
        self.owed = False
        registers, cr3, thread, length, skip, saved = self._left
        put(self.image, registers)
        self.image[CR3 : CR3 + 8] = cr3.to_bytes(8, "little")
        self.check = _CHECK.pack(sparse_crc64(self.image[:CRC_COVERS]))
        soc = self._soc
        soc.engine.write(self.asid, self.hpa, self.image)
        soc.dram.write(self.block, self.check)
        self.sealed = soc.dram.read(self.hpa, PAGE)
        if thread is not None:
            moments = self._moments
            moments.pop(self.check, None)
            moments[self.check] = Moment(thread.program, thread.args, thread.log, length, skip), saved
            if len(moments) > REMEMBERED:
                del moments[next(iter(moments))]

    def untouched(self) -> bool:
        """Whether page, check value and key are as the last exit left them."""
        if self.owed:
            return True
        dram = self._soc.dram
        if dram.read(self.hpa, PAGE) != self.sealed or dram.read(self.block, 8) != self.check:
            return False
        return self._soc.engine.read(self.asid, self.hpa + PROBE, 16) == self.image[PROBE : PROBE + 16]

    def moment(self, check: bytes) -> tuple[Moment, tuple[tuple[int, ...], ...]] | None:
        """The moment of this processor whose page had this check value, and what its #VC handler would have put back."""
        return self._moments.get(check)

    def forget(self) -> None:
        """The page is nobody's save area any more."""
        self.owed = False
        self._soc.dram.unwatch(self)

    def __repr__(self) -> str:
        return f"<SaveArea at hpa {self.hpa:#x}, slot {self.asid}{', owed' if self.owed else ''}>"


def enter(soc: Soc, vmcb: Vmcb) -> bool:
    """VMRUN's part: take the state from the page; False, with `vmcb.why`, when it holds none or not what it should."""
    area = vmcb.vmsa
    if area is not None and area.hpa == vmcb.vmsa_hpa and area.asid == vmcb.asid:
        try:
            if area.untouched():
                vmcb.save.cr3 = area.cr3
                return True
        except NoKey as error:
            vmcb.why = str(error)
            return False
    return _take(soc, vmcb, area)


def _take(soc: Soc, vmcb: Vmcb, before: SaveArea | None) -> bool:
    """The page as it lies there now, if the processor accepts it."""
    hpa = vmcb.vmsa_hpa
    try:
        page = soc.engine.read(vmcb.asid, hpa, PAGE)
    except NoKey as error:
        vmcb.why = str(error)
        return False
    save, (_, block) = Vmsa.unpack(page), _FIELDS.unpack_from(page, CRC_FIELDS)
    # VMRUN's consistency checks (APM volume 2, 15.5.1), as far as they tell a save area from noise.
    wide = any(value >> 32 for value in (save.cr0, save.cr4, save.dr6, save.dr7))
    valid = save.efer & 1 << 12 and not save.efer >> 16 and not wide and block % 8 == 0 and 0 < block <= soc.dram.size - 8
    check = _CHECK.pack(sparse_crc64(page[:CRC_COVERS])) if valid else b""
    if not valid or soc.dram.read(block, 8) != check:
        vmcb.why = (
            f"the save area at hpa {hpa:#x} was changed since this processor left it"
            if before is not None
            else f"the save area at hpa {hpa:#x} holds no valid state under the key of slot {vmcb.asid}"
        )
        return False

    area = SaveArea(soc, vmcb.asid, hpa, page)
    area.sealed, area.check = soc.dram.read(hpa, PAGE), check
    known = before.moment(check) if before is not None else None
    if before is not None:
        before.forget()
        vmcb.thread, vmcb.skip, vmcb.event = None, False, None
        if known is not None:  # an old page *and* its old check value: the processor cannot tell
            moment, saved = known
            vmcb.thread, vmcb.skip, area.saved = moment.thread(), moment.skip, list(saved)
    vmcb.vmsa, vmcb.save.cr3 = area, area.cr3
    return True
