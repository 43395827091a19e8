"""Guests for the tests of mirrors and moves: who keeps a secret, who looks for it, who counts."""

from __future__ import annotations

from typing import Any

from kvm.guests import MEMORY, PAGE, TOP, Guest
from sev_rig import Rig

from sevlab.abi.kvm import KVM_GET_REGS, KVM_GET_SREGS, KVM_RUN, KVM_SET_REGS, KVM_SET_SREGS, kvm_regs, kvm_run, kvm_sregs
from sevlab.hw.isa import checkpoint, hlt, load, program, store
from sevlab.kvm.process import Process

PRIVATE, SHARED = 0x1000, 0x2000
HELPER = TOP - PAGE  # where the program lies that a mirror begins with
SECRET = b"my diary, page 1"


@program
async def keeper() -> None:
    """Keep a secret, and wait."""
    await store(PRIVATE, SECRET, c=True)
    while True:
        await hlt()


@program
async def reader() -> None:
    """Read the private page through the key that one has, and say aloud what was there."""
    while True:
        await store(SHARED, await load(PRIVATE, 16, c=True), c=False)
        await hlt()


@program
async def counter(n: int = 0) -> None:
    """Count, once for each time it is woken: privately, and a copy for everybody."""
    await store(PRIVATE, n.to_bytes(8, "little"), c=True)
    await store(SHARED, n.to_bytes(8, "little"), c=False)
    await hlt()
    await checkpoint(n + 1)


@program
async def spinner() -> None:
    """Never leave."""
    while True:
        await load(PRIVATE, 8, c=True)


class Primary(Guest):
    """A guest whose launch image holds a second program, at HELPER, for whoever gets its key."""

    def __init__(self, rig: Rig, program: Any = keeper, helper: Any = reader, kind: str = "sev", **named: Any) -> None:
        super().__init__(rig, program, kind=kind, **named)
        self.helper = rig.memory(rig.soc.programs.add(helper))
        rig.slot(self.vm, self.helper, PAGE, gpa=HELPER, slot=2)
        if kind != "plain":
            rig.update(self.vm, self.helper, PAGE)


class Other:
    """A VM that lies over the memory of a primary, with `vcpus` vCPUs that begin at HELPER; `vm` where there is one already."""

    def __init__(self, rig: Rig, primary: Primary, vm: int | None = None) -> None:
        self.rig, self.qemu, self.primary = rig, rig.qemu, primary
        self.vm = rig.vm() if vm is None else vm

    def see_memory(self) -> None:
        """Memory slots as the primary has them."""
        self.rig.slot(self.vm, self.primary.memory, MEMORY)
        self.rig.slot(self.vm, self.primary.top, PAGE, gpa=TOP, slot=1)
        self.rig.slot(self.vm, self.primary.helper, PAGE, gpa=HELPER, slot=2)

    def add_vcpu(self, start: int = HELPER) -> int:
        self.fd = self.rig.vcpu(self.vm)
        self.page = self.qemu.mmap(0x3000, fd=self.fd)
        sregs, regs = kvm_sregs(), kvm_regs()
        self.qemu.ioctl(self.fd, KVM_GET_SREGS, sregs)
        self.qemu.ioctl(self.fd, KVM_GET_REGS, regs)
        sregs.cs.selector, sregs.cs.base, regs.rip = 0, 0, start
        self.qemu.ioctl(self.fd, KVM_SET_SREGS, sregs)
        self.qemu.ioctl(self.fd, KVM_SET_REGS, regs)
        return self.fd

    def run(self) -> int:
        self.qemu.ioctl(self.fd, KVM_RUN)
        return self.qemu.get(self.page, kvm_run).exit_reason

    def said(self) -> bytes:
        """What a reader has left in the shared page."""
        return self.primary.read(SHARED, 16)


def second_process(rig: Rig, name: str = "qemu-2", cgroup: str = "/", memlock: int = 16 << 20) -> Process:
    """Another VMM on the same host."""
    return rig.kernel.process(name, cgroup=cgroup, memlock=memlock)
