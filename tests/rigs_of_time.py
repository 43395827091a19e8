"""Machines with a history, for the tests of the journal, of time travel and of the explorer."""

from __future__ import annotations

from typing import Any

from sevlab.abi.kvm import KVM_CREATE_VM, KVM_ENABLE_CAP, KVM_MEMORY_ENCRYPT_OP, KVM_SEV_INIT, kvm_enable_cap, kvm_sev_cmd
from sevlab.host import Host
from sevlab.kvm.process import Process

MEMORY = 64 << 20
MOVE = 206  # KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM


def host(**settings: Any) -> Host:
    """A small machine."""
    return Host(**({"seed": 7, "memory": MEMORY} | settings))


def bytes_of(one: Host) -> bytes:
    """All of memory that was ever in use, as the bus carries it."""
    return one.dram.read(0, one.kernel.frames.fresh << 12)


def state_of(one: Host) -> dict[str, Any]:
    """What two machines that are the same have in common: bytes, rows, key slots, pages, processes and log."""
    return {
        "bytes": bytes_of(one),
        "rows": one.trace.rows(),
        "now": one.trace.now,
        "slots": {slot: one.soc.engine.has(slot) for slot in range(1, one.chip.max_asid + 1)},
        "guests": {handle: guest.asid for handle, guest in one.psp.guests.items()},
        "pages": one.pages.runs(0, one.kernel.frames.fresh),
        "processes": {name: (process.pid, sorted(process.task.fds)) for name, process in one.processes.items()},
        "cgroups": repr(one.kernel.root_cgroup),
        "dmesg": list(one.dmesg),
        "n": one.n,
    }


def vms(process: Process, count: int, encrypted: int) -> list[int]:
    """So many VMs of a process, the first `encrypted` of them initialised for SEV: their descriptors."""
    kvm, sev = process.open("/dev/kvm"), process.open("/dev/sev")
    fds = [process.ioctl(kvm, KVM_CREATE_VM, 0) for _ in range(count)]
    for fd in fds[:encrypted]:
        process.ioctl(fd, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT, sev_fd=sev))
    return fds


def begin_move(process: Process, to: int, of: int) -> Any:
    """The call that moves the context of VM `of` to VM `to`, begun."""
    return process.begin(to, KVM_ENABLE_CAP, kvm_enable_cap(cap=MOVE, args=(of, 0, 0, 0)))
