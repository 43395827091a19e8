"""A sealed vCPU: what user space may still ask (G8), the kernel's own smoke tests (H2), and a host that touches its save area."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EFAULT, EINVAL
from typing import Any

import pytest
from kvm.guests import Guest
from kvm.vmgexits import by_msr
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CREATE_VM,
    KVM_EXIT_HLT,
    KVM_EXIT_IO,
    KVM_EXIT_SHUTDOWN,
    KVM_EXIT_SYSTEM_EVENT,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
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
    kvm_debugregs,
    kvm_fpu,
    kvm_guest_debug,
    kvm_mp_state,
    kvm_regs,
    kvm_run_io,
    kvm_run_system_event,
    kvm_sev_init,
    kvm_sregs,
)
from sevlab.abi.kvm_vcpu import (
    KVM_GET_MSRS,
    KVM_GET_SREGS2,
    KVM_GET_VCPU_EVENTS,
    KVM_GET_XCRS,
    KVM_GET_XSAVE,
    KVM_SET_MSRS,
    KVM_SET_SREGS2,
    KVM_SET_VCPU_EVENTS,
    KVM_SET_XCRS,
    KVM_SET_XSAVE,
    kvm_msr_entry,
    kvm_msrs,
    kvm_sregs2,
    kvm_vcpu_events,
    kvm_xcr,
    kvm_xcrs,
    kvm_xsave,
)
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.vc import handle_vc
from sevlab.hw.isa import Fault, hlt, outs, program, store, ud2, vmgexit, wrmsr, xsave
from sevlab.kvm import designs
from sevlab.wire import Wire

PAGE = 4096
X87_AND_ALL = 0xFFFF_FFFF


@program
async def rest() -> None:
    while True:
        await hlt()


def xcr0(value: int) -> kvm_xcrs:
    return kvm_xcrs(1, 0, kvm_xcr(0, 0, value).pack().ljust(256, b"\0"))


class Msrs(Wire):
    """One MSR with the head before it."""

    head: kvm_msrs  # 0x00
    entry: kvm_msr_entry  # 0x08


def one_msr() -> Msrs:
    return Msrs(kvm_msrs(1), kvm_msr_entry(0xC000_0081, 0, 5))


# ioctl: (argument, what 6.1 answers a sealed vCPU, what 6.12 answers one whose VM has a type)
ROWS: dict[str, tuple[int, Callable[[], Any], int, int]] = {
    "GET_REGS": (KVM_GET_REGS, kvm_regs, 0, EINVAL),
    "SET_REGS": (KVM_SET_REGS, kvm_regs, 0, EINVAL),
    "GET_SREGS": (KVM_GET_SREGS, kvm_sregs, 0, EINVAL),
    "SET_SREGS": (KVM_SET_SREGS, kvm_sregs, 0, EINVAL),
    "SET_SREGS inconsistent": (KVM_SET_SREGS, lambda: kvm_sregs(cr0=1 << 31), EINVAL, EINVAL),
    "GET_SREGS2": (KVM_GET_SREGS2, kvm_sregs2, 0, EINVAL),
    "SET_SREGS2": (KVM_SET_SREGS2, kvm_sregs2, 0, EINVAL),
    "SET_SREGS2 with PDPTRs": (KVM_SET_SREGS2, lambda: kvm_sregs2(cr0=1 << 31 | 1, cr4=1 << 5, flags=1), EINVAL, EINVAL),
    "GET_FPU": (KVM_GET_FPU, kvm_fpu, 0, EINVAL),
    "SET_FPU": (KVM_SET_FPU, kvm_fpu, 0, EINVAL),
    "GET_XSAVE": (KVM_GET_XSAVE, kvm_xsave, 0, EINVAL),
    "SET_XSAVE": (KVM_SET_XSAVE, kvm_xsave, 0, EINVAL),
    "GET_DEBUGREGS": (KVM_GET_DEBUGREGS, kvm_debugregs, 0, EINVAL),
    "SET_DEBUGREGS": (KVM_SET_DEBUGREGS, kvm_debugregs, 0, EINVAL),
    "GET_XCRS": (KVM_GET_XCRS, kvm_xcrs, 0, EINVAL),
    "SET_XCRS": (KVM_SET_XCRS, lambda: xcr0(1), 0, EINVAL),
    "SET_GUEST_DEBUG": (KVM_SET_GUEST_DEBUG, kvm_guest_debug, EINVAL, EINVAL),
    "GET_MSRS": (KVM_GET_MSRS, one_msr, 0, EINVAL),
    "SET_MSRS": (KVM_SET_MSRS, one_msr, 0, EINVAL),
    "SET_CPUID2": (KVM_SET_CPUID2, kvm_cpuid2, 0, 0),
    "GET_VCPU_EVENTS": (KVM_GET_VCPU_EVENTS, kvm_vcpu_events, 0, 0),
    "SET_VCPU_EVENTS": (KVM_SET_VCPU_EVENTS, kvm_vcpu_events, 0, 0),
    "GET_MP_STATE": (KVM_GET_MP_STATE, kvm_mp_state, 0, 0),
    "SET_MP_STATE": (KVM_SET_MP_STATE, kvm_mp_state, 0, 0),
}


class TypedGuest(Guest):
    """A guest of a VM that was created as an SEV-ES one (6.10 and later). `before` may change it before it is sealed."""

    def __init__(
        self, rig: Rig, guest: Any, *args: Any, seal: bool = True, before: Callable[[TypedGuest], None] | None = None
    ) -> None:
        self.rig, self.qemu = rig, rig.qemu
        rig_vm, rig_started = rig.vm, rig.started
        rig.started = self._started  # type: ignore[method-assign]
        try:
            super().__init__(rig, guest, *args, kind="es", seal=False)
        finally:
            rig.vm, rig.started = rig_vm, rig_started  # type: ignore[method-assign]
        if before is not None:
            before(self)
        if seal:
            rig.op(self.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    def _started(self, policy: int = 0) -> int:
        vm = self.rig.qemu.ioctl(self.rig.kvm, KVM_CREATE_VM, KVM_X86_SEV_ES_VM)
        self.rig.op(vm, KVM_SEV_INIT2, kvm_sev_init())
        self.rig.start(vm, 4)
        return vm


def outcome(guest: Guest, nr: int, argument: Any) -> int:
    try:
        guest.ioctl(nr, argument)
    except OSError as error:
        return error.errno or -1
    return 0


@pytest.mark.parametrize("name", ROWS)
def test_on_6_1_a_sealed_vcpu_answers_as_in_the_table(rig: Rig, name: str) -> None:
    nr, argument, legacy, _ = ROWS[name]

    assert outcome(Guest(rig, rest, kind="es"), nr, argument()) == legacy


@pytest.mark.parametrize("name", ROWS)
def test_on_6_12_a_sealed_vcpu_of_a_vm_with_a_type_refuses_as_in_the_table(make_rig: Callable[..., Rig], name: str) -> None:
    nr, argument, _, typed = ROWS[name]

    assert outcome(TypedGuest(make_rig(designs.LINUX_6_12), rest), nr, argument()) == typed


@pytest.mark.parametrize("name", ROWS)
def test_on_6_12_a_vm_without_a_type_keeps_the_answers_of_6_1(make_rig: Callable[..., Rig], name: str) -> None:
    nr, argument, legacy, _ = ROWS[name]

    assert outcome(Guest(make_rig(designs.LINUX_6_12), rest, kind="es"), nr, argument()) == legacy


@pytest.mark.parametrize("name", [name for name in ROWS if ROWS[name][2] == 0 or name == "SET_GUEST_DEBUG"])
def test_on_6_12_before_it_is_sealed_everything_works(make_rig: Callable[..., Rig], name: str) -> None:
    nr, argument, *_ = ROWS[name]

    assert outcome(TypedGuest(make_rig(designs.LINUX_6_12), rest, seal=False), nr, argument()) == 0


def test_the_sealed_registers_are_those_of_the_last_request(rig: Rig) -> None:
    guest = Guest(rig, by_msr, (7 << 32 | 4,), kind="es")
    guest.run()

    regs = guest.regs()
    assert (regs.rax, regs.rcx) == (0, 0) and regs.rsp == 0


def test_xsave_of_a_sealed_vcpu_leaves_the_callers_buffer_alone(rig: Rig) -> None:
    guest, image = Guest(rig, rest, kind="es"), kvm_xsave(b"\xaa" * 4096)
    guest.ioctl(KVM_GET_XSAVE, image)

    assert image.region == b"\xaa" * 4096


# ------------------------------------------------------------------ state that an ordinary vCPU has


def test_the_state_of_an_ordinary_vcpu_comes_back_as_it_was_set(rig: Rig) -> None:
    guest = Guest(rig, rest)
    image, seen = kvm_xsave(pi_and_ones()), kvm_xsave()
    guest.ioctl(KVM_SET_XSAVE, image)
    guest.ioctl(KVM_GET_XSAVE, seen)
    guest.ioctl(KVM_SET_XCRS, xcr0(7))
    xcrs = kvm_xcrs()
    guest.ioctl(KVM_GET_XCRS, xcrs)

    assert seen.region == image.region and kvm_xcr.unpack(xcrs.xcrs).value == 7


def test_a_component_that_the_header_does_not_name_is_initialised(rig: Rig) -> None:
    guest, image, seen = Guest(rig, rest), bytearray(pi_and_ones()), kvm_xsave()
    image[512:520] = (1).to_bytes(8, "little")
    guest.ioctl(KVM_SET_XSAVE, kvm_xsave(bytes(image)))
    guest.ioctl(KVM_GET_XSAVE, seen)

    assert seen.region[160:416] == bytes(256) and seen.region[32:42] == image[32:42]


@pytest.mark.parametrize("xstate_bv, xcomp_bv", [(8, 0), (1 << 63, 0), (7, 1 << 63)])
def test_components_that_there_are_not_are_refused(rig: Rig, xstate_bv: int, xcomp_bv: int) -> None:
    image = bytearray(4096)
    struct.pack_into("<2Q", image, 512, xstate_bv, xcomp_bv)

    with refuses(EINVAL):
        Guest(rig, rest).ioctl(KVM_SET_XSAVE, kvm_xsave(bytes(image)))


@pytest.mark.parametrize("xcrs", [xcr0(0), xcr0(5), xcr0(9), kvm_xcrs(17), kvm_xcrs(0, 1)])
def test_an_xcr0_that_cannot_be_is_refused(rig: Rig, xcrs: kvm_xcrs) -> None:
    with refuses(EINVAL):
        Guest(rig, rest).ioctl(KVM_SET_XCRS, xcrs)


def test_msrs_go_up_to_the_first_that_is_not_there(rig: Rig) -> None:
    guest = Guest(rig, rest)
    entries = b"".join(kvm_msr_entry(index, 0, 77).pack() for index in (0xC000_0081, 0xC000_0082, 0x1234, 0xC000_0083))
    at = rig.qemu.put(kvm_msrs(4).pack() + entries)

    assert guest.ioctl(KVM_SET_MSRS, at) == 2 and guest.ioctl(KVM_GET_MSRS, at) == 2


def test_msrs_without_memory_behind_them_are_efault(rig: Rig) -> None:
    with refuses(EFAULT):
        Guest(rig, rest).ioctl(KVM_GET_MSRS, 0x10)


# ------------------------------------------------------------------ sev_smoke_test


def pi_and_ones() -> bytes:
    """The image of the kernel's sync_vmsa test: pi in ST0, all ones in YMM4."""
    image = bytearray(4096)
    struct.pack_into("<4H2Q2I", image, 0, 0x037F, 0x3800, 0x80, 0, 0, 0, 0x1F80, 0x2FFFF)
    image[32:42] = bytes.fromhex("35c26821a2da0fc90040")
    image[160 + 64 : 160 + 80] = image[576 + 64 : 576 + 80] = b"\xff" * 16
    struct.pack_into("<2Q", image, 512, 7, 0)
    return bytes(image)


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_smoke_b_a_guest_that_ends_itself(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    guest = Guest(make_rig(design), by_msr, (0x100,), kind="es")

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT
    event = guest.detail(kvm_run_system_event)
    assert (event.type, event.ndata, event.data[0]) == (6, 1, 0x100)


def test_smoke_c_a_triple_fault_is_shutdown(make_rig: Callable[..., Rig]) -> None:
    @program
    async def falls() -> None:
        await ud2()

    assert TypedGuest(make_rig(designs.LINUX_6_12), falls).run() == KVM_EXIT_SHUTDOWN


@program
async def saves(gpa: int) -> None:
    """XSAVE into a shared page, then end."""
    await store(gpa, await xsave(), c=False)
    await wrmsr(0xC001_0130, 0x100)
    await vmgexit()


def with_state(guest: TypedGuest) -> None:
    sregs = guest.sregs()
    sregs.cr4 |= 1 << 9 | 1 << 18
    guest.ioctl(KVM_SET_SREGS, sregs)
    guest.ioctl(KVM_SET_XCRS, xcr0(7))
    guest.ioctl(KVM_SET_XSAVE, kvm_xsave(pi_and_ones()))


def test_smoke_d_the_state_that_user_space_set_is_the_guests(make_rig: Callable[..., Rig]) -> None:
    guest = TypedGuest(make_rig(designs.LINUX_6_12), saves, 0x2000, before=with_state)

    assert guest.run() == KVM_EXIT_SYSTEM_EVENT and guest.detail(kvm_run_system_event).data[0] == 0x100
    assert guest.read(0x2000, 4095) == pi_and_ones()[:4095]


def test_smoke_d_without_a_type_the_state_is_lost(rig: Rig) -> None:
    guest = Guest(rig, saves, 0x2000, kind="es", seal=False)
    with_state(guest)  # type: ignore[arg-type]
    rig.op(guest.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    guest.run()

    assert guest.read(0x2000 + 32, 10) == bytes(10)


@program(vc=handle_vc)
async def second_version() -> None:
    version = await open_ghcb(0x3000)
    await outs(0x3F8, b"through the page itself")
    await store(0x1000, bytes([version]), c=False)
    await hlt()


def test_with_a_type_the_protocol_is_version_2_and_the_standard_handler_speaks_it(make_rig: Callable[..., Rig]) -> None:
    guest = TypedGuest(make_rig(designs.LINUX_6_12), second_version)

    assert guest.run() == KVM_EXIT_IO and guest.detail(kvm_run_io).count == 23
    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\2"


def test_xsave_without_the_bit_in_cr4_is_no_instruction(rig: Rig) -> None:
    @program
    async def hasty() -> None:
        try:
            await xsave()
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await hlt()

    guest = Guest(rig, hasty)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 1) == b"\6"
