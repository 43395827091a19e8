"""The registers of a vCPU: general, system, floating point, debug, CPUID, and the moments behind them."""

from __future__ import annotations

from errno import E2BIG, EFAULT, EINVAL
from typing import Any

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_SET_CPUID2,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_fpu,
    kvm_regs,
    kvm_segment,
)
from sevlab.hw.isa import checkpoint, hlt, out, program, store


@program
async def rest() -> None:
    while True:
        await hlt()


@program
async def counts() -> None:
    n = 0
    while True:
        n += 1
        await store(0x1000, bytes([n]), c=False)
        await hlt()


# ------------------------------------------------------------------ general registers and moments


def test_out_of_reset_the_registers_are_those_of_kvm(rig: Rig) -> None:
    guest = Guest(rig, rest)

    assert guest.regs() == kvm_regs(rip=0xFFF0, rflags=2, rdx=0x600)
    sregs = guest.sregs()
    assert (sregs.cs.base, sregs.cs.selector, sregs.cs.limit, sregs.cs.type) == (0xFFFF0000, 0xF000, 0xFFFF, 0xA)
    assert (sregs.cr0, sregs.cr4, sregs.efer, sregs.apic_base) == (0x60000010, 0, 0, 0xFEE00900)


def test_registers_come_back_as_they_were_set(rig: Rig) -> None:
    guest = Guest(rig, rest)
    regs = kvm_regs(*range(1, 17), 0x8000, 0x46)
    guest.ioctl(KVM_SET_REGS, regs)

    assert guest.regs() == regs


def test_the_fixed_flag_is_always_set(rig: Rig) -> None:
    guest = Guest(rig, rest)
    guest.ioctl(KVM_SET_REGS, kvm_regs(rip=0xFFF0))

    assert guest.regs().rflags == 2


def test_reading_the_registers_and_writing_them_back_changes_nothing(rig: Rig) -> None:
    guest = Guest(rig, counts)
    for expected in range(1, 5):
        assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == bytes([expected])
        guest.ioctl(KVM_SET_REGS, guest.regs())


def test_old_registers_put_back_twice_run_the_guest_from_there_twice(rig: Rig) -> None:
    guest = Guest(rig, counts, kind="sev")
    guest.run()
    guest.run()
    old = guest.regs()
    for _ in range(3):
        guest.run()
    assert guest.read(0x1000, 1) == b"\5"

    for _ in range(2):
        guest.ioctl(KVM_SET_REGS, old)
        assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\3"


def test_the_registers_of_one_moment_have_one_name_and_those_of_another_another(rig: Rig) -> None:
    guest = Guest(rig, counts)
    guest.run()
    first, again = guest.regs(), guest.regs()
    guest.run()

    assert first == again and first.rsp and guest.regs().rsp not in (0, first.rsp)


def test_a_moment_goes_on_in_another_vm_that_holds_the_same_program(rig: Rig) -> None:
    one, two = Guest(rig, counts), Guest(rig, counts)
    one.run()
    one.run()

    two.ioctl(KVM_SET_REGS, one.regs())

    assert two.run() == KVM_EXIT_HLT and two.read(0x1000, 1) == b"\3"


def test_a_moment_of_another_program_is_a_shutdown(rig: Rig) -> None:
    one, two = Guest(rig, counts), Guest(rig, rest)
    one.run()

    two.ioctl(KVM_SET_REGS, one.regs())

    assert two.run() == 8
    assert [row["why"] for row in rig.rows() if row["kind"] == "TripleFaulted"] == [
        "gpa 0xfffff000 holds rest now, the registers are counts's"
    ]


@pytest.mark.parametrize("rsp", [0, 0x7000, 0x5EB0_0000_0000, 0x5EB0_0000_0011])
def test_an_unknown_stack_starts_the_program_at_its_top(rig: Rig, rsp: int) -> None:
    guest = Guest(rig, counts)
    guest.run()
    guest.run()

    guest.ioctl(KVM_SET_REGS, guest.regs().replace(rsp=rsp))

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\1"


def test_a_moment_behind_a_checkpoint_has_its_state(rig: Rig) -> None:
    @program
    async def steps(n: int = 0) -> None:
        await store(0x1000, bytes([n]), c=False)
        await hlt()
        await checkpoint(n + 1)

    guest = Guest(rig, steps)
    guest.run()
    guest.run()
    old = guest.regs()
    guest.run()
    guest.run()
    guest.ioctl(KVM_SET_REGS, old)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\2"


def test_an_instruction_pointer_elsewhere_starts_what_lies_there(rig: Rig) -> None:
    guest = Guest(rig, rest)
    guest.qemu.write(guest.memory + 0x3000, rig.soc.programs.add(counts))
    sregs = guest.sregs()
    sregs.cs.base = 0
    guest.ioctl(KVM_SET_SREGS, sregs)
    guest.ioctl(KVM_SET_REGS, kvm_regs(rip=0x3000))

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\1"


def test_an_io_exit_survives_a_look_at_the_registers(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await out(0x80, 7)
        await store(0x1000, b"on", c=False)
        await hlt()

    guest = Guest(rig, guest_program)
    guest.run()
    guest.ioctl(KVM_SET_REGS, guest.regs())

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 2) == b"on"


# ------------------------------------------------------------------ system registers


def test_system_registers_come_back_as_they_were_set(rig: Rig) -> None:
    guest = Guest(rig, rest)
    sregs = guest.sregs()
    sregs.ds = kvm_segment(base=0x1000, limit=0xFFFFF, selector=8, type=3, present=1, dpl=3, db=1, s=1, g=1, avl=1)
    sregs.gdt.base, sregs.gdt.limit, sregs.idt.base, sregs.cr3, sregs.cr2 = 0x9000, 0x7F, 0xA000, 0x5000, 0x77
    sregs.cr0, sregs.cr4, sregs.efer = 0x80000011, 0x20, 0x500
    sregs.apic_base = 0xFEE00D00
    guest.ioctl(KVM_SET_SREGS, sregs)

    assert guest.sregs() == sregs


@pytest.mark.parametrize(
    "change",
    [
        {"cr0": 0x80000011, "efer": 0x500},
        {"cr0": 0x80000011, "cr4": 0x20, "efer": 0x100},
        {"efer": 0x400},
        {"cr0": 1 << 29},
        {"cr0": 1 << 31},
        {"cr0": 1 << 40},
        {"cr0": 1 << 7},
        {"cr4": 1 << 30},
        {"cs": kvm_segment(l=1, present=1, s=1, type=11)},
    ],
    ids=[
        "long mode without PAE",
        "without LMA",
        "LMA without paging",
        "NW without CD",
        "PG without PE",
        "high bits",
        "cr0",
        "cr4",
        "64-bit code",
    ],
)
def test_modes_that_contradict_each_other_are_refused_and_nothing_changes(rig: Rig, change: dict[str, Any]) -> None:
    guest = Guest(rig, rest)
    before = guest.sregs()

    with refuses(EINVAL) as box:
        guest.ioctl(KVM_SET_SREGS, before.replace(**change))

    assert "kvm_is_valid_sregs" in box.why and guest.sregs() == before


# ------------------------------------------------------------------ floating point, debug registers, CPUID


def test_the_fpu_is_what_user_space_set(rig: Rig) -> None:
    guest, fpu = Guest(rig, rest), kvm_fpu()
    guest.ioctl(KVM_GET_FPU, fpu)
    assert (fpu.fcw, fpu.mxcsr) == (0x37F, 0x1F80)

    guest.ioctl(KVM_SET_FPU, kvm_fpu(mxcsr=0x1FC0, xmm=bytes(range(256))))
    guest.ioctl(KVM_GET_FPU, fpu)

    assert fpu == kvm_fpu(mxcsr=0x1FC0, xmm=bytes(range(256)))


def test_of_an_es_vcpu_no_fpu_state_is_transferred_even_before_it_is_sealed(rig: Rig) -> None:
    guest, fpu = Guest(rig, rest, kind="es", seal=False), kvm_fpu()
    guest.ioctl(KVM_SET_FPU, kvm_fpu(mxcsr=0x1FC0))
    guest.ioctl(KVM_GET_FPU, fpu)

    assert fpu == kvm_fpu() and guest.vcpu().xsave[24:26] == b"\x80\x1f"


def test_debug_registers_come_back_with_their_fixed_bits(rig: Rig) -> None:
    guest, debug = Guest(rig, rest), kvm_debugregs()
    guest.ioctl(KVM_SET_DEBUGREGS, kvm_debugregs(db=(1, 2, 3, 4)))
    guest.ioctl(KVM_GET_DEBUGREGS, debug)

    assert (debug.db, debug.dr6, debug.dr7) == ((1, 2, 3, 4), 0xFFFF0FF0, 0x400)


@pytest.mark.parametrize("change", [{"flags": 1}, {"dr6": 1 << 32}, {"dr7": 1 << 63}])
def test_debug_registers_that_cannot_be_are_refused(rig: Rig, change: dict[str, int]) -> None:
    with refuses(EINVAL):
        Guest(rig, rest).ioctl(KVM_SET_DEBUGREGS, kvm_debugregs(**change))


def test_too_many_leaves_are_refused_before_they_are_read(rig: Rig) -> None:
    guest = Guest(rig, rest)

    with refuses(E2BIG):
        guest.ioctl(KVM_SET_CPUID2, kvm_cpuid2(257))
    at = rig.memory(bytes(0xFF8) + kvm_cpuid2(1).pack()) + 0xFF8
    with refuses(EFAULT):
        guest.ioctl(KVM_SET_CPUID2, at)


def test_the_leaves_of_a_vcpu_that_has_run_may_not_change(rig: Rig) -> None:
    guest, leaf = Guest(rig, rest), kvm_cpuid_entry2(1, eax=0x830F10)
    guest.set_cpuid(leaf)
    guest.run()
    guest.set_cpuid(leaf)

    with refuses(EINVAL):
        guest.set_cpuid(leaf.replace(eax=0xA00F11))


def test_a_reset_puts_the_signature_into_rdx(rig: Rig) -> None:
    @program
    async def falls() -> None:
        await store(0x1000, b"x", c=False)

    guest = Guest(rig, falls)
    guest.set_cpuid(kvm_cpuid_entry2(1, eax=0x830F10))
    guest.run()

    assert guest.regs().rdx == 0x830F10
