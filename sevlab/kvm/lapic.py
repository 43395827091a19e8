"""A local APIC in the kernel: what one vCPU receives, and the registers by which its guest sends.

INIT and SIPI wait here until the vCPU takes them (`mp_state.accept_events`); an
interrupt waits until the vCPU is entered again. A guest reaches the registers as
MSRs 0x800 and up (x2APIC) or as memory at 0xFEE00000 (xAPIC); with SEV-ES both go
through its GHCB. Source: kvm.md G7 (__apic_accept_irq, kvm_lapic_reg_write).
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from sevlab.trace import Event, u8, u32

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

INIT, SIPI = 1, 2  # Lapic.pending

# Delivery modes, as they stand in the command register
FIXED, LOWEST, SMI, REMOTE_READ, NMI, INIT_MODE, STARTUP, EXTINT = range(0, 0x800, 0x100)
LEVEL_ASSERT, LEVEL_TRIGGERED, LOGICAL = 1 << 14, 1 << 15, 1 << 11
SELF, ALL, OTHERS = 1, 2, 3  # shorthands, bits 19:18

MSR_BASE, MSR_END = 0x800, 0x900
BASE_X2APIC, BASE_ENABLE = 1 << 10, 1 << 11  # of MSR_APIC_BASE
BASE_RESERVED = 0x2FF | -1 << 48  # bit 8, the BSP's mark, may be written: 0x2FF has bits 0 to 7 and 9
CPUID_X2APIC = 1 << 21  # leaf 1, ECX

ID, VERSION, TPR, PPR, EOI, LDR, DFR, SPIV = 0x20, 0x30, 0x80, 0xA0, 0xB0, 0xD0, 0xE0, 0xF0
ISR, TMR, IRR, ESR, ICR, ICR2, SELF_IPI = 0x100, 0x180, 0x200, 0x280, 0x300, 0x310, 0x3F0
LVT_VERSION = 5 << 16 | 0x14
SOFTWARE_ENABLED = 1 << 8
AT_RESET = {SPIV: 0xFF, DFR: 0xFFFF_FFFF, **dict.fromkeys((0x320, 0x330, 0x340, 0x350, 0x360, 0x370), 1 << 16)}

# Registers by offset in the page: those that can be read, and those that can be written.
TIMER = (0x380, 0x390, 0x3E0)
READABLE = {ID, VERSION, TPR, PPR, LDR, SPIV, ESR, ICR, 0x390, 0x380, 0x3E0, *range(0x320, 0x380, 16), *range(ISR, 0x280, 16)}
WRITABLE = {TPR, EOI, SPIV, ESR, ICR, 0x380, 0x3E0, *range(0x320, 0x380, 16)}
XAPIC_READABLE, XAPIC_WRITABLE = READABLE | {DFR, ICR2}, WRITABLE | {LDR, DFR, ICR2}


class Message(Event, lane="kvm"):
    """One vCPU's local APIC accepted a message: `mode` 0 fixed, 4 NMI, 5 INIT, 6 SIPI."""

    vm: u32
    vcpu: u32
    mode: u8
    vector: u8


class Lapic:
    """The local APIC of one vCPU. `id` is its number on the bus: KVM_CREATE_VCPU's.

    `pending` holds INIT and SIPI until they are taken, `vector` is the last SIPI's; `irr` has one bit
    for each interrupt that waits. `registers` are the rest, by their offset in the page.
    """

    __slots__ = ("id", "irr", "pending", "registers", "vcpu", "vector")

    def __init__(self, vcpu: Vcpu) -> None:
        self.vcpu, self.id = vcpu, vcpu.id
        self.pending = self.vector = self.irr = 0
        self.registers: dict[int, int] = dict(AT_RESET)

    def reset(self) -> None:
        """Registers as out of reset (kvm_lapic_reset, for an INIT: base and number stay, and so does what is pending)."""
        self.irr, self.registers = 0, dict(AT_RESET)

    @property
    def x2apic(self) -> bool:
        return bool(self.vcpu.apic_base & BASE_X2APIC)

    @property
    def enabled(self) -> bool:
        """Whether it takes interrupts: switched on by its base MSR, and by the guest's own register (apic_enabled)."""
        return bool(self.vcpu.apic_base & BASE_ENABLE and self.registers[SPIV] & SOFTWARE_ENABLED)

    # ------------------------------------------------------- receiving

    def accept(self, icr: int) -> bool:
        """Take one message; whether anything came of it (__apic_accept_irq).

        INIT wipes out a SIPI that was not taken yet; INIT, SIPI and NMI arrive even at an APIC that is switched off.
        """
        mode, vector = icr & 0x700, icr & 0xFF
        if mode == INIT_MODE:
            if icr & LEVEL_TRIGGERED and not icr & LEVEL_ASSERT:
                return False  # the de-assert of old processors
            self.pending = INIT
        elif mode == STARTUP:
            self.pending, self.vector = self.pending | SIPI, vector
        elif mode == NMI:
            self.vcpu.nmi_pending = True
        elif mode == REMOTE_READ:
            self.vcpu.pv_unhalted = True  # the kick of a paravirtual lock
        elif mode in (FIXED, LOWEST) and self.enabled:
            self.irr |= 1 << vector
        else:
            return False
        vm = self.vcpu.vm
        vm.kernel.trace.emit(Message, vm.number, self.id, mode >> 8, vector)
        return True

    # ------------------------------------------------------- registers

    def read(self, offset: int) -> int:
        """A register's 32 bits (of ICR in x2APIC mode 64); KeyError for one that cannot be read."""
        if offset not in (READABLE if self.x2apic else XAPIC_READABLE):
            raise KeyError(offset)
        if offset == ID:
            return self.id if self.x2apic else (self.id & 0xFF) << 24
        if offset == VERSION:
            return LVT_VERSION
        if offset == LDR and self.x2apic:
            return logical_id(self.id)
        if IRR <= offset < ESR:
            return self.irr >> 2 * (offset - IRR) & 0xFFFF_FFFF
        return self.registers.get(offset, 0)

    def write(self, offset: int, value: int) -> None:
        """Set a register, which for the command register sends; KeyError for one that cannot be written."""
        if offset == SELF_IPI and self.x2apic:
            offset, value = ICR, SELF << 18 | value & 0xFF
        if offset not in (WRITABLE if self.x2apic else XAPIC_WRITABLE):
            raise KeyError(offset)
        if offset == ICR:
            self.registers[ICR] = value
            if not self.x2apic:
                value |= self.registers.get(ICR2, 0) << 32
            send(self, value & 0xFFFF_FFFF, value >> 32 if self.x2apic else value >> 56)
        elif offset in (EOI, ESR):
            self.registers[ESR] = 0
        else:
            self.registers[offset] = value & 0xFFFF_FFFF

    def __repr__(self) -> str:
        return f"<Lapic {self.id}: pending {self.pending}, vector {self.vector:#x}, irr {self.irr:#x}>"


def logical_id(number: int) -> int:
    """The logical destination of an x2APIC: sixteen to a cluster."""
    return number >> 4 << 16 | 1 << (number & 15)


# ------------------------------------------------------------- between vCPUs


def send(sender: Lapic, icr: int, dest: int) -> None:
    """Deliver one message to all whom it names (kvm_apic_send_ipi, kvm_irq_delivery_to_apic)."""
    vm, shorthand = sender.vcpu.vm, icr >> 18 & 3
    if shorthand == SELF:
        sender.accept(icr)
    elif shorthand:
        for vcpu in vm.vcpus:
            if vcpu is not sender.vcpu or shorthand == ALL:
                _accept(vcpu, icr)
    elif icr & LOGICAL:
        for vcpu in vm.vcpus:
            if sender.x2apic and dest >> 16 == vcpu.id >> 4 and dest & logical_id(vcpu.id) & 0xFFFF:
                _accept(vcpu, icr)
    elif dest == (0xFFFF_FFFF if sender.x2apic else 0xFF):
        for vcpu in vm.vcpus:
            _accept(vcpu, icr)
    else:
        found = find(vm.vcpus, dest)
        if found is not None:
            _accept(found, icr)


def _accept(vcpu: Vcpu, icr: int) -> None:
    if vcpu.lapic is not None:
        vcpu.lapic.accept(icr)


def find(vcpus: list[Vcpu], number: int) -> Vcpu | None:
    """The vCPU with that number on the bus. Numbers are mostly the places in the list."""
    if number < len(vcpus) and vcpus[number].id == number:
        return vcpus[number]
    return next((vcpu for vcpu in vcpus if vcpu.id == number), None)


# ------------------------------------------------------------- as the guest reaches it


def read_msr(vcpu: Vcpu, number: int) -> int:
    """RDMSR of 0x800 to 0x8FF; KeyError where KVM injects #GP (kvm_x2apic_msr_read)."""
    lapic, offset = vcpu.lapic, (number - MSR_BASE) << 4
    if lapic is None or not lapic.x2apic:
        raise KeyError(number)
    return lapic.read(offset)


def write_msr(vcpu: Vcpu, number: int, value: int) -> None:
    """WRMSR of 0x800 to 0x8FF; KeyError where KVM injects #GP (kvm_x2apic_msr_write)."""
    lapic, offset = vcpu.lapic, (number - MSR_BASE) << 4
    if lapic is None or not lapic.x2apic or (offset != ICR and value >> 32):
        raise KeyError(number)
    lapic.write(offset, value)


def set_base(vcpu: Vcpu, value: int) -> None:
    """The guest's WRMSR of IA32_APIC_BASE; KeyError for what it may not become (kvm_set_apic_base)."""
    old, leaf = vcpu.apic_base, vcpu.leaves.get(1)
    reserved = BASE_RESERVED | (0 if leaf and leaf[2] & CPUID_X2APIC else BASE_X2APIC)
    if value & reserved or (value & BASE_X2APIC and not value & BASE_ENABLE):
        raise KeyError(value)  # reserved bits, or x2APIC without APIC
    if old & BASE_X2APIC and value & BASE_ENABLE and not value & BASE_X2APIC:
        raise KeyError(value)  # from x2APIC back to xAPIC there is no way but through off
    if not old & BASE_ENABLE and value & BASE_X2APIC:
        raise KeyError(value)  # nor from off to x2APIC at once
    vcpu.apic_base = value


def in_range(vcpu: Vcpu, gpa: int, n: int) -> bool:
    """Whether an access to memory is one to a register of this vCPU's APIC (apic_mmio_in_range)."""
    base = vcpu.apic_base
    if vcpu.lapic is None or base & BASE_X2APIC or not base & BASE_ENABLE:
        return False
    return base & ~0xFFF <= gpa and gpa + n <= (base & ~0xFFF) + 0x1000


def mmio_read(vcpu: Vcpu, gpa: int, n: int) -> bytes | None:
    """What a load from the APIC's page gives; None when it is none of this vCPU's. A register that is not there reads as 0."""
    if not in_range(vcpu, gpa, n):
        return None
    assert vcpu.lapic is not None
    try:
        value = vcpu.lapic.read(gpa & 0xFF0)
    except KeyError:
        value = 0
    return (value >> 8 * (gpa & 15)).to_bytes(8, "little").ljust(n, b"\0")[:n]


def mmio_write(vcpu: Vcpu, gpa: int, data: bytes) -> bool:
    """A store to the APIC's page: whether it was one. Only four aligned bytes mean anything (apic_mmio_write)."""
    if not in_range(vcpu, gpa, len(data)):
        return False
    assert vcpu.lapic is not None
    if len(data) == 4 and not gpa & 15:
        with suppress(KeyError):  # a register that is not there takes nothing
            vcpu.lapic.write(gpa & 0xFF0, int.from_bytes(data, "little"))
    return True
