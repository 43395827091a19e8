"""The local APIC: how a guest reaches it, whom its messages reach, and what user space sees of it."""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL, ENXIO
from typing import Any

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CREATE_IRQCHIP,
    KVM_CREATE_VCPU,
    KVM_INTERRUPT,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
    kvm_cpuid_entry2,
    kvm_interrupt,
    kvm_lapic_state,
)
from sevlab.abi.kvm_vcpu import KVM_GET_LAPIC, KVM_SET_LAPIC
from sevlab.hw.isa import GP, Fault, hlt, load, program, rdmsr, store, wrmsr
from sevlab.kvm.call import Blocked
from sevlab.kvm.lapic import CPUID_X2APIC, ID, INIT, SIPI, SPIV, XAPIC_READABLE, XAPIC_WRITABLE, Message, logical_id

BASE, X2APIC = 0x1B, 1 << 10
OUT = 0x2000
APIC = 0xFEE0_0000


@program
async def writes_msr(msr: int, value: int, x2apic: bool) -> None:
    """One WRMSR; 1 where it went through, 2 where it was #GP."""
    if x2apic:
        await wrmsr(BASE, await rdmsr(BASE) | X2APIC)
    try:
        await wrmsr(msr, value)
        await store(OUT, b"\1", c=False)
    except Fault as fault:
        await store(OUT, b"\2" if fault.vector == GP else b"\3", c=False)
    while True:
        await hlt()


@program
async def reads_msr(msr: int, x2apic: bool) -> None:
    if x2apic:
        await wrmsr(BASE, await rdmsr(BASE) | X2APIC)
    try:
        value = await rdmsr(msr)
        await store(OUT, b"\1" + value.to_bytes(8, "little"), c=False)
    except Fault as fault:
        await store(OUT, b"\2" if fault.vector == GP else b"\3", c=False)
    while True:
        await hlt()


@program
async def writes_memory(pairs: tuple[tuple[int, bytes], ...]) -> None:
    for gpa, data in pairs:
        await store(gpa, data)
    while True:
        await hlt()


@program
async def reads_memory(gpa: int, n: int) -> None:
    await store(OUT, await load(gpa, n), c=False)
    while True:
        await hlt()


@program
async def changes_base(values: tuple[int, ...]) -> None:
    """Write IA32_APIC_BASE again and again; how often it went through."""
    done = 0
    try:
        for value in values:
            await wrmsr(BASE, APIC | value)
            done += 1
    except Fault:
        await store(OUT + 1, b"\1", c=False)
    await store(OUT, bytes([done]), c=False)
    while True:
        await hlt()


def run(rig: Rig, guest_program: Any, *args: Any, vcpus: int = 1, kind: str = "plain", cpuid: bool = True) -> Guest:
    """A guest with local APICs, run until it waits."""
    guest = Guest(rig, guest_program, *args, vcpus=vcpus, irqchip=True, kind=kind)
    if cpuid:
        guest.set_cpuid(kvm_cpuid_entry2(1, ecx=CPUID_X2APIC))
    with pytest.raises(Blocked):
        guest.run()
    return guest


# ------------------------------------------------------------------ the base register

ON, BSP = 1 << 11, 1 << 8
BASES = {
    "x2APIC on": ((ON | BSP | X2APIC,), 1, False),
    "off, then on again": ((BSP, ON | BSP), 2, False),
    "x2APIC to xAPIC": ((ON | BSP | X2APIC, ON | BSP), 1, True),
    "x2APIC, off, xAPIC": ((ON | X2APIC, 0, ON), 3, False),
    "off to x2APIC": ((0, ON | X2APIC), 1, True),
    "x2APIC without APIC": ((X2APIC,), 0, True),
    "a reserved bit": ((ON | 1,), 0, True),
    "bit 9": ((ON | 1 << 9,), 0, True),
    "an address that is none": ((ON | 1 << 60,), 0, True),
}


@pytest.mark.parametrize("case", BASES)
def test_which_modes_an_apic_can_be_put_into(rig: Rig, case: str) -> None:
    values, done, refused = BASES[case]
    guest = run(rig, changes_base, values)

    assert guest.read(OUT, 2) == bytes((done, refused))


def test_x2apic_needs_a_processor_that_has_it(rig: Rig) -> None:
    guest = run(rig, changes_base, (ON | X2APIC,), cpuid=False)

    assert guest.read(OUT, 2) == b"\0\1" and not guest.vcpu().apic_base & X2APIC


# ------------------------------------------------------------------ registers

X2APIC_WRITABLE = {0x808, 0x80B, 0x80F, 0x828, 0x830, 0x838, 0x83E, 0x83F, *range(0x832, 0x838)}
X2APIC_READABLE = (X2APIC_WRITABLE | {0x802, 0x803, 0x80A, 0x80D, 0x839, *range(0x810, 0x828)}) - {0x80B, 0x83F}


@pytest.mark.parametrize("msr", range(0x800, 0x840))
def test_which_registers_can_be_written_and_read_in_x2apic_mode(rig: Rig, msr: int) -> None:
    written = run(rig, writes_msr, msr, 0, True).read(OUT, 1)
    seen = run(rig, reads_msr, msr, True).read(OUT, 1)

    assert (written, seen) == (b"\2\1"[msr in X2APIC_WRITABLE :][:1], b"\2\1"[msr in X2APIC_READABLE :][:1])


@pytest.mark.parametrize("msr", [0x802, 0x80F, 0x830, 0x8FF])
def test_without_x2apic_mode_its_registers_are_not_there(rig: Rig, msr: int) -> None:
    assert run(rig, reads_msr, msr, False).read(OUT, 1) == b"\2"
    assert run(rig, writes_msr, msr, 0, False).read(OUT, 1) == b"\2"


def test_without_an_irqchip_there_is_no_apic_to_reach(rig: Rig) -> None:
    guest = Guest(rig, reads_msr, 0x802, True)
    guest.set_cpuid(kvm_cpuid_entry2(1, ecx=CPUID_X2APIC))
    guest.run()

    assert guest.read(OUT, 1) == b"\2"


@pytest.mark.parametrize("msr", [0x808, 0x80F, 0x832])
def test_only_the_command_register_is_wider_than_32_bits(rig: Rig, msr: int) -> None:
    assert run(rig, writes_msr, msr, 1 << 32, True).read(OUT, 1) == b"\2"


def test_the_number_of_an_x2apic_is_the_vcpus(rig: Rig) -> None:
    guest = run(rig, reads_msr, 0x802, True, vcpus=2)

    assert guest.read(OUT, 9) == b"\1" + bytes(8)
    assert guest.vcpu(1).lapic.id == 1 and logical_id(0x23) == 0x2_0008


@pytest.mark.parametrize(("gpa", "n", "value"), [
    (APIC + ID, 4, b"\0\0\0\0"), (APIC + 0x30, 4, b"\x14\0\x05\0"), (APIC + SPIV, 4, b"\xff\0\0\0"), (APIC + 0x32, 2, b"\5\0"),
    (APIC + 0x40, 4, bytes(4)), (APIC + 0xFF8, 8, bytes(8)),
])  # fmt: skip
def test_the_page_of_an_xapic_can_be_read(rig: Rig, gpa: int, n: int, value: bytes) -> None:
    assert run(rig, reads_memory, gpa, n).read(OUT, n) == value


# ------------------------------------------------------------------ messages

OTHERS, ALL, SELF = 3 << 18, 2 << 18, 1 << 18
LOGICAL = 1 << 11
# ICR value, and which of five vCPUs then have an INIT waiting
MESSAGES = {
    "to one": (0x500 | 3 << 32, {3}),
    "to itself by number": (0x500, {0}),
    "to itself": (0x500 | SELF, {0}),
    "to all": (0x500 | ALL, {0, 1, 2, 3, 4}),
    "to the others": (0x500 | OTHERS, {1, 2, 3, 4}),
    "to everybody by number": (0x500 | 0xFFFF_FFFF << 32, {0, 1, 2, 3, 4}),
    "to one by its logical name": (0x500 | LOGICAL | 1 << 3 + 32, {3}),
    "to two by their logical names": (0x500 | LOGICAL | 0b1010 << 32, {1, 3}),
    "to another cluster": (0x500 | LOGICAL | 0x1_0001 << 32, set()),
    "to nobody": (0x500 | 99 << 32, set()),
    "de-assert": (0x500 | 1 << 15 | ALL, set()),
    "an SMI": (0x200 | ALL, set()),
    "an interrupt to APICs that are off": (0x040 | ALL, set()),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_whom_a_message_reaches(rig: Rig, case: str) -> None:
    value, reached = MESSAGES[case]
    run(rig, writes_msr, 0x830, value, True, vcpus=5)

    assert {row["vcpu"] for row in rig.rows(Message)} == reached
    assert {row["mode"] for row in rig.rows(Message)} <= {5}


def test_the_numbers_on_the_bus_are_those_of_create_vcpu(rig: Rig) -> None:
    guest = Guest(rig, writes_msr, 0x830, 0x500 | 700 << 32, True, irqchip=True)
    guest.set_cpuid(kvm_cpuid_entry2(1, ecx=CPUID_X2APIC))
    rig.vcpu(guest.vm, 2)
    rig.vcpu(guest.vm, 700)
    with pytest.raises(Blocked):
        guest.run()

    assert [vcpu.lapic.pending for vcpu in rig.file(guest.vm).vcpus] == [0, 0, INIT]


def test_a_guest_without_x2apic_sends_by_two_stores(rig: Rig) -> None:
    guest = run(
        rig, writes_memory, ((APIC + 0x310, b"\0\0\0\2"), (APIC + 0x300, b"\0\5\0\0"), (APIC + 0x300, b"\x09\6\0\0")), vcpus=3
    )

    assert [guest.vcpu(n).lapic.pending for n in range(3)] == [0, 0, INIT | SIPI]
    assert guest.vcpu(2).lapic.vector == 9


@pytest.mark.parametrize(
    "pair", [(APIC + 0x300, b"\0\5\x0c"), (APIC + 0x304, b"\0\5\x0c\0"), (APIC + 0x300, bytes(8)), (APIC + 0x30, b"1234")]
)
def test_only_four_aligned_bytes_are_a_write_to_a_register(rig: Rig, pair: tuple[int, bytes]) -> None:
    run(rig, writes_memory, (pair,), vcpus=2)

    assert rig.rows(Message) == []


def test_a_guest_can_reset_itself(rig: Rig) -> None:
    @program
    async def resets() -> None:
        n = (await load(OUT, 1, c=False))[0]
        await store(OUT, bytes([n + 1]), c=False)
        if n < 2:
            await wrmsr(BASE, await rdmsr(BASE) | X2APIC)
            await wrmsr(0x830, 0x500 | 1 << 18)
            await store(OUT, b"\xff", c=False)  # never
        while True:
            await hlt()

    assert run(rig, resets).read(OUT, 1) == b"\3"


def test_a_second_processor_starts_without_user_space(rig: Rig) -> None:
    @program
    async def second() -> None:
        await store(OUT, b"second", c=False)
        while True:
            await hlt()

    @program
    async def first(page: bytes) -> None:
        await store(0x9000, page + bytes(0x1000 - len(page)))
        await wrmsr(BASE, await rdmsr(BASE) | X2APIC)
        for icr in (0x4500, 0x4609, 0x4609):
            await wrmsr(0x830, 3 << 18 | icr)
        while True:
            await hlt()

    page = rig.soc.programs.add(second).rstrip(b"\0")
    guest = Guest(rig, first, page, vcpus=2, irqchip=True)
    guest.set_cpuid(kvm_cpuid_entry2(1, ecx=CPUID_X2APIC))
    ap = guest.qemu.begin(guest.fds[1], 0xAE80)
    with pytest.raises(Blocked):
        guest.run()
    with refuses(11):  # EAGAIN
        ap.finish()
    with pytest.raises(Blocked):
        guest.run(1)

    assert guest.read(OUT, 6) == b"second"


# ------------------------------------------------------------------ user space


def test_an_irqchip_is_made_once_and_before_the_first_vcpu(rig: Rig) -> None:
    vm = rig.vm()
    rig.qemu.ioctl(vm, KVM_CREATE_IRQCHIP)
    with refuses(EEXIST):
        rig.qemu.ioctl(vm, KVM_CREATE_IRQCHIP)

    late = rig.vm()
    rig.qemu.ioctl(late, KVM_CREATE_VCPU, 0)
    with refuses(EINVAL):
        rig.qemu.ioctl(late, KVM_CREATE_IRQCHIP)


@pytest.mark.parametrize("nr", [KVM_GET_LAPIC, KVM_SET_LAPIC])
def test_registers_that_are_not_in_the_kernel_cannot_be_read_or_set(rig: Rig, nr: int) -> None:
    with refuses(EINVAL) as box:
        Guest(rig, writes_memory, ()).ioctl(nr, kvm_lapic_state())
    assert "lapic_in_kernel" in box.why or "!lapic" in box.why


@pytest.mark.parametrize("nr", [KVM_GET_LAPIC, KVM_SET_LAPIC, KVM_INTERRUPT])
def test_a_pointer_to_nowhere_is_refused(rig: Rig, nr: int) -> None:
    with refuses(EFAULT):
        Guest(rig, writes_memory, (), irqchip=True).ioctl(nr, 16)


def test_registers_go_out_and_in_and_what_waits_goes_with_them(rig: Rig) -> None:
    guest = Guest(rig, writes_memory, (), vcpus=3, irqchip=True)
    lapic = guest.vcpu(2).lapic
    lapic.registers.update({SPIV: 0x1FF, 0x80: 0x20})
    lapic.accept(0x40)
    lapic.accept(0x61)
    page = kvm_lapic_state()
    guest.ioctl(KVM_GET_LAPIC, page, 2)
    assert page.regs[ID : ID + 4] == b"\0\0\0\2" and page.regs[0x220] == 1 and page.regs[0x230] == 2

    guest.ioctl(KVM_SET_LAPIC, page, 1)

    other = guest.vcpu(1).lapic
    assert (other.id, other.irr, other.registers) == (1, 1 << 0x40 | 1 << 0x61, lapic.registers)


def test_init_and_sipi_are_not_among_the_registers(rig: Rig) -> None:
    guest, page = Guest(rig, writes_memory, (), vcpus=2, irqchip=True), kvm_lapic_state()
    guest.vcpu(1).lapic.pending = INIT
    guest.ioctl(KVM_GET_LAPIC, page, 1)
    guest.ioctl(KVM_SET_LAPIC, page)

    assert not guest.vcpu().lapic.pending
    assert guest.mp_state(1) == KVM_MP_STATE_INIT_RECEIVED != KVM_MP_STATE_UNINITIALIZED


@pytest.mark.parametrize(("irq", "irqchip", "code"), [(256, False, EINVAL), (1 << 31, True, EINVAL), (255, True, ENXIO)])
def test_an_interrupt_of_user_spaces_is_refused(rig: Rig, irq: int, irqchip: bool, code: int) -> None:
    with refuses(code):
        Guest(rig, writes_memory, (), irqchip=irqchip).ioctl(KVM_INTERRUPT, kvm_interrupt(irq))


def test_what_can_be_read_and_written_differs_by_mode() -> None:
    assert {0xE0, 0x310} <= XAPIC_READABLE & XAPIC_WRITABLE
    assert not {ID, 0x30, 0xA0} & XAPIC_WRITABLE
