"""Interrupt controllers in the kernel: who has them, and what user space may send to a vCPU.

Of KVM_CREATE_IRQCHIP only the local APICs are here (`lapic.py`). Source: kvm.md G7
(kvm_arch_vcpu_ioctl: KVM_INTERRUPT, KVM_NMI, KVM_GET_LAPIC, KVM_SET_LAPIC).
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENXIO
from typing import TYPE_CHECKING

from sevlab.abi.kvm import KVM_INTERRUPT, KVM_MP_STATE_RUNNABLE, KVM_MP_STATE_UNINITIALIZED, KVM_NMI, kvm_interrupt, kvm_lapic_state
from sevlab.abi.kvm_vcpu import KVM_GET_LAPIC, KVM_SET_LAPIC
from sevlab.kvm import Row, copy_from_user, copy_to_user
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.lapic import ID, IRR, LDR, REMOTE_READ, VERSION, XAPIC_READABLE, Lapic, find
from sevlab.kvm.lock import Lock

if TYPE_CHECKING:
    from sevlab.kvm.task import Task
    from sevlab.kvm.vcpu import Vcpu
    from sevlab.kvm.vm import Vm

NR_INTERRUPTS = 256


async def create_irqchip(vm: Vm, caller: Task, arg: int) -> int:
    """KVM_CREATE_IRQCHIP: interrupt controllers in the kernel; vCPUs then wait and start there."""
    async with Lock(vm.lock):
        need(not vm.irqchip, EEXIST)  # irqchip_in_kernel(kvm)
        need(not vm.created, EINVAL)  # kvm->created_vcpus

        vm.irqchip = True
    return 0


def add_lapic(vcpu: Vcpu) -> None:
    """A vCPU is made: its local APIC, if the kernel has them, and the state it begins in (kvm_arch_vcpu_create)."""
    vcpu.lapic = Lapic(vcpu) if vcpu.vm.irqchip else None
    vcpu.nmi_pending = vcpu.pv_unhalted = False
    vcpu.mp_state = KVM_MP_STATE_UNINITIALIZED if vcpu.vm.irqchip and vcpu.id else KVM_MP_STATE_RUNNABLE


def kick(vm: Vm, apic_id: int) -> None:
    """Wake the vCPU that waits for a paravirtual lock, or have it not halt the next time (kvm_pv_kick_cpu_op)."""
    vcpu = find(vm.vcpus, apic_id)
    if vcpu is not None and vcpu.lapic is not None:
        vcpu.lapic.accept(REMOTE_READ)


# ------------------------------------------------------------------ ioctls


def interrupt(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_INTERRUPT: for whoever has the interrupt controllers in user space, where a halted vCPU is user space's too."""
    irq = copy_from_user(caller, arg, kvm_interrupt).irq  # EFAULT
    need(irq < NR_INTERRUPTS, EINVAL)  # irq->irq >= KVM_NR_INTERRUPTS
    need(vcpu.lapic is None, ENXIO)  # pic_in_kernel(vcpu->kvm)
    return 0


def nmi(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_NMI: wakes a vCPU that has halted, or is held."""
    vcpu.nmi_pending = True
    return 0


def get_lapic(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_GET_LAPIC: the registers, as a page of xAPIC. INIT and SIPI that wait are not among them."""
    lapic = vcpu.lapic
    if lapic is None:
        raise KvmError(EINVAL)  # !lapic_in_kernel(vcpu)
    page = bytearray(kvm_lapic_state.SIZE)
    for offset in XAPIC_READABLE:
        value = (lapic.id & 0xFF) << 24 if offset == ID else lapic.registers.get(offset, 0)
        if offset in (VERSION, LDR) or IRR <= offset < IRR + 0x80:
            value = lapic.read(offset)
        page[offset : offset + 4] = (value & 0xFFFF_FFFF).to_bytes(4, "little")
    copy_to_user(caller, arg, kvm_lapic_state(bytes(page)))  # EFAULT
    return 0


def set_lapic(vcpu: Vcpu, caller: Task, arg: int) -> int:
    """KVM_SET_LAPIC: registers and the interrupts that wait. Nothing is sent by it, whatever stands in the command register."""
    lapic = vcpu.lapic
    if lapic is None:
        raise KvmError(EINVAL)  # !lapic_in_kernel(vcpu)
    page = copy_from_user(caller, arg, kvm_lapic_state).regs  # EFAULT

    lapic.irr = 0
    for offset in XAPIC_READABLE - {ID, VERSION}:
        value = int.from_bytes(page[offset : offset + 4], "little")
        if IRR <= offset < IRR + 0x80:
            lapic.irr |= value << 2 * (offset - IRR)
        elif value or offset in lapic.registers:
            lapic.registers[offset] = value
    return 0


IOCTLS: dict[int, Row] = {
    KVM_INTERRUPT: Row(interrupt, kvm_interrupt, "checked and forgotten: no handler runs in a guest"),
    KVM_NMI: Row(nmi, None, "it wakes, no handler runs"),
    KVM_GET_LAPIC: Row(get_lapic, kvm_lapic_state, "no timer, no local interrupts, nothing in service"),
    KVM_SET_LAPIC: Row(set_lapic, kvm_lapic_state, "no timer, no local interrupts, nothing in service"),
}
