"""A guest with a program in it, for the tests of a vCPU: 256 KiB of memory at gpa 0, one page at the reset vector."""

from __future__ import annotations

from typing import Any

from sev_rig import Rig

from sevlab.abi.kvm import (
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_RUN,
    KVM_RUN_UNION,
    KVM_SET_CPUID2,
    KVM_SET_MP_STATE,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_mp_state,
    kvm_regs,
    kvm_run,
    kvm_sregs,
)
from sevlab.hw.program import Program
from sevlab.kvm.vcpu import Vcpu

MEMORY = 0x4_0000
TOP = 0xFFFF_F000
PAGE = 0x1000


class Guest:
    """A VM of a rig (`kind` plain, sev or es) that runs `program` on one vCPU or more. What it stores in clear, `read` shows."""

    def __init__(
        self, rig: Rig, program: Program, *args: Any, kind: str = "plain", vcpus: int = 1, irqchip: bool = False, seal: bool = True
    ) -> None:
        self.rig, self.qemu = rig, rig.qemu
        self.vm = rig.vm() if kind == "plain" else rig.started(policy=4 if kind == "es" else 0)
        if irqchip:
            self.qemu.ioctl(self.vm, 0xAE60)
        self.memory, self.top = rig.memory(MEMORY), rig.memory(rig.soc.programs.add(program, args=args))
        rig.slot(self.vm, self.memory, MEMORY)
        rig.slot(self.vm, self.top, PAGE, gpa=TOP, slot=1)
        self.fds = [rig.vcpu(self.vm, number) for number in range(vcpus)]
        size = self.qemu.ioctl(rig.kvm, KVM_GET_VCPU_MMAP_SIZE)
        self.pages = [self.qemu.mmap(size, fd=fd) for fd in self.fds]
        if kind != "plain":
            rig.register(self.vm, self.memory, MEMORY)
            rig.register(self.vm, self.top, PAGE)
            rig.update(self.vm, self.top, PAGE)
        if kind == "es" and seal:
            rig.op(self.vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    def vcpu(self, number: int = 0) -> Vcpu:
        """The kernel's own object, which no VMM sees."""
        return self.rig.file(self.vm).vcpus[number]

    def ioctl(self, nr: int, arg: Any = 0, number: int = 0) -> int:
        return self.qemu.ioctl(self.fds[number], nr, arg)

    def run(self, number: int = 0) -> int:
        """KVM_RUN, and the exit reason it left."""
        self.ioctl(KVM_RUN, 0, number)
        return self.reason(number)

    def reason(self, number: int = 0) -> int:
        return self.qemu.get(self.pages[number], kvm_run).exit_reason

    def detail(self, kind: Any, number: int = 0) -> Any:
        """kvm_run's union, seen as `kind`."""
        return self.qemu.get(self.pages[number] + KVM_RUN_UNION, kind)

    def immediate_exit(self, on: bool) -> None:
        self.qemu.write(self.pages[0] + 1, bytes([on]))

    def read(self, gpa: int, n: int) -> bytes:
        return self.qemu.read(self.memory + gpa, n)

    def regs(self, number: int = 0) -> kvm_regs:
        regs = kvm_regs()
        self.ioctl(KVM_GET_REGS, regs, number)
        return regs

    def sregs(self, number: int = 0) -> kvm_sregs:
        sregs = kvm_sregs()
        self.ioctl(KVM_GET_SREGS, sregs, number)
        return sregs

    def mp_state(self, number: int = 0) -> int:
        state = kvm_mp_state()
        self.ioctl(KVM_GET_MP_STATE, state, number)
        return state.mp_state

    def set_mp_state(self, state: int, number: int = 0) -> None:
        self.ioctl(KVM_SET_MP_STATE, kvm_mp_state(state), number)

    def set_cpuid(self, *entries: kvm_cpuid_entry2, number: int = 0) -> None:
        body = b"".join(entry.pack() for entry in entries)
        self.ioctl(KVM_SET_CPUID2, self.qemu.put(kvm_cpuid2(len(entries)).pack() + body), number)
