"""A mirror: a second VM with the key of the first, and everything else of its own.

    helper = vmm.mirror(vm, start=0x8000)         # a program that was measured with the guest lies there
    helper.run()

The kernel copies the key slot and nothing else; memory slots and vCPUs are the
mirror's, and it is user space that makes them alike (kvm.md E).
"""

from __future__ import annotations

from sevlab.abi import boot
from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enable_cap,
    kvm_userspace_memory_region,
)
from sevlab.given import checked, number
from sevlab.kvm.process import Process
from sevlab.vmm import steps
from sevlab.vmm.vm import Slot, Vm


@checked
def mirror(vm: Vm, process: Process | None = None, *, vcpus: int = 1, start: int | None = None) -> Vm:
    """Make a mirror of `vm`, with the same memory slots and `vcpus` vCPUs of its own; the owner goes on as before.

    `process` makes and runs it, the owner's own without one; in another, the
    guest's memory must have been launched with `shared=True`. vCPU 0 begins at
    the page at gpa `start` (the reset vector without one). vCPUs of an SEV-ES
    mirror are measured with the guest, so it must be made before the guest is.
    With no vCPUs the mirror shares the key, and runs nothing.

    Raises OSError as the kernel and the firmware refuse, ValueError for memory
    that the other process cannot have or a number that cannot be, TypeError for
    what is no such thing. After any, what was made here is gone.
    """
    number("vcpus", vcpus, 0 if start is None else 1)
    if start is not None and start % boot.PAGE:
        raise ValueError(f"start is the address of a page, a multiple of {boot.PAGE:#x}, not {start:#x}")
    process = vm.process if process is None else process
    made = bare(vm, process)
    try:
        enable(made, vm, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM)
        share_memory(made, vm)
        steps.add_vcpus(made, vcpus)
        steps.reset_vcpus(made)
        if start is not None:
            begin_at(made, start)
        if vm.es:
            made.sev_op(KVM_SEV_LAUNCH_UPDATE_VMSA)
    except BaseException:
        made.close()
        raise
    return made


def bare(vm: Vm, process: Process) -> Vm:
    """An ordinary VM of the same type as `vm`, with nothing in it: what a mirror or a destination begins as."""
    kvm, sev = process.open("/dev/kvm"), process.open("/dev/sev", "r+")
    try:
        made = Vm(process, kvm, sev, process.ioctl(kvm, KVM_CREATE_VM, vm.vm_type), es=vm.es)
    except OSError:
        process.close(sev)
        process.close(kvm)
        raise
    made.vm_type, made.firmware, made.handle, made.policy = vm.vm_type, vm.firmware, vm.handle, vm.policy
    made.measurement = vm.measurement
    return made


def enable(made: Vm, source: Vm, cap: int) -> None:
    """COPY or MOVE from `source`: its descriptor goes to the other process, and is closed there afterwards."""
    fd = source.fd if made.process is source.process else source.process.send_fd(source.fd, made.process)
    step = "COPY_ENC_CONTEXT_FROM" if cap == KVM_CAP_VM_COPY_ENC_CONTEXT_FROM else "MOVE_ENC_CONTEXT_FROM"
    try:
        made.ioctl(KVM_ENABLE_CAP, kvm_enable_cap(cap, args=(fd, 0, 0, 0)), step=step)
    finally:
        if fd != source.fd or made.process is not source.process:
            made.process.close(fd)


def share_memory(made: Vm, source: Vm) -> None:
    """The same memory slots over the same memory: in one process its own, in another what both map.

    Raises ValueError for memory that no other process can map.
    """
    for at, slot in enumerate(source.slots):
        hva, fd = slot.hva, -1
        if made.process is not source.process:
            if slot.fd < 0:
                raise ValueError(
                    f"the guest's memory at {slot.gpa:#x} is private to {source.process.name}; launch it with shared=True"
                )
            fd = source.process.send_fd(slot.fd, made.process)
            hva = made.process.mmap(slot.size, fd=fd)
        made.slots.append(Slot(slot.gpa, slot.size, hva, fd, at))
        region = kvm_userspace_memory_region(slot=at, guest_phys_addr=slot.gpa, memory_size=slot.size, userspace_addr=hva)
        made.ioctl(KVM_SET_USER_MEMORY_REGION, region, step="SET_USER_MEMORY_REGION")
    made.borrowed = made.process is source.process


def begin_at(vm: Vm, gpa: int) -> None:
    """Let vCPU 0 begin at the page at `gpa`."""
    vcpu = vm.vcpus[0]
    regs, sregs = vcpu.registers()
    sregs.cs.selector, sregs.cs.base, regs.rip = 0, 0, gpa
    vcpu.set_registers(regs, sregs)
