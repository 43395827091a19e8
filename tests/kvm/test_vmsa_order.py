"""LAUNCH_UPDATE_VMSA with two things wrong at once: one learns of the upper one (kvm.md B5)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL

from sev_rig import Rig, refuses

from sevlab.abi.kvm import KVM_SET_DEBUGREGS, KVM_SEV_LAUNCH_MEASURE, KVM_SEV_LAUNCH_UPDATE_VMSA, kvm_sev_launch_measure
from sevlab.abi.kvm_vcpu import kvm_debugregs
from sevlab.abi.sev import Status
from sevlab.kvm import designs

Make = Callable[..., Rig]
BREAKPOINT = kvm_debugregs(dr7=0x401)


def test_a_breakpoint_outweighs_a_vcpu_that_is_sealed_already(make_rig: Make) -> None:
    rig = make_rig(designs.LINUX_6_12)
    vm = rig.started(policy=4)
    vcpu = rig.vcpu(vm)
    rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    with refuses(EINVAL) as no:
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert "already encrypted" in no.why

    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, BREAKPOINT)
    with refuses(EINVAL) as no:
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert "guest_debug" in no.why


def test_a_vcpu_in_the_making_outweighs_a_breakpoint(make_rig: Make) -> None:
    rig = make_rig(designs.LINUX_6_12)
    vm = rig.started(policy=4)
    rig.qemu.ioctl(rig.vcpu(vm), KVM_SET_DEBUGREGS, BREAKPOINT)
    rig.file(vm).created += 1
    with refuses(EBUSY):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.file(vm).created -= 1


def test_a_breakpoint_outweighs_the_firmwares_own_state(rig: Rig) -> None:
    vm = rig.started(policy=4)
    vcpu = rig.vcpu(vm)
    rig.op(vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(rig.memory(48), 48))
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, BREAKPOINT)
    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, kvm_debugregs(dr7=0))
    with refuses(5, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
