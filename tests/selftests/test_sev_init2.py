"""The kernel's sev_init2_tests, one function a case, from its description in prose (kvm.md H3): they pass on 6.12.

An older kernel fails the first thing that they ask for: /dev/kvm has no attribute of the SEV group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EINVAL, ENXIO

import pytest
from selftests.machine import Emulated
from selftests.sev import bare_vm, einval, must_fail, raw_sev_ioctl, sev_ioctl

from sevlab.abi.kvm import (
    KVM_CAP_VM_TYPES,
    KVM_CHECK_EXTENSION,
    KVM_GET_DEVICE_ATTR,
    KVM_GET_SUPPORTED_CPUID,
    KVM_HAS_DEVICE_ATTR,
    KVM_SEV_INIT2,
    KVM_SEV_VMSA_DEBUG_SWAP,
    KVM_X86_DEFAULT_VM,
    KVM_X86_GRP_SEV,
    KVM_X86_SEV_ES_VM,
    KVM_X86_SEV_VM,
    KVM_X86_SEV_VMSA_FEATURES,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_device_attr,
    kvm_sev_init,
)
from sevlab.hw import chips
from sevlab.kvm import designs

Make = Callable[..., Emulated]
SW_PROTECTED = 1
SWAPPING = replace(chips.MILAN, name="milan with debug swap", features=chips.MILAN.features | chips.DEBUG_SWAP)


@pytest.fixture(params=[chips.ROME, chips.MILAN, SWAPPING], ids=lambda chip: chip.name)
def machine(request: pytest.FixtureRequest, make_machine: Make) -> Emulated:
    return make_machine(designs.LINUX_6_12, request.param)


def features(machine: Emulated) -> int:
    """The VMSA features that INIT2 takes, as /dev/kvm says."""
    at = machine.put(bytes(8))
    attr = kvm_device_attr(group=KVM_X86_GRP_SEV, attr=KVM_X86_SEV_VMSA_FEATURES, addr=at)
    kvm = machine.open("/dev/kvm")
    assert machine.ioctl(kvm, KVM_HAS_DEVICE_ATTR, attr) == 0
    machine.ioctl(kvm, KVM_GET_DEVICE_ATTR, attr)
    return int.from_bytes(machine.read(at, 8), "little")


def cpuid(machine: Emulated) -> int:
    """EAX of leaf 8000_001F, as the kernel offers it."""
    at = machine.put(kvm_cpuid2(nent=64).pack() + bytes(64 * kvm_cpuid_entry2.SIZE))
    machine.ioctl(machine.open("/dev/kvm"), KVM_GET_SUPPORTED_CPUID, at)
    count = machine.get(at, kvm_cpuid2).nent
    leaves = [machine.get(at + kvm_cpuid2.SIZE + index * kvm_cpuid_entry2.SIZE, kvm_cpuid_entry2) for index in range(count)]
    return next(leaf.eax for leaf in leaves if leaf.function == 0x8000001F)


def init2(machine: Emulated, kind: int, **fields: int) -> None:
    vm = bare_vm(machine, kind)
    sev_ioctl(machine, vm, KVM_SEV_INIT2, kvm_sev_init(**fields))
    machine.close(vm)


def init2_invalid(machine: Emulated, kind: int, **fields: int) -> None:
    vm = bare_vm(machine, kind)
    einval(raw_sev_ioctl, machine, vm, KVM_SEV_INIT2, kvm_sev_init(**fields))
    machine.close(vm)


def test_the_types_are_what_the_processor_has(machine: Emulated) -> None:
    types, eax = machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES), cpuid(machine)
    assert bool(types >> KVM_X86_SEV_VM & 1) == bool(eax & chips.SEV)
    assert bool(types >> KVM_X86_SEV_ES_VM & 1) == bool(eax & chips.SEV_ES)


def test_vm_types(machine: Emulated) -> None:
    init2(machine, KVM_X86_SEV_VM)
    init2(machine, KVM_X86_SEV_ES_VM)
    init2_invalid(machine, KVM_X86_DEFAULT_VM)
    if machine.ioctl(machine.open("/dev/kvm"), KVM_CHECK_EXTENSION, KVM_CAP_VM_TYPES) >> SW_PROTECTED & 1:
        init2_invalid(machine, SW_PROTECTED)
    else:
        einval(bare_vm, machine, SW_PROTECTED)


@pytest.mark.parametrize("kind", [KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM], ids=["SEV", "SEV-ES"])
def test_flags(machine: Emulated, kind: int) -> None:
    for bit in range(32):
        init2_invalid(machine, kind, flags=1 << bit)


@pytest.mark.parametrize("kind", [KVM_X86_SEV_VM, KVM_X86_SEV_ES_VM], ids=["SEV", "SEV-ES"])
def test_features(machine: Emulated, kind: int) -> None:
    supported = features(machine) if kind == KVM_X86_SEV_ES_VM else 0
    for bit in range(64):
        if not supported & 1 << bit:
            init2_invalid(machine, kind, vmsa_features=1 << bit)
        elif 1 << bit == KVM_SEV_VMSA_DEBUG_SWAP:
            init2(machine, kind, vmsa_features=1 << bit)


def test_a_chip_with_debug_swap_offers_it_and_others_do_not(make_machine: Make) -> None:
    assert features(make_machine(designs.LINUX_6_12, SWAPPING)) == KVM_SEV_VMSA_DEBUG_SWAP == 32
    assert features(make_machine(designs.LINUX_6_12, chips.ROME)) == 0


@pytest.mark.parametrize("name, code", [("posted", EINVAL), ("linux-5.13", EINVAL), ("linux-6.1", ENXIO)])
def test_an_older_kernel_fails_the_first_requirement(make_machine: Make, name: str, code: int) -> None:
    machine = make_machine(designs.by_name(name))
    attr = kvm_device_attr(group=KVM_X86_GRP_SEV, attr=KVM_X86_SEV_VMSA_FEATURES, addr=machine.put(bytes(8)))
    must_fail(code, machine.ioctl, machine.open("/dev/kvm"), KVM_HAS_DEVICE_ATTR, attr)
    einval(bare_vm, machine, KVM_X86_SEV_VM)


def test_an_attribute_that_is_none_is_enxio(machine: Emulated) -> None:
    kvm = machine.open("/dev/kvm")
    for group, attr, flags in ((KVM_X86_GRP_SEV, 77, 0), (9, 0, 0), (KVM_X86_GRP_SEV, KVM_X86_SEV_VMSA_FEATURES, 1)):
        must_fail(ENXIO, machine.ioctl, kvm, KVM_HAS_DEVICE_ATTR, kvm_device_attr(flags=flags, group=group, attr=attr))
