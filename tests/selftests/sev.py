"""What the kernel's SEV tests share, at the level of ioctls: VMs, MEMORY_ENCRYPT_OP, COPY and MOVE."""

from __future__ import annotations

from errno import EINVAL
from typing import Any

import pytest
from selftests.machine import Machine

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_ES_INIT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_INIT2,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enable_cap,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_init,
    kvm_sev_launch_start,
)
from sevlab.wire import Wire

VCPUS = 4
LAUNCHING, SECRET, RUNNING = 1, 2, 3  # states of GUEST_STATUS


def bare_vm(machine: Machine, kind: int = 0) -> int:
    """No memory, no interrupt controller, no vCPU."""
    return machine.ioctl(machine.open("/dev/kvm"), KVM_CREATE_VM, kind)


def raw_sev_ioctl(machine: Machine, vm: int, id: int, data: Wire | int = 0) -> int:
    """One command, zeroed but for id, data and a /dev/sev that stays open: the firmware's error. Raises OSError."""
    cmd = kvm_sev_cmd(id=id, sev_fd=machine.open("/dev/sev"))
    cmd.data = machine.put(data) if isinstance(data, Wire) else data
    machine.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, cmd)
    if isinstance(data, Wire):
        data.load(machine.read(cmd.data, data.SIZE))
    return cmd.error


def sev_ioctl(machine: Machine, vm: int, id: int, data: Wire | int = 0) -> None:
    """One command that must succeed: with 0, and without an error of the firmware."""
    assert raw_sev_ioctl(machine, vm, id, data) == 0


def status(machine: Machine, vm: int) -> kvm_sev_guest_status:
    found = kvm_sev_guest_status()
    sev_ioctl(machine, vm, KVM_SEV_GUEST_STATUS, found)
    return found


def add_vcpus(machine: Machine, vm: int) -> None:
    machine.vcpus[vm] = [machine.ioctl(vm, KVM_CREATE_VCPU, vcpu_id) for vcpu_id in range(VCPUS)]


def free(machine: Machine, vm: int) -> None:
    """Close a VM and its vCPUs, each of which keeps it."""
    for fd in (*machine.vcpus.pop(vm, ()), vm):
        machine.close(fd)


def sev_vm_create(machine: Machine, es: bool) -> int:
    """An SEV VM with four vCPUs, started, and sealed if it is SEV-ES."""
    vm = bare_vm(machine)
    sev_ioctl(machine, vm, KVM_SEV_ES_INIT if es else KVM_SEV_INIT)
    add_vcpus(machine, vm)
    policy = 4 if es else 0
    sev_ioctl(machine, vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(policy=policy))
    assert (status(machine, vm).policy, status(machine, vm).state) == (policy, LAUNCHING)
    if es:
        sev_ioctl(machine, vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    return vm


def aux_vm_create(machine: Machine, vcpus: bool) -> int:
    """An ordinary VM, with four vCPUs or without one."""
    vm = bare_vm(machine)
    if vcpus:
        add_vcpus(machine, vm)
    return vm


def sev2_vm_create(machine: Machine, kind: int, init: kvm_sev_init | None = None) -> int:
    """A VM of an SEV type, made encrypted by INIT2."""
    vm = bare_vm(machine, kind)
    sev_ioctl(machine, vm, KVM_SEV_INIT2, init or kvm_sev_init())
    return vm


def move(machine: Machine, dst: int, src: int) -> None:
    machine.ioctl(dst, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(src, 0, 0, 0)))


def copy(machine: Machine, dst: int, src: int) -> None:
    machine.ioctl(dst, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(src, 0, 0, 0)))


def must_fail(code: int, call: Any, *args: Any) -> None:
    """The call is refused with exactly this errno."""
    with pytest.raises(OSError) as no:
        call(*args)
    assert no.value.errno == code, str(no.value)


def einval(call: Any, *args: Any) -> None:
    must_fail(EINVAL, call, *args)
