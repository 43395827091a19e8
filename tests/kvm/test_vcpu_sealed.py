"""The page of registers that is measured, and a vCPU once it is sealed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from errno import EINVAL, ENOMEM

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_GUEST_DEBUG,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SEV_INIT2,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    KVM_X86_SEV_ES_VM,
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
from sevlab.hw.isa import hlt, program, store
from sevlab.hw.pages import VMSA
from sevlab.kvm import designs

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
