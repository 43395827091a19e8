"""A VMM's memory, and who is told when it comes and goes.

A RAM block is memory of the process that a guest may ever see. A memory slot shows
it, or a part of it, to the guest at some address; it can be hidden and shown again
while the block stays what it is: a PCI BAR with RAM behind it, the SMRAM of a
chipset. Whoever must know about memory that may hold ciphertext therefore listens
to blocks and not to slots: that was the review's point in 2017, and it is what
QEMU's RAMBlockNotifier does.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import ENOTTY
from typing import TYPE_CHECKING, NamedTuple

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_SET_USER_MEMORY_REGION,
    kvm_enc_region,
    kvm_userspace_memory_region,
)

if TYPE_CHECKING:
    from sevlab.vmm.vm import Slot, Vm


class RamBlock(NamedTuple):
    """`size` bytes of the process's memory at `hva`; `fd` is the memfd behind them, or -1."""

    hva: int
    size: int
    fd: int = -1


Listener = Callable[["Vm", RamBlock, bool], None]  # (vm, block, whether it came or goes)


def register(vm: Vm, block: RamBlock, came: bool) -> None:
    """Tell the kernel that a block may hold ciphertext, or no longer does: the listener that every SEV guest needs.

    A kernel that pins by itself has no such ioctl (ENOTTY); then there is nothing to tell.
    """
    nr = KVM_MEMORY_ENCRYPT_REG_REGION if came else KVM_MEMORY_ENCRYPT_UNREG_REGION
    try:
        vm.ioctl(nr, kvm_enc_region(addr=block.hva, size=block.size), step="MEMORY_ENCRYPT_REG_REGION" if came else "UNREG_REGION")
    except OSError as error:
        if error.errno != ENOTTY:
            raise


def add_block(vm: Vm, size: int) -> RamBlock:
    """Map `size` bytes for the guest to come, a memfd where the VM's memory is `shared`."""
    fd = vm.process.memfd(size) if vm.shared else -1
    return RamBlock(vm.process.mmap(size, fd=fd), size, fd)


def tell(vm: Vm, block: RamBlock, came: bool) -> None:
    """Let the VM's listeners know of a block."""
    for listener in vm.ram_listeners:
        listener(vm, block, came)


def drop_block(vm: Vm, block: RamBlock) -> None:
    """Unmap a block that no slot shows any more; the listeners are told before it goes."""
    tell(vm, block, False)
    vm.process.munmap(block.hva, block.size)
    if block.fd >= 0:
        vm.process.close(block.fd)


def show(vm: Vm, block: RamBlock, gpa: int) -> Slot:
    """Let the guest see a block at `gpa`: a memory slot, with the lowest number that is free. Raises OSError as the ioctl does."""
    from sevlab.vmm.vm import Slot

    taken = {slot.number for slot in vm.slots}
    number = next(i for i in range(len(taken) + 1) if i not in taken)
    slot = Slot(gpa, block.size, block.hva, block.fd, number)
    vm.ioctl(
        KVM_SET_USER_MEMORY_REGION,
        kvm_userspace_memory_region(slot=number, guest_phys_addr=gpa, memory_size=block.size, userspace_addr=block.hva),
        step="SET_USER_MEMORY_REGION",
    )
    vm.slots.append(slot)
    return slot


def hide(vm: Vm, slot: Slot) -> RamBlock:
    """Take a slot away from the guest. The memory behind it stays mapped in the process: the block, to be shown again."""
    vm.ioctl(KVM_SET_USER_MEMORY_REGION, kvm_userspace_memory_region(slot=slot.number), step="SET_USER_MEMORY_REGION")
    vm.slots.remove(slot)
    return RamBlock(slot.hva, slot.size, slot.fd)
