"""What it costs to move a guest to another VM: the same for 16 GiB as for 16 MiB, because no page is touched."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from harness import Figure, pair

from sevlab import Host
from sevlab.abi.kvm import (
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SEV_INIT,
    kvm_enable_cap,
    kvm_enc_region,
    kvm_sev_cmd,
    kvm_userspace_memory_region,
)


def mover(size: int) -> Callable[[], Any]:
    """A call that moves a guest with `size` bytes of registered memory to a fresh VM, and closes the dead one."""
    host = Host(seed=1, memory=32 << 30)
    host.trace.on = False
    process = host.process("qemu", memlock=32 << 30)
    kvm = process.open("/dev/kvm")
    vm, hva = process.ioctl(kvm, KVM_CREATE_VM), process.mmap(size)
    process.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT))
    process.ioctl(vm, KVM_SET_USER_MEMORY_REGION, kvm_userspace_memory_region(0, 0, 0, size, hva))
    process.ioctl(vm, KVM_MEMORY_ENCRYPT_REG_REGION, kvm_enc_region(hva, size))
    pinned = host.pages.pinned()
    if pinned != size >> 12:
        raise AssertionError(f"{pinned} pages are pinned, not {size >> 12}")
    at = [vm]

    def move() -> None:
        fresh = process.ioctl(kvm, KVM_CREATE_VM)
        process.ioctl(fresh, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(at[0], 0, 0, 0)))
        process.close(at[0])
        at[0] = fresh

    return move


def figures() -> Iterator[Figure]:
    yield pair("a move of 16 GiB / a move of 16 MiB", 1.2, mover(16 << 30), mover(16 << 20))
