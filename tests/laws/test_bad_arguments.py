"""Descriptors that are dead, closed, foreign, reused or wrong, pointers into nothing, lengths of no sense.

The errno is the kernel's, and nothing leaks: the fixture looks at pins, charges,
references, key slots and firmware contexts after every test.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY
from typing import Any

import pytest
from sev_rig import Rig, refuses

from sevlab.abi import kvm as abi
from sevlab.abi.sev import Status
from sevlab.kvm import designs, system, vcpu, vm
from sevlab.wire import Wire

NOWHERE = 0x1000  # below vm.mmap_min_addr: never mapped
LENGTHS = (0, 1, 15, 4095, 1 << 31, (1 << 32) - 1)


def pointers(table: dict[int, Any]) -> list[int]:
    """The ioctls of a table that take a pointer to a structure."""
    return [nr for nr, row in table.items() if row.arg is not None and row.arg is not int]


# ------------------------------------------------------------- descriptors


@pytest.mark.parametrize("fd", [3_000, -1, 1 << 31])
@pytest.mark.parametrize("nr", [abi.KVM_CREATE_VM, abi.KVM_RUN, abi.KVM_MEMORY_ENCRYPT_OP, abi.SEV_ISSUE_CMD, 0])
def test_a_number_that_is_no_descriptor_is_ebadf(rig: Rig, fd: int, nr: int) -> None:
    with refuses(EBADF):
        rig.qemu.ioctl(fd, nr, NOWHERE)


@pytest.mark.parametrize("nr", [abi.KVM_CREATE_VCPU, abi.KVM_MEMORY_ENCRYPT_OP, abi.KVM_ENABLE_CAP])
def test_a_closed_descriptor_is_ebadf_and_its_number_may_be_another_file(rig: Rig, nr: int) -> None:
    gone = rig.vm()
    rig.qemu.close(gone)
    with refuses(EBADF):
        rig.qemu.ioctl(gone, nr, NOWHERE)

    assert rig.qemu.memfd(1) == gone
    with refuses(ENOTTY):
        rig.qemu.ioctl(gone, nr, NOWHERE)


@pytest.mark.parametrize("nr", sorted(vm.IOCTLS))
def test_every_ioctl_of_a_vm_is_eio_from_another_process(rig: Rig, nr: int) -> None:
    fd = rig.init()
    other = rig.kernel.process("other")
    theirs = rig.qemu.send_fd(fd, other)
    with refuses(EIO):
        other.ioctl(theirs, nr, NOWHERE)


@pytest.mark.parametrize("nr", sorted(vm.IOCTLS))
def test_every_ioctl_of_a_vm_is_eio_once_its_context_was_moved_away(rig: Rig, nr: int) -> None:
    source, target = rig.started(), rig.vm()
    rig.move(target, source)
    with refuses(EIO):
        rig.qemu.ioctl(source, nr, NOWHERE)


@pytest.mark.parametrize("nr", sorted(vcpu.IOCTLS))
def test_every_ioctl_of_a_vcpu_is_eio_from_a_child_and_on_a_dead_vm(rig: Rig, nr: int) -> None:
    source, target = rig.started(), rig.vm()
    cpu = rig.vcpu(source)
    child = rig.qemu.fork()
    with refuses(EIO):
        child.ioctl(cpu, nr, NOWHERE)
    rig.move(target, source)

    with refuses(EIO):
        rig.qemu.ioctl(cpu, nr, NOWHERE)


@pytest.mark.parametrize("where", ["system", "vm", "vcpu", "sev", "console", "memfd"])
def test_an_ioctl_of_no_meaning_has_the_answer_of_its_file(rig: Rig, where: str) -> None:
    vm_fd = rig.vm()
    files = {"system": rig.kvm, "vm": vm_fd, "vcpu": rig.vcpu(vm_fd), "sev": rig.sev, "console": 0, "memfd": rig.qemu.memfd(1)}
    answers = {"system": EINVAL, "vm": ENOTTY, "vcpu": EINVAL, "sev": EINVAL, "console": ENOTTY, "memfd": ENOTTY}
    with refuses(answers[where]):
        rig.qemu.ioctl(files[where], 0xDEAD, 0)


@pytest.mark.parametrize("number", [0, 99, "memfd", "kvm", "closed"])
def test_a_launch_with_a_descriptor_that_is_not_the_firmwares_is_ebadf_and_takes_nothing(rig: Rig, number: Any) -> None:
    fd = rig.init()
    if number == "memfd":
        number = rig.qemu.memfd(1)
    elif number == "kvm":
        number = rig.kvm
    elif number == "closed":
        number = rig.qemu.open("/dev/sev")
        rig.qemu.close(number)
    with refuses(EBADF):
        rig.op(fd, abi.KVM_SEV_LAUNCH_START, abi.kvm_sev_launch_start(), sev_fd=number)

    assert rig.psp.guests == {}


def test_the_remembered_number_may_be_another_file_by_then(rig: Rig) -> None:
    fd = rig.started()
    rig.qemu.close(rig.sev)
    with refuses(EBADF):
        rig.status(fd)
    assert rig.qemu.memfd(1) == rig.sev
    with refuses(EBADF):
        rig.status(fd)
    rig.qemu.dup2(rig.qemu.open("/dev/sev"), rig.sev)

    assert rig.status(fd).state == 1


# ---------------------------------------------------------------- pointers


@pytest.mark.parametrize("nr", pointers(vm.IOCTLS))
def test_a_structure_of_a_vm_that_lies_nowhere_is_efault(rig: Rig, nr: int) -> None:
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.init(), nr, NOWHERE)


@pytest.mark.parametrize("nr", pointers(vm.IOCTLS) + pointers(vcpu.IOCTLS))
def test_a_structure_cut_by_the_end_of_a_mapping_is_efault(rig: Rig, nr: int) -> None:
    fd = rig.init()
    rig.qemu.ioctl(fd, abi.KVM_CREATE_IRQCHIP)  # or the local APIC's ioctls are EINVAL before anything
    target = fd if nr in vm.IOCTLS else rig.vcpu(fd)
    row = (vm.IOCTLS if nr in vm.IOCTLS else vcpu.IOCTLS)[nr]
    end = rig.qemu.mmap(0x1000) + 0x1000
    rig.qemu.mmap(0x1000, at=end)
    rig.qemu.munmap(end, 0x1000)
    with refuses(EFAULT):
        rig.qemu.ioctl(target, nr, end - row.arg.SIZE + 1)


WITH_STRUCTURE = {
    abi.KVM_SEV_LAUNCH_UPDATE_DATA: abi.kvm_sev_launch_update_data,
    abi.KVM_SEV_LAUNCH_MEASURE: abi.kvm_sev_launch_measure,
    abi.KVM_SEV_LAUNCH_SECRET: abi.kvm_sev_launch_secret,
    abi.KVM_SEV_GUEST_STATUS: abi.kvm_sev_guest_status,
    abi.KVM_SEV_DBG_DECRYPT: abi.kvm_sev_dbg,
    abi.KVM_SEV_DBG_ENCRYPT: abi.kvm_sev_dbg,
    abi.KVM_SEV_GET_ATTESTATION_REPORT: abi.kvm_sev_attestation_report,
}


@pytest.mark.parametrize("id", sorted(WITH_STRUCTURE))
def test_a_commands_structure_that_lies_nowhere_is_efault_and_the_callers_error_stays(rig: Rig, id: int) -> None:
    fd = rig.started()
    before = dict(rig.psp.guests)
    with refuses(EFAULT, fw=None) if id != abi.KVM_SEV_GUEST_STATUS else refuses(EFAULT):
        rig.op(fd, id, NOWHERE)

    assert rig.psp.guests == before


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("where", ["mapped", "nowhere", "wraps"])
def test_update_data_with_lengths_of_no_sense(rig: Rig, length: int, where: str) -> None:
    fd = rig.started()
    hva = {"mapped": rig.memory(0x1000), "nowhere": NOWHERE, "wraps": (1 << 64) - 0x800}[where]
    if where == "mapped" and length in (1, 15, 4095):
        want, fw = 5, Status.INVALID_LEN  # EIO: the firmware wants whole blocks
    elif length == 0 or hva + length >= 1 << 64:
        want, fw = EINVAL, None
    else:
        want, fw = ENOMEM, None  # beyond the limit, or not there to be pinned
    with refuses(want, fw):
        rig.update(fd, hva, length)

    assert rig.file(fd).sev.pages_locked == 0


@pytest.mark.parametrize(("size", "want"), [(0, EINVAL), (1, 0), (1 << 31, ENOMEM), (1 << 43, EINVAL), ((1 << 64) - 1, EINVAL)])
def test_a_region_with_sizes_of_no_sense(rig: Rig, size: int, want: int) -> None:
    fd, hva = rig.init(), rig.memory(0x1000)
    if not want:
        rig.register(fd, hva, size)
        assert rig.file(fd).sev.pages_locked == 1
        return
    with refuses(want):
        rig.register(fd, hva, size)

    assert rig.file(fd).sev.pages_locked == 0


@pytest.mark.parametrize("field", ["hdr_uaddr", "guest_uaddr", "trans_uaddr"])
@pytest.mark.parametrize("bad", [0, NOWHERE])
def test_a_secret_with_a_pointer_into_nothing_leaves_no_pin(rig: Rig, field: str, bad: int) -> None:
    fd = rig.started()
    good = rig.memory(bytes(0x1000))
    secret = abi.kvm_sev_launch_secret(hdr_uaddr=good, hdr_len=52, guest_uaddr=good, guest_len=16, trans_uaddr=good, trans_len=16)
    setattr(secret, field, bad)
    with refuses(ENOMEM if field == "guest_uaddr" else EINVAL if not bad else EFAULT):
        rig.op(fd, abi.KVM_SEV_LAUNCH_SECRET, secret)

    assert rig.file(fd).sev.pages_locked == 0


@pytest.mark.parametrize("length", [48, 1 << 14, (1 << 14) + 1, (1 << 32) - 1])
def test_a_measurement_into_nothing_is_efault_and_the_guest_is_measured_all_the_same(rig: Rig, length: int) -> None:
    fd = rig.started()
    measure: Wire = abi.kvm_sev_launch_measure(NOWHERE, length)
    with refuses(EINVAL if length > 1 << 14 else EFAULT):
        rig.op(fd, abi.KVM_SEV_LAUNCH_MEASURE, measure)

    assert rig.status(fd).state == (1 if length > 1 << 14 else 2)


@pytest.mark.parametrize("nr", [nr for nr in pointers(system.IOCTLS)])
def test_a_structure_of_the_system_that_lies_nowhere_is_efault(make_rig: Callable[..., Rig], nr: int) -> None:
    rig = make_rig(designs.LINUX_6_12)
    with refuses(EFAULT):
        rig.qemu.ioctl(rig.kvm, nr, NOWHERE)
