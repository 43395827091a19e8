"""The GHCB as KVM handles it: mapped at a VMGEXIT, read into a snapshot, written and unmapped before the guest goes on.

The page is shared with a guest that may change it at any moment, on another vCPU,
so whatever a decision rests on is read once. Source: kvm.md G1, G2, G6
(sev_es_sync_from_ghcb, sev_es_sync_to_ghcb, sev_es_unmap_ghcb, setup_vmgexit_scratch).
"""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL
from typing import TYPE_CHECKING, NamedTuple

from sevlab.abi.ghcb import (
    GHCB_ERR_INVALID_SCRATCH_AREA,
    GHCB_RESP_ERROR,
    GHCB_RESP_EXCEPTION,
    OFFSETS,
    SCRATCH_LIMIT,
    SHARED_BUFFER_END,
    SHARED_BUFFER_START,
    VALID_BITS,
    exception_info,
)
from sevlab.hw.pages import GHCB
from sevlab.kvm.fd import KvmError, need
from sevlab.trace import Event, u32, u64

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu
    from sevlab.kvm.vm import Vm

PAGE = 0x1000
BITMAP = OFFSETS["valid_bitmap"]
EXIT = struct.Struct("<4Q")  # sw_exit_code, info_1, info_2, sw_scratch
THREE = struct.Struct("<3Q")  # rcx, rdx, rbx
ONE = struct.Struct("<Q")
USAGE = struct.Struct("<I")
RAX, RCX, RSI, CODE, XCR0 = (OFFSETS[name] for name in ("rax", "rcx", "rsi", "sw_exit_code", "xcr0"))
BIT = {name: 1 << bit for name, bit in VALID_BITS.items()}
B_RAX, B_RBX, B_RCX, B_RDX, B_RSI, B_CPL, B_XCR0 = (BIT[name] for name in ("rax", "rbx", "rcx", "rdx", "rsi", "cpl", "xcr0"))
ANSWERED = B_RAX | B_RBX | B_RCX | B_RDX


class VmgexitEnter(Event, lane="kvm"):
    """A guest asks through its GHCB (the tracepoint kvm_vmgexit_enter)."""

    vcpu: u32
    exit_reason: u64
    info1: u64
    info2: u64


class VmgexitExit(Event, lane="kvm"):
    """What the GHCB's page says when it is unmapped (kvm_vmgexit_exit): the guest may have changed it by then."""

    vcpu: u32
    exit_reason: u64
    info1: u64
    info2: u64


class Snapshot(NamedTuple):
    """One reading of the page."""

    usage: int
    bitmap: int
    code: int
    info_1: int
    info_2: int
    scratch: int
    page: bytes

    def valid(self, field: str) -> bool:
        """Whether the guest vouches for a field."""
        return bool(self.bitmap & BIT[field])

    def register(self, field: str) -> int:
        """What stands in a register's place, valid or not."""
        return int(ONE.unpack_from(self.page, OFFSETS[field])[0])


class Scratch:
    """The scratch area of one request, in the kernel's own memory: `data`, and where to it goes back (`gpa`; 0: into the page)."""

    __slots__ = ("data", "gpa", "inside", "sync")

    def __init__(self, data: bytearray, gpa: int, inside: int, sync: bool) -> None:
        self.data, self.gpa, self.inside, self.sync = data, gpa, inside, sync


class Mapped:
    """A GHCB while its vCPU is out of the guest. `now` is what KVM decided on; `scratch` what it reads or writes for it."""

    __slots__ = ("gpa", "hpa", "now", "scratch", "vcpu")

    def __init__(self, vcpu: Vcpu, gpa: int, hpa: int) -> None:
        self.vcpu, self.gpa, self.hpa = vcpu, gpa, hpa
        self.now: Snapshot = self.read()
        self.scratch: Scratch | None = None

    def read(self) -> Snapshot:
        """The page as it is at this moment."""
        page = self.vcpu.vm.kernel.soc.host.read(self.hpa, PAGE)
        bitmap = int.from_bytes(page[BITMAP : BITMAP + 16], "little")
        code, info_1, info_2, scratch = EXIT.unpack_from(page, CODE)
        return Snapshot(USAGE.unpack_from(page, 0xFFC)[0], bitmap, code, info_1, info_2, scratch, page)

    def import_registers(self) -> None:
        """What the guest vouches for becomes what KVM knows of it, all else is zero; the bitmap in the page is cleared."""
        vcpu, now, regs = self.vcpu, self.now, self.vcpu.vmcb.regs
        bitmap, page = now.bitmap, now.page
        rcx, rdx, rbx = THREE.unpack_from(page, RCX)
        regs.rax = ONE.unpack_from(page, RAX)[0] if bitmap & B_RAX else 0
        regs.rbx = rbx if bitmap & B_RBX else 0
        regs.rcx = rcx if bitmap & B_RCX else 0
        regs.rdx = rdx if bitmap & B_RDX else 0
        regs.rsi = ONE.unpack_from(page, RSI)[0] if bitmap & B_RSI else 0
        regs.rdi = regs.rsp = regs.rbp = regs.r8 = regs.r9 = regs.r10 = regs.r11 = 0
        regs.r12 = regs.r13 = regs.r14 = regs.r15 = regs.rip = 0
        vcpu.vmcb.save.cpl = page[OFFSETS["cpl"]] if bitmap & B_CPL else 0
        if bitmap & B_XCR0:
            vcpu.xcr0 = ONE.unpack_from(page, XCR0)[0]
        vcpu.vmcb.exit_info_1, vcpu.vmcb.exit_info_2 = now.info_1, now.info_2
        vcpu.vm.kernel.soc.host.write(self.hpa + BITMAP, bytes(16))

    def set(self, field: str, value: int) -> None:
        """Fill in a field of eight bytes, and its valid bit."""
        host = self.vcpu.vm.kernel.soc.host
        host.write(self.hpa + OFFSETS[field], ONE.pack(value))
        at = self.hpa + BITMAP + VALID_BITS[field] // 8
        host.write(at, bytes([host.read(at, 1)[0] | 1 << VALID_BITS[field] % 8]))

    def answer(self, info_1: int, info_2: int) -> None:
        """sw_exit_info_1 and sw_exit_info_2."""
        host = self.vcpu.vm.kernel.soc.host
        host.write(self.hpa + CODE + 8, struct.pack("<2Q", info_1, info_2))
        at = self.hpa + BITMAP
        bitmap = int.from_bytes(host.read(at, 16), "little") | BIT["sw_exit_info_1"] | BIT["sw_exit_info_2"]
        host.write(at, bitmap.to_bytes(16, "little"))

    def error(self, reason: int) -> None:
        """Tell the guest what was wrong with its request."""
        self.answer(GHCB_RESP_ERROR, reason)

    def exception(self, vector: int) -> None:
        """Ask the guest to raise an exception in itself."""
        self.answer(GHCB_RESP_EXCEPTION, exception_info(vector))

    # ------------------------------------------------------- scratch

    def map_scratch(self, size: int, sync: bool) -> bytearray | None:
        """`size` bytes of the guest's scratch area; None when it was told that there is no such area.

        `sync`: they go back to the guest at the end. Raises EFAULT where the guest names memory that it has not.
        """
        vcpu, start = self.vcpu, self.now.scratch if self.now.valid("sw_scratch") else 0
        log, end = vcpu.vm.kernel.log, start + size
        if not start:
            log("vmgexit: scratch gpa not provided")
            return self._no_scratch()
        if end >> 64:
            log(f"vmgexit: scratch length ({size:#x}) not valid for scratch address ({start:#x})")
            return self._no_scratch()
        if start & -PAGE == self.gpa:
            if start < self.gpa + SHARED_BUFFER_START or end > self.gpa + SHARED_BUFFER_END:
                log(f"vmgexit: scratch area is outside of GHCB shared buffer area ({start:#x} - {end:#x})")
                return self._no_scratch()
            inside = start - self.gpa
            data = bytearray(vcpu.vm.kernel.soc.host.read(self.hpa + inside, size))
            self.scratch = Scratch(data, 0, inside, sync)
            return data
        if vcpu.vm.sev.ghcb_version >= 2:
            log(f"vmgexit: scratch area is outside of GHCB ({start:#x})")
            return self._no_scratch()
        if size > SCRATCH_LIMIT:
            log(f"vmgexit: scratch area exceeds KVM limits ({size:#x} requested, {SCRATCH_LIMIT:#x} limit)")
            return self._no_scratch()
        data = bytearray(read_guest(vcpu.vm, start, size))  # EFAULT
        self.scratch = Scratch(data, start, 0, sync)
        return data

    def _no_scratch(self) -> bytearray | None:
        need(self.vcpu.vm.kernel.design.ghcb.polite, EINVAL)  # until 5.15 the end of KVM_RUN
        self.error(GHCB_ERR_INVALID_SCRATCH_AREA)
        return None

    # ------------------------------------------------------- the end

    def unmap(self) -> None:
        """Before the guest goes on: scratch data back, RAX to RDX always, then the page is the guest's alone."""
        vcpu, host, scratch = self.vcpu, self.vcpu.vm.kernel.soc.host, self.scratch
        if scratch is not None and scratch.sync:
            if scratch.gpa:
                write_guest(vcpu.vm, scratch.gpa, scratch.data)
            else:
                host.write(self.hpa + scratch.inside, scratch.data)
        trace = vcpu.vm.kernel.trace
        if trace.on:
            trace.emit(VmgexitExit, vcpu.id, *EXIT.unpack(host.read(self.hpa + CODE, 32))[:3])
        regs = vcpu.vmcb.regs
        host.write(self.hpa + RAX, ONE.pack(regs.rax))
        host.write(self.hpa + RCX, THREE.pack(regs.rcx, regs.rdx, regs.rbx))
        at = self.hpa + BITMAP
        host.write(at, (int.from_bytes(host.read(at, 16), "little") | ANSWERED).to_bytes(16, "little"))
        vcpu.ghcb = None

    def __repr__(self) -> str:
        return f"<GHCB at gpa {self.gpa:#x} of vCPU {self.vcpu.id}>"


def map_ghcb(vcpu: Vcpu, gpa: int) -> Mapped | None:
    """The GHCB at `gpa`, through the memory slots and not the nested table; None where there is no memory."""
    try:
        hpa = _hpa(vcpu.vm, gpa)
    except KvmError:
        return None
    pages = vcpu.vm.kernel.soc.pages
    if pages.state(hpa // PAGE) != GHCB:
        pages.mark(hpa // PAGE, 1, GHCB, vcpu.vmcb.asid)
    return Mapped(vcpu, gpa, hpa)


def _hpa(vm: Vm, gpa: int) -> int:
    slot = vm.slots.find(gpa >> 12)
    if slot is None:
        raise KvmError(EFAULT, why=f"no memory slot at gpa {gpa:#x}")
    return int(vm.mm.page(slot.hva + ((gpa >> 12) - slot.gfn << 12))) * PAGE + gpa % PAGE  # EFAULT


def read_guest(vm: Vm, gpa: int, size: int) -> bytes:
    """Guest memory as the host sees it (kvm_read_guest). Raises EFAULT."""
    return b"".join([vm.kernel.soc.host.read(_hpa(vm, at), n) for at, n in _spans(gpa, size)])


def write_guest(vm: Vm, gpa: int, data: bytes | bytearray) -> None:
    """Write guest memory as the host does; what is not there is not written (kvm_write_guest, whose answer nobody looks at)."""
    for at, n in _spans(gpa, len(data)):
        try:
            vm.kernel.soc.host.write(_hpa(vm, at), bytes(data[at - gpa : at - gpa + n]))
        except KvmError:
            return


def _spans(gpa: int, size: int) -> list[tuple[int, int]]:
    spans, end = [], gpa + size
    while gpa < end:
        n = min(PAGE - gpa % PAGE, end - gpa)
        spans.append((gpa, n))
        gpa += n
    return spans

