"""The vCPU descriptor: who may use it, its registers, its states, and the page of them that is measured."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from errno import E2BIG, EAGAIN, EFAULT, EINTR, EINVAL, EIO, ENOMEM
from typing import Any

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CREATE_VCPU,
    KVM_EXIT_HLT,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_MP_STATE_AP_RESET_HOLD,
    KVM_MP_STATE_HALTED,
    KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_SIPI_RECEIVED,
    KVM_MP_STATE_UNINITIALIZED,
    KVM_RUN,
    KVM_SET_CPUID2,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_GUEST_DEBUG,
    KVM_SET_MP_STATE,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SEV_INIT2,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    KVM_X86_SEV_ES_VM,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_debugregs,
    kvm_fpu,
    kvm_guest_debug,
    kvm_mp_state,
    kvm_regs,
    kvm_segment,
    kvm_sev_init,
    kvm_sregs,
)
from sevlab.abi.vmsa import BSP_EIP, CPU_SIGNATURES, vmsa_page
from sevlab.hw.isa import checkpoint, hlt, load, out, program, store
from sevlab.hw.pages import VMSA
from sevlab.kvm import designs
from sevlab.kvm.call import Blocked
from sevlab.kvm.lapic import INIT, SIPI
from sevlab.kvm.vcpu import IOCTLS

GETTERS = {
    KVM_GET_REGS: kvm_regs,
    KVM_GET_SREGS: kvm_sregs,
    KVM_GET_FPU: kvm_fpu,
    KVM_GET_DEBUGREGS: kvm_debugregs,
    KVM_GET_MP_STATE: kvm_mp_state,
}
SETTERS = {KVM_SET_REGS: kvm_regs, KVM_SET_SREGS: kvm_sregs, KVM_SET_FPU: kvm_fpu, KVM_SET_DEBUGREGS: kvm_debugregs}
EPYC_V4 = CPU_SIGNATURES["EPYC-v4"]


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


def test_a_guest_says_hello(rig: Rig) -> None:
    @program
    async def hello() -> None:
        await store(0x1000, b"hello", c=False)
        await store(0x2000, b"a secret of mine", c=True)
        await hlt()

    guest = Guest(rig, hello, kind="sev")

    assert guest.run() == KVM_EXIT_HLT
    assert guest.read(0x1000, 5) == b"hello"
    assert guest.read(0x2000, 16) != b"a secret of mine"


# ------------------------------------------------------------------ who may use it


@pytest.mark.parametrize("nr", [*IOCTLS, 0xAEFF])
def test_a_child_that_inherited_the_descriptor_is_refused_everything(rig: Rig, nr: int) -> None:
    guest = Guest(rig, rest)
    child = rig.qemu.fork()

    with refuses(EIO):
        child.ioctl(guest.fds[0], nr, 0)


@pytest.mark.parametrize("nr", [*IOCTLS, 0xAEFF, 0x1234])
def test_of_a_dead_vm_every_ioctl_is_refused(rig: Rig, nr: int) -> None:
    guest = Guest(rig, rest)
    rig.file(guest.vm).dead = True

    with refuses(EIO):
        guest.ioctl(nr)


@pytest.mark.parametrize("nr", [0xAEFF, 0x1234, 0, KVM_CREATE_VCPU, 0x8400AE8E])
def test_an_unknown_ioctl_is_einval(rig: Rig, nr: int) -> None:
    with refuses(EINVAL):
        Guest(rig, rest).ioctl(nr)


@pytest.mark.parametrize("nr", [*GETTERS, *SETTERS, KVM_SET_MP_STATE, KVM_SET_CPUID2, KVM_SET_GUEST_DEBUG])
def test_a_bad_pointer_is_efault(rig: Rig, nr: int) -> None:
    guest = Guest(rig, rest, irqchip=True)

    with refuses(EFAULT):
        guest.ioctl(nr, 0x10)


def test_a_vm_that_dies_under_a_run_ends_it(rig: Rig) -> None:
    guest = Guest(rig, rest, irqchip=True)
    call = rig.qemu.begin(guest.fds[0], KVM_RUN)
    while call.state != "interruptible":
        call.step()

    rig.file(guest.vm).dead = True
    guest.vcpu().nmi_pending = True

    with refuses(EIO):
        call.finish()


def test_an_ioctl_waits_for_a_run_that_is_under_way(rig: Rig) -> None:
    guest = Guest(rig, rest, irqchip=True)
    run = rig.qemu.begin(guest.fds[0], KVM_RUN)
    while run.state != "interruptible":
        run.step()

    with pytest.raises(Blocked, match=r"vcpu->mutex"):
        guest.regs()

    run.interrupt()
    with refuses(EINTR):
        run.finish()
    assert guest.regs().rflags == 2


def test_a_vcpu_keeps_its_vm_alive(rig: Rig) -> None:
    guest = Guest(rig, rest)
    rig.qemu.close(guest.vm)

    assert guest.run() == KVM_EXIT_HLT and len(rig.kernel.vms) == 1
    rig.qemu.close(guest.fds[0])
    rig.qemu.munmap(guest.pages[0], 0x3000)
    assert not rig.kernel.vms


def test_what_the_vmm_maps_is_zero_at_first_and_three_pages(rig: Rig) -> None:
    guest = Guest(rig, rest)

    assert guest.qemu.read(guest.pages[0], 0x3000) == bytes(0x3000)
    with refuses(EFAULT):
        guest.qemu.read(guest.pages[0], 0x3001)


# ------------------------------------------------------------------ KVM_RUN


def test_run_takes_no_argument(rig: Rig) -> None:
    with refuses(EINVAL):
        Guest(rig, rest).ioctl(KVM_RUN, 1)


def test_immediate_exit_comes_back_before_the_guest_moves(rig: Rig) -> None:
    guest = Guest(rig, counts)
    guest.immediate_exit(True)

    with refuses(EINTR):
        guest.run()

    assert guest.read(0x1000, 1) == b"\0" and guest.reason() == 0
    guest.immediate_exit(False)
    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\1"


def test_a_vm_of_an_sev_type_must_be_initialised_before_it_runs(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12)
    vcpu = rig.vcpu(rig.vm(KVM_X86_SEV_ES_VM))

    with refuses(EINVAL) as box:
        rig.qemu.ioctl(vcpu, KVM_RUN)

    assert "need_init" in box.why


def test_a_vcpu_that_nobody_started_waits(rig: Rig) -> None:
    guest = Guest(rig, rest, vcpus=2, irqchip=True)

    with pytest.raises(Blocked, match="no INIT and no SIPI"):
        guest.run(1)

    guest.qemu.write(guest.pages[1] + 1, b"\1")
    with refuses(EINTR):
        guest.run(1)


def test_a_vcpu_that_got_its_message_asks_to_be_run_again(rig: Rig) -> None:
    guest = Guest(rig, rest, vcpus=2, irqchip=True)
    call = rig.qemu.begin(guest.fds[1], KVM_RUN)
    while call.state != "interruptible":
        call.step()
    vcpu = guest.vcpu(1)
    vcpu.lapic.pending = INIT | SIPI

    with refuses(EAGAIN):
        call.finish()

    assert guest.mp_state(1) == KVM_MP_STATE_RUNNABLE


def test_memory_that_the_process_gave_up_is_gone_for_the_guest_too(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await load(0x1000, 1, c=False)
        await hlt()
        await load(0x1000, 1, c=False)
        await hlt()

    guest = Guest(rig, guest_program)
    assert guest.run() == KVM_EXIT_HLT
    rig.qemu.munmap(guest.memory, 0x4_0000)

    with refuses(EFAULT):
        guest.run()


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


# ------------------------------------------------------------------ mp_state


def test_without_an_irqchip_every_vcpu_is_runnable(rig: Rig) -> None:
    guest = Guest(rig, rest, vcpus=2)

    assert [guest.mp_state(n) for n in range(2)] == [KVM_MP_STATE_RUNNABLE] * 2


def test_with_an_irqchip_only_the_first_is(rig: Rig) -> None:
    guest = Guest(rig, rest, vcpus=3, irqchip=True)

    assert [guest.mp_state(n) for n in range(3)] == [KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_MP_STATE_UNINITIALIZED]


STATES = {
    KVM_MP_STATE_RUNNABLE: KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_UNINITIALIZED: KVM_MP_STATE_UNINITIALIZED,
    KVM_MP_STATE_INIT_RECEIVED: KVM_MP_STATE_INIT_RECEIVED,
    KVM_MP_STATE_HALTED: KVM_MP_STATE_HALTED,
    KVM_MP_STATE_SIPI_RECEIVED: KVM_MP_STATE_RUNNABLE,
    KVM_MP_STATE_AP_RESET_HOLD: KVM_MP_STATE_AP_RESET_HOLD,
}


@pytest.mark.parametrize("irqchip", [True, False])
@pytest.mark.parametrize("state", range(12))
def test_which_states_can_be_set_and_how_they_read_back(rig: Rig, state: int, irqchip: bool) -> None:
    guest = Guest(rig, rest, irqchip=irqchip)

    if state in STATES and (irqchip or state == KVM_MP_STATE_RUNNABLE):
        guest.set_mp_state(state)
        assert guest.mp_state() == STATES[state]
    else:
        with refuses(EINVAL):
            guest.set_mp_state(state)
        assert guest.mp_state() == KVM_MP_STATE_RUNNABLE


# ------------------------------------------------------------------ the sealed page


def qemu_sets(guest: Guest, eip: int, signature: int, number: int = 0) -> None:
    """What QEMU gives a vCPU at its reset: descriptors with their accessed and busy bits, the CPU's signature in RDX."""
    sregs = guest.sregs(number)
    for name in ("ds", "es", "fs", "gs", "ss"):
        setattr(sregs, name, kvm_segment(limit=0xFFFF, type=3, present=1, s=1))
    sregs.cs = kvm_segment(base=eip & 0xFFFF0000, limit=0xFFFF, selector=0xF000, type=11, present=1, s=1)
    sregs.tr = kvm_segment(limit=0xFFFF, type=11, present=1)
    sregs.ldt = kvm_segment(limit=0xFFFF, type=2, present=1)
    guest.ioctl(KVM_SET_SREGS, sregs, number)
    guest.ioctl(KVM_SET_REGS, kvm_regs(rip=eip & 0xFFFF, rdx=signature, rflags=2), number)


def test_the_page_of_a_legacy_vm_is_the_one_that_sev_snp_measure_predicts(rig: Rig) -> None:
    """SHA-256 of the pages that sev-snp-measure 0.0.9 makes for EPYC-v4: firmware.md 5.2."""
    guest = Guest(rig, rest, kind="es", vcpus=2, seal=False)
    qemu_sets(guest, BSP_EIP, EPYC_V4)
    qemu_sets(guest, 0x80B004, EPYC_V4, number=1)
    bsp, ap = (guest.vcpu(n).vmsa_page() for n in range(2))

    assert bsp == vmsa_page(BSP_EIP, signature=EPYC_V4) and ap == vmsa_page(0x80B004, signature=EPYC_V4)
    assert hashlib.sha256(bsp).hexdigest().startswith("30a76bd1") and hashlib.sha256(bsp).hexdigest().endswith("66af")
    assert hashlib.sha256(ap).hexdigest().startswith("3d1cd8f9") and hashlib.sha256(ap).hexdigest().endswith("3df19")


def typed(rig: Rig, features: int = 0) -> Guest:
    """An SEV-ES VM of 6.12, made with KVM_SEV_INIT2, with one vCPU and no program."""
    vm = rig.vm(KVM_X86_SEV_ES_VM)
    rig.op(vm, KVM_SEV_INIT2, kvm_sev_init(vmsa_features=features))
    rig.start(vm, policy=4)
    guest = Guest.__new__(Guest)
    guest.rig, guest.qemu, guest.vm = rig, rig.qemu, vm
    guest.fds = [rig.vcpu(vm)]
    guest.pages = [rig.qemu.mmap(0x3000, fd=guest.fds[0])]
    return guest


def test_that_of_a_vm_with_a_type_has_the_floating_point_state_too(make_rig: Callable[..., Rig]) -> None:
    """SHA-256 of the page that sev-snp-measure 0.0.13 makes for EPYC-v4: firmware.md 5.2."""
    guest = typed(make_rig(designs.LINUX_6_12))
    qemu_sets(guest, BSP_EIP, EPYC_V4)
    page = guest.vcpu().vmsa_page()

    assert page == vmsa_page(BSP_EIP, signature=EPYC_V4, variant="init2")
    assert hashlib.sha256(page).hexdigest().startswith("8295cef5") and hashlib.sha256(page).hexdigest().endswith("788c")


def test_what_user_space_puts_into_the_fpu_is_measured_there(make_rig: Callable[..., Rig]) -> None:
    guest = typed(make_rig(designs.LINUX_6_12))
    before = guest.vcpu().vmsa_page()
    guest.ioctl(KVM_SET_FPU, kvm_fpu(fpr=bytes(range(128)), xmm=bytes(range(256)), fcw=1, fsw=2, ftwx=3, last_opcode=4, mxcsr=5))
    page = guest.vcpu().vmsa_page()

    assert page[:0x400] == before[:0x400]
    assert page[0x408:0x414] == b"\5\0\0\0" + b"\3\0\2\0\1\0\4\0"
    assert page[0x420:0x428] == bytes(range(8)) and page[0x460:0x462] == bytes((8, 9)) and page[0x470:0x570] == bytes(range(256))


def test_features_are_measured(make_rig: Callable[..., Rig]) -> None:
    guest = typed(make_rig(designs.LINUX_6_12, "milan"), features=1 << 5)

    assert guest.vcpu().vmsa_page()[0x3B0] == 1 << 5


def test_every_general_register_has_its_place_in_the_page(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es", seal=False)
    guest.ioctl(KVM_SET_REGS, kvm_regs(*range(0x101, 0x111), rip=0x1234, rflags=0x46))
    page = guest.vcpu().vmsa_page()
    places = {0x1F8: 0x101, 0x318: 0x102, 0x308: 0x103, 0x310: 0x104, 0x1D8: 0x107, 0x340: 0x109, 0x178: 0x1234, 0x170: 0x46}

    assert {at: int.from_bytes(page[at : at + 8], "little") for at in places} == places


def test_a_save_area_is_a_frame_of_its_own_and_comes_back_clean(rig: Rig) -> None:
    free = rig.kernel.frames.free
    guest = Guest(rig, rest, kind="es")
    pfn = guest.vcpu().vmsa_pfn
    assert rig.soc.pages.state(pfn) == VMSA

    rig.close()

    assert rig.soc.pages.state(pfn) != VMSA and rig.kernel.frames.free >= free
    assert [row["hpa"] for row in rig.rows() if row["kind"] == "PageFlushed"] == [pfn << 12]


def test_a_plain_sev_vcpu_has_no_save_area(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="sev")

    assert guest.vcpu().vmsa_pfn == 0 and not [row for row in rig.rows() if row["kind"] == "PageFlushed"]


def test_a_duplicate_vcpu_gives_its_save_area_back(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es")
    states = rig.soc.pages.counts()
    free = rig.kernel.frames.free

    with pytest.raises(OSError):
        rig.vcpu(guest.vm, 0)

    assert rig.kernel.frames.free == free and rig.soc.pages.counts() == states


# ------------------------------------------------------------------ once it is sealed


@pytest.mark.parametrize("nr", GETTERS)
def test_on_6_1_a_sealed_vcpu_still_answers_and_says_nothing_true(rig: Rig, nr: int) -> None:
    guest = Guest(rig, counts, kind="es")
    guest.run()
    answer = GETTERS[nr]()
    guest.ioctl(nr, answer)

    if nr == KVM_GET_REGS:
        assert answer == kvm_regs(rip=0xFFF0, rflags=2, rdx=0x600)
    elif nr == KVM_GET_SREGS:
        assert answer == kvm_sregs(cr0=0x60000010, apic_base=0xFEE00900)
    elif nr == KVM_GET_FPU:
        assert answer == kvm_fpu()


def test_on_6_1_registers_that_are_set_have_no_effect_on_the_guest(rig: Rig) -> None:
    guest = Guest(rig, counts, kind="es")
    guest.run()
    guest.ioctl(KVM_SET_REGS, kvm_regs(rip=0x1234))
    sregs = guest.sregs()
    sregs.cs.base, sregs.apic_base = 0x5000, 0xFEE01000
    guest.ioctl(KVM_SET_SREGS, sregs)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\2"
    assert guest.sregs().apic_base == 0xFEE01000 and guest.sregs().cs.base == 0


@pytest.mark.parametrize("nr", [*(nr for nr in GETTERS if nr != KVM_GET_MP_STATE), *SETTERS])
def test_with_vm_types_the_registers_of_a_sealed_vcpu_are_refused(make_rig: Callable[..., Rig], nr: int) -> None:
    guest = typed(make_rig(designs.LINUX_6_12))
    kind = (GETTERS | SETTERS)[nr]
    value = kind()
    if nr == KVM_SET_SREGS:
        guest.ioctl(KVM_GET_SREGS, value)
    guest.ioctl(nr, value)

    guest.rig.op(guest.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    with refuses(EINVAL) as box:
        guest.ioctl(nr, value)
    assert "has_protected_state" in box.why


def test_a_vcpu_under_debugging_cannot_be_sealed_and_a_sealed_one_not_debugged(rig: Rig) -> None:
    guest = Guest(rig, rest, kind="es", seal=False)
    guest.ioctl(KVM_SET_GUEST_DEBUG, kvm_guest_debug(control=1))
    with refuses(EINVAL):
        rig.op(guest.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    guest.ioctl(KVM_SET_GUEST_DEBUG, kvm_guest_debug())
    rig.op(guest.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    with refuses(EINVAL):
        guest.ioctl(KVM_SET_GUEST_DEBUG, kvm_guest_debug(control=1))


def test_a_vcpu_is_made_though_no_two_free_frames_are_neighbours(rig: Rig) -> None:
    hva = rig.memory(64 * 0x1000)
    rig.qemu.write(hva, bytes([1]) * 64 * 0x1000)
    for page in range(0, 64, 2):
        rig.qemu.munmap(hva + page * 0x1000, 0x1000)

    guest = Guest(rig, counts, kind="es")

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\1"


@pytest.mark.parametrize("left", range(4))
def test_a_vcpu_that_does_not_fit_is_refused_and_takes_nothing(rig: Rig, left: int) -> None:
    vm, frames = rig.started(policy=4), rig.kernel.frames
    taken = frames.take(frames.free - left)

    with refuses(ENOMEM):
        rig.vcpu(vm)

    assert frames.free == left and rig.file(vm).created == 0
    for run in taken:
        frames.give(*run)
