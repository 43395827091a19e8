"""LAUNCH_UPDATE_VMSA: every vCPU in its order, and what stops it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from errno import EBADF, EBUSY, EINTR, EINVAL, EIO, ENOTTY
from typing import Any

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SET_DEBUGREGS,
    KVM_SET_GUEST_DEBUG,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_debugregs,
    kvm_guest_debug,
    kvm_sev_cmd,
)
from sevlab.abi.sev import Status
from sevlab.kvm import designs
from sevlab.kvm.call import Lock


def test_update_vmsa_of_a_plain_vm_is_enotty_before_and_after_init(rig: Rig) -> None:
    for vm in (rig.vm(), rig.init(), rig.started()):
        with refuses(ENOTTY):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
        assert rig.last.error == UNTOUCHED


def test_update_vmsa_measures_every_vcpu_in_the_order_of_their_making(rig: Rig) -> None:
    vm = rig.init(es=True)
    for vcpu_id in (3, 0, 1):
        rig.vcpu(vm, vcpu_id)
    rig.start(vm, 5)
    measured = hashlib.sha256(b"".join(vcpu.vmsa_page() for vcpu in rig.file(vm).vcpus)).digest()
    rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    assert rig.psp.guests[1].digest.digest() == measured
    assert all(vcpu.guest_state_protected for vcpu in rig.file(vm).vcpus)


def test_update_vmsa_without_vcpus_is_zero_and_asks_nothing(rig: Rig) -> None:
    vm = rig.init(es=True)
    cmd = rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    assert cmd.error == UNTOUCHED


def test_vcpus_before_the_refused_one_stay_sealed(rig: Rig) -> None:
    vm = rig.init(es=True)
    vcpus = [rig.vcpu(vm, i) for i in range(3)]
    rig.start(vm, 4)
    rig.qemu.ioctl(vcpus[1], KVM_SET_GUEST_DEBUG, kvm_guest_debug(control=1))

    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert [vcpu.guest_state_protected for vcpu in rig.file(vm).vcpus] == [True, False, False]
    assert rig.last.error == 0  # the firmware was called for the first


def test_a_breakpoint_in_dr7_refuses_before_the_firmware_is_asked(rig: Rig) -> None:
    vm = rig.init(es=True)
    vcpu = rig.vcpu(vm)
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, kvm_debugregs(dr7=0x401))

    with refuses(EINVAL):  # and no START: EBADF would be next
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, kvm_debugregs(dr7=0))
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert not rig.file(vm).vcpus[0].guest_state_protected


def test_a_vcpu_that_the_firmware_refused_is_an_ordinary_one_still(rig: Rig) -> None:
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    rig.measure(vm)

    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert not rig.file(vm).vcpus[0].guest_state_protected


def test_twice_seals_noise_in_6_1_and_is_refused_in_6_12(make_rig: Callable[..., Rig]) -> None:
    for design, code in ((designs.LINUX_6_1, None), (designs.LINUX_6_12, EINVAL)):
        rig = make_rig(design)
        vm = rig.init(es=True)
        rig.vcpu(vm)
        rig.start(vm, 4)
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
        before = rig.psp.guests[1].digest.digest()
        if code is None:
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
            assert rig.psp.guests[1].digest.digest() != before
        else:
            with refuses(code):
                rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
            assert rig.psp.guests[1].digest.digest() == before


@pytest.mark.parametrize("design, code", [(designs.LINUX_6_1, None), (designs.LINUX_6_12, EBUSY)], ids=["6.1", "6.12"])
def test_a_vcpu_in_the_making_is_left_out_or_stops_the_command(make_rig: Any, design: designs.Design, code: int | None) -> None:
    rig = make_rig(design)
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    rig.file(vm).created += 1  # KVM_CREATE_VCPU between its two locks
    if code is None:
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    else:
        with refuses(code):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.file(vm).created -= 1


def test_update_vmsa_waits_for_a_vcpu_that_is_held_and_a_signal_of_death_ends_the_wait(rig: Rig) -> None:
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    vcpu = rig.file(vm).vcpus[0]
    call = rig.qemu.begin(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_UPDATE_VMSA))
    vcpu.mutex.holder = call  # somebody is in KVM_RUN
    while call.step() == "runnable":
        pass
    assert call.state == "killable"
    assert isinstance(call.waits_for, Lock)
    call.abandon()

    vcpu.mutex.holder = None
    assert call.state == "done"
    with refuses(EINTR):
        call.finish()
    assert not vcpu.guest_state_protected
    assert rig.file(vm).lock.holder is None
