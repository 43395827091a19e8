"""The vCPU descriptor: who may use it, its registers, its states, and the page of them that is measured."""

from __future__ import annotations

from collections.abc import Callable
from errno import EAGAIN, EFAULT, EINTR, EINVAL, EIO

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
    KVM_X86_SEV_ES_VM,
    kvm_debugregs,
    kvm_fpu,
    kvm_mp_state,
    kvm_regs,
    kvm_sregs,
)
from sevlab.hw.isa import hlt, load, program, store
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
