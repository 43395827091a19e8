"""/dev/kvm: what a kernel says of itself, and that it says no more than it has."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import E2BIG, EFAULT, EINVAL, ENXIO
from functools import cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import Rig, refuses

from sevlab.abi import kvm as abi
from sevlab.abi.kvm import (
    KVM_CAP_EXIT_HYPERCALL,
    KVM_CAP_IMMEDIATE_EXIT,
    KVM_CAP_MP_STATE,
    KVM_CAP_SYS_ATTRIBUTES,
    KVM_CAP_SYSTEM_EVENT_DATA,
    KVM_CAP_VM_TYPES,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VM,
    KVM_GET_API_VERSION,
    KVM_GET_DEVICE_ATTR,
    KVM_GET_SUPPORTED_CPUID,
    KVM_GET_VCPU_MMAP_SIZE,
    KVM_HAS_DEVICE_ATTR,
    KVM_X86_GRP_SEV,
    KVM_X86_SEV_VMSA_FEATURES,
    kvm_cpuid2,
    kvm_cpuid_entry2,
    kvm_device_attr,
)
from sevlab.hw.chips import COHERENT, NAPLES, PAGE_FLUSH, ROME, SEV, SEV_ES, SME
from sevlab.kvm import designs
from sevlab.kvm.system import EXTENSIONS, IOCTLS

NOWHERE = 0x6660_0000
EVERY = pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda d: d.name)


@cache
def shared() -> Rig:
    """One machine, for laws that change nothing in it."""
    return Rig()


@given(st.integers(0, 0xFFFFFFFF).filter(lambda nr: nr not in IOCTLS))
def test_a_number_that_dev_kvm_does_not_know_is_einval(nr: int) -> None:
    with refuses(EINVAL):
        shared().qemu.ioctl(shared().kvm, nr, NOWHERE)


@pytest.mark.parametrize("nr, answer", [(KVM_GET_API_VERSION, 12), (KVM_GET_VCPU_MMAP_SIZE, 12288)], ids=["version", "mmap size"])
def test_two_questions_take_no_argument(rig: Rig, nr: int, answer: int) -> None:
    assert rig.qemu.ioctl(rig.kvm, nr) == answer

    with refuses(EINVAL):
        rig.qemu.ioctl(rig.kvm, nr, 1)


# ------------------------------------------------------------------ capabilities


def check(rig: Rig, cap: int) -> int:
    return rig.qemu.ioctl(rig.kvm, KVM_CHECK_EXTENSION, cap)


@pytest.mark.parametrize(
    "cap, answers",
    [
        (KVM_CAP_MP_STATE, (1, 1, 1)),
        (KVM_CAP_IMMEDIATE_EXIT, (1, 1, 1)),
        (KVM_CAP_EXIT_HYPERCALL, (0, 1 << 12, 1 << 12)),
        (KVM_CAP_SYS_ATTRIBUTES, (0, 1, 1)),
        (KVM_CAP_SYSTEM_EVENT_DATA, (0, 1, 1)),
        (KVM_CAP_VM_TYPES, (0, 0, 0b1101)),
        (0xFFFF, (0, 0, 0)),
    ],
)
def test_what_each_kernel_answers(make_rig: Callable[..., Rig], cap: int, answers: tuple[int, ...]) -> None:
    kernels = (designs.LINUX_5_13, designs.LINUX_6_1, designs.LINUX_6_12)

    assert tuple(check(make_rig(design), cap) for design in kernels) == answers


@EVERY
def test_a_vm_answers_as_dev_kvm_does(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)
    vm = rig.vm()

    for cap in range(240):
        assert rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, cap) == check(rig, cap)


@given(st.integers(0, 1 << 64))
def test_an_unknown_capability_is_0_and_no_error(cap: int) -> None:
    known = {*EXTENSIONS, 197, 206}

    assert cap in known or check(shared(), cap & (1 << 64) - 1) == 0 or cap == 1 << 64


def test_the_types_of_vm_are_those_of_the_chip(make_rig: Callable[..., Rig]) -> None:
    for chip, types in (("milan", 0b1101), (replace(ROME, min_asid=1), 0b0101), (replace(ROME, min_asid=510), 0b1001)):
        assert check(make_rig(designs.LINUX_6_12, chip), KVM_CAP_VM_TYPES) == types


def test_every_ioctl_of_the_tables_has_the_size_that_its_number_says() -> None:
    from sevlab.kvm import vm

    for number, row in {**IOCTLS, **vm.IOCTLS}.items():
        if row.arg and number != abi.KVM_MEMORY_ENCRYPT_OP:  # whose number is off by history
            assert number >> 16 & 0x3FFF == row.arg.SIZE


# ------------------------------------------------------------------ new VMs


@pytest.mark.parametrize("design, types", [(designs.LINUX_6_1, {0}), (designs.LINUX_6_12, {0, 2, 3})], ids=["6.1", "6.12"])
def test_a_vm_is_made_of_the_types_that_are_offered(make_rig: Callable[..., Rig], design: designs.Design, types: set[int]) -> None:
    rig = make_rig(design)
    for vm_type in range(8):
        if vm_type in types:
            assert rig.file(rig.vm(vm_type)).vm_type == vm_type
        else:
            with refuses(EINVAL):
                rig.vm(vm_type)


def test_vms_are_numbered_from_one_and_no_number_comes_twice(rig: Rig) -> None:
    one = rig.vm()
    rig.qemu.close(one)

    assert rig.file(rig.vm()).number == 2
    assert list(rig.kernel.vms) == [2]


# ------------------------------------------------------------------ CPUID


def cpuid(rig: Rig, nent: int = 100) -> dict[int, kvm_cpuid_entry2]:
    hva = rig.qemu.put(kvm_cpuid2(nent).pack() + bytes(nent * kvm_cpuid_entry2.SIZE))
    rig.qemu.ioctl(rig.kvm, KVM_GET_SUPPORTED_CPUID, hva)
    count = rig.qemu.get(hva, kvm_cpuid2).nent
    entries = [rig.qemu.get(hva + kvm_cpuid2.SIZE + i * kvm_cpuid_entry2.SIZE, kvm_cpuid_entry2) for i in range(count)]
    return {entry.function: entry for entry in entries}


@pytest.mark.parametrize("chip, more", [("naples", 0), ("rome", 0), ("milan", COHERENT)])
def test_leaf_8000_001f_is_cut_to_what_kvm_passes_on(make_rig: Callable[..., Rig], chip: str, more: int) -> None:
    rig = make_rig(chip=chip)
    leaf, row = cpuid(rig)[0x8000001F], rig.soc.chip

    assert leaf.eax == SME | SEV | SEV_ES | more
    assert row.features & PAGE_FLUSH and not leaf.eax & PAGE_FLUSH
    assert (leaf.ebx, leaf.ecx, leaf.edx) == (row.c_bit, row.max_asid, row.min_asid)


def test_a_guest_is_told_of_no_mode_that_the_machine_cannot_do(make_rig: Callable[..., Rig]) -> None:
    assert not cpuid(make_rig(chip=replace(ROME, min_asid=1)))[0x8000001F].eax & SEV_ES
    assert not cpuid(make_rig(chip=replace(ROME, min_asid=510)))[0x8000001F].eax & SEV
    off = cpuid(make_rig(chip=replace(NAPLES, features=0)))[0x8000001F]
    assert (off.eax, off.ebx, off.ecx, off.edx) == (0, 0, 0, 0)


def test_the_processor_is_amds_and_has_its_chips_signature(rig: Rig) -> None:
    leaves = cpuid(rig)

    for leaf in (0, 0x80000000):
        name = b"".join(getattr(leaves[leaf], register).to_bytes(4, "little") for register in ("ebx", "edx", "ecx"))
        assert name == b"AuthenticAMD"
    assert leaves[1].eax == rig.soc.chip.signature
    assert leaves[0x80000000].eax == 0x8000001F


@pytest.mark.parametrize("nent", [0, 1, 3])
def test_too_little_room_is_e2big_and_nothing_is_written(rig: Rig, nent: int) -> None:
    hva = rig.qemu.put(kvm_cpuid2(nent).pack() + b"\xaa" * 256)
    before = rig.qemu.read(hva, 200)

    with refuses(E2BIG):
        rig.qemu.ioctl(rig.kvm, KVM_GET_SUPPORTED_CPUID, hva)
    assert rig.qemu.read(hva, 200) == before


def test_a_count_beyond_all_reason_is_no_error(rig: Rig) -> None:
    hva = rig.qemu.put(kvm_cpuid2(0xFFFFFFFF).pack() + bytes(1024))
    rig.qemu.ioctl(rig.kvm, KVM_GET_SUPPORTED_CPUID, hva)

    assert rig.qemu.get(hva, kvm_cpuid2).nent == 4


def test_cpuid_to_nowhere_is_efault(rig: Rig) -> None:
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.kvm, KVM_GET_SUPPORTED_CPUID, NOWHERE)


# ------------------------------------------------------------------ device attributes


FEATURES: dict[str, Any] = {"group": KVM_X86_GRP_SEV, "attr": KVM_X86_SEV_VMSA_FEATURES}


@pytest.mark.parametrize("chip, features", [("rome", 0), ("milan", 1 << 5)])
def test_the_features_of_a_save_area_are_an_attribute_of_6_10(make_rig: Callable[..., Rig], chip: str, features: int) -> None:
    rig = make_rig(designs.LINUX_6_12, chip)
    room = rig.qemu.put(b"\xaa" * 8)
    assert rig.qemu.ioctl(rig.kvm, KVM_HAS_DEVICE_ATTR, kvm_device_attr(**FEATURES)) == 0
    rig.qemu.ioctl(rig.kvm, KVM_GET_DEVICE_ATTR, kvm_device_attr(addr=room, **FEATURES))

    assert int.from_bytes(rig.qemu.read(room, 8), "little") == features


@pytest.mark.parametrize(
    "attr",
    [kvm_device_attr(0, 1, 1), kvm_device_attr(0, 2), kvm_device_attr(1, **FEATURES), kvm_device_attr(0, 0, 1)],
    ids=["attr", "group", "flags", "group 0"],
)
@pytest.mark.parametrize("nr", [KVM_HAS_DEVICE_ATTR, KVM_GET_DEVICE_ATTR], ids=["has", "get"])
def test_an_attribute_that_is_not_there_is_enxio(make_rig: Callable[..., Rig], nr: int, attr: kvm_device_attr) -> None:
    rig = make_rig(designs.LINUX_6_12)

    with refuses(ENXIO):
        rig.qemu.ioctl(rig.kvm, nr, attr)


def test_6_1_has_attributes_but_none_of_sev_and_5_13_has_no_such_ioctl(make_rig: Callable[..., Rig]) -> None:
    for design, code in ((designs.LINUX_6_1, ENXIO), (designs.LINUX_5_13, EINVAL)):
        rig = make_rig(design)
        with refuses(code):
            rig.qemu.ioctl(rig.kvm, KVM_HAS_DEVICE_ATTR, kvm_device_attr(**FEATURES))
    with refuses(EINVAL):
        rig.qemu.ioctl(rig.kvm, KVM_GET_DEVICE_ATTR, NOWHERE)


def test_an_attribute_to_nowhere_is_efault_and_has_does_not_mind(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12)
    attr = kvm_device_attr(addr=NOWHERE, **FEATURES)
    rig.qemu.ioctl(rig.kvm, KVM_HAS_DEVICE_ATTR, attr)

    for argument in (attr, NOWHERE):
        with refuses(EFAULT):
            rig.qemu.ioctl(rig.kvm, KVM_GET_DEVICE_ATTR, argument)


def test_create_vm_answers_a_descriptor_of_its_own(rig: Rig) -> None:
    first = rig.qemu.ioctl(rig.kvm, KVM_CREATE_VM, 0)

    assert rig.qemu.ioctl(rig.kvm, KVM_CREATE_VM, 0) == first + 1
