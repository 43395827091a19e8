"""The kernel's sev_smoke_test, its SEV guest (case a of kvm.md H2), from its description in prose: it passes on 6.12.

No machine code runs here: the guest is a program of ours that makes the same checks and ends in the same exit.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from selftests.machine import Emulated
from selftests.sev import LAUNCHING, RUNNING, SECRET, sev2_vm_create, sev_ioctl, status

from sevlab.abi.kvm import (
    KVM_CREATE_VCPU,
    KVM_EXIT_IO,
    KVM_EXIT_SHUTDOWN,
    KVM_GET_SUPPORTED_CPUID,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_RUN,
    KVM_RUN_UNION,
    KVM_SET_CPUID2,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_X86_SEV_VM,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_enc_region,
    kvm_run,
    kvm_run_io,
    kvm_sev_launch_measure,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
    kvm_userspace_memory_region,
)
from sevlab.hw.isa import cpuid, hlt, out, program, rdmsr
from sevlab.kvm import designs

Make = Callable[..., Emulated]
PAGE, TOP = 4096, 0xFFFF_F000
UCALL_PORT = 0x4
DONE, FAILED = b"\x01", b"\xff"
CPU_SEV, MSR_SEV, MSR_SEV_STATUS = 1 << 1, 1 << 0, 0xC001_0131


@program
async def guest_sev_code() -> None:
    """Am I what I was told to be? Then DONE."""
    features, _, _, _ = await cpuid(0x8000001F)
    active = await rdmsr(MSR_SEV_STATUS)
    good = features & CPU_SEV and active & MSR_SEV
    await out(UCALL_PORT, DONE if good else FAILED)
    while True:
        await hlt()


@program
async def intruder() -> None:
    while True:
        await hlt()


class Smoke:
    """A VM with one vCPU, its guest code in private memory, launched with this policy."""

    def __init__(self, machine: Emulated, policy: int) -> None:
        self.machine = machine
        self.vm = sev2_vm_create(machine, KVM_X86_SEV_VM)
        self.code = machine.mmap(PAGE)
        machine.write(self.code, machine.rig.soc.programs.add(guest_sev_code))
        machine.ioctl(self.vm, KVM_SET_USER_MEMORY_REGION, kvm_userspace_memory_region(0, 0, TOP, PAGE, self.code))
        self.vcpu = machine.ioctl(self.vm, KVM_CREATE_VCPU, 0)
        self.run_page = machine.mmap(0x3000, self.vcpu)
        leaves = machine.put(kvm_cpuid2(nent=64).pack() + bytes(64 * kvm_cpuid_entry2.SIZE))
        machine.ioctl(machine.open("/dev/kvm"), KVM_GET_SUPPORTED_CPUID, leaves)
        machine.ioctl(self.vcpu, KVM_SET_CPUID2, leaves)
        self.launch(policy)

    def launch(self, policy: int) -> None:
        machine, vm = self.machine, self.vm
        sev_ioctl(machine, vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(policy=policy))
        assert (status(machine, vm).policy, status(machine, vm).state) == (policy, LAUNCHING)
        machine.ioctl(vm, KVM_MEMORY_ENCRYPT_REG_REGION, kvm_enc_region(self.code, PAGE))
        sev_ioctl(machine, vm, KVM_SEV_LAUNCH_UPDATE_DATA, kvm_sev_launch_update_data(self.code, PAGE))
        sev_ioctl(machine, vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(machine.put(bytes(256)), 256))
        assert status(machine, vm).state == SECRET
        sev_ioctl(machine, vm, KVM_SEV_LAUNCH_FINISH)
        assert status(machine, vm).state == RUNNING

    def run(self) -> int:
        self.machine.ioctl(self.vcpu, KVM_RUN)
        return int(self.machine.get(self.run_page, kvm_run).exit_reason)

    def ucall(self) -> bytes:
        io = self.machine.get(self.run_page + KVM_RUN_UNION, kvm_run_io)
        assert io.port == UCALL_PORT
        return self.machine.read(self.run_page + io.data_offset, io.size)


@pytest.mark.parametrize("policy", [1, 0], ids=["NODBG", "0"])
def test_an_sev_guest_knows_that_it_is_one_and_is_done(make_machine: Make, policy: int) -> None:
    smoke = Smoke(make_machine(designs.LINUX_6_12), policy)
    assert smoke.run() == KVM_EXIT_IO
    assert smoke.ucall() == DONE


def test_an_intruder_in_the_same_place_is_no_program_to_it(make_machine: Make) -> None:
    """The host's own bytes over the guest's code: every fetch is private, so there is nothing to run."""
    machine = make_machine(designs.LINUX_6_12)
    smoke = Smoke(machine, 1)
    machine.write(smoke.code, machine.rig.soc.programs.add(intruder))
    assert smoke.run() == KVM_EXIT_SHUTDOWN


@pytest.mark.parametrize("name", ["posted", "linux-5.13", "linux-6.1"])
def test_an_older_kernel_has_no_such_vm(make_machine: Make, name: str) -> None:
    with pytest.raises(OSError):
        Smoke(make_machine(designs.by_name(name)), 1)
