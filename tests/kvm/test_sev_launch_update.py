"""LAUNCH_UPDATE_DATA: order of the rules, runs of frames, pins and limits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY
from typing import Any

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import KVM_SEV_LAUNCH_UPDATE_DATA
from sevlab.abi.sev import Status
from sevlab.hw import pages
from sevlab.hw.soc import Clflush
from sevlab.psp.firmware import CommandDone

PAGE = 4096
NOWHERE = 0x6660_0000


def scattered(rig: Rig, count: int) -> int:
    """`count` pages of the process, no two of them neighbours in the machine: their hva."""
    one, two = rig.qemu.mmap(count * PAGE), rig.qemu.mmap(count * PAGE)
    for page in range(count):
        rig.qemu.write(one + page * PAGE, b"\1")
        rig.qemu.write(two + page * PAGE, b"\2")
    assert all(hpa(rig, one + PAGE * (i + 1)) - hpa(rig, one + PAGE * i) == 2 * PAGE for i in range(count - 1))
    return one


def hpa(rig: Rig, hva: int) -> int:
    return rig.qemu.task.mm.translate(hva)


# ------------------------------------------------------------------ LAUNCH_UPDATE_DATA


def test_update_data_has_its_rules_in_this_order(rig: Rig) -> None:
    with refuses(ENOTTY):  # no SEV VM, and a pointer to nowhere
        rig.op(rig.vm(), KVM_SEV_LAUNCH_UPDATE_DATA, NOWHERE)
    vm = rig.init()
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, NOWHERE)
    with refuses(EINVAL):  # no length, at a place that is not there, before START
        rig.update(vm, NOWHERE, 0)
    with refuses(EINVAL):  # a length that wraps
        rig.update(vm, (1 << 64) - 8, 16)
    with refuses(ENOMEM):  # a place that is not there, before START
        rig.update(vm, NOWHERE, 16)
    assert rig.kernel.dmesg[-1] == "SEV: Failure locking 1 pages."
    with refuses(EBADF):  # no START, and a length that the firmware would refuse
        rig.update(vm, rig.memory(16), 5)
    assert rig.last.error == UNTOUCHED
    rig.start(vm)
    with refuses(EIO, Status.INVALID_LEN):
        rig.update(vm, rig.memory(16), 5)


@pytest.mark.parametrize(
    "offset, size, fw", [(0, 8, Status.INVALID_LEN), (8, 16, Status.INVALID_ADDRESS), (1, 15, Status.INVALID_ADDRESS)]
)
def test_alignment_is_the_firmwares_demand_and_not_kvms(rig: Rig, offset: int, size: int, fw: Status) -> None:
    vm, hva = rig.started(), rig.memory(bytes(64))

    with refuses(EIO, fw):
        rig.update(vm, hva + offset, size)
    assert rig.last.error == fw
    assert rig.qemu.read(hva, 64) == bytes(64)


def test_one_firmware_command_for_each_contiguous_run(rig: Rig) -> None:
    vm, run, loose = rig.started(), rig.memory(bytes(8 * PAGE)), scattered(rig, 4)
    rig.trace._buffers.clear()
    rig.update(vm, run + 16, 8 * PAGE - 32)
    assert len(rig.rows(CommandDone)) == 1
    rig.update(vm, loose, 4 * PAGE)

    assert len(rig.rows(CommandDone)) == 5


def test_a_run_that_two_mappings_make_together_is_one_run(rig: Rig) -> None:
    vm = rig.started()
    base = rig.qemu.mmap(4 * PAGE)
    rig.qemu.mmap(2 * PAGE, at=base)
    rig.qemu.mmap(2 * PAGE, at=base + 2 * PAGE)
    rig.qemu.write(base, bytes(4 * PAGE))
    rig.trace._buffers.clear()
    rig.update(vm, base, 4 * PAGE)

    assert len(rig.rows(CommandDone)) == 1


def test_what_was_encrypted_before_a_refusal_stays_encrypted_and_measured(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    vm, loose = rig.started(), scattered(rig, 3)
    plain = [rig.qemu.read(loose + i * PAGE, PAGE) for i in range(3)]
    real, count = rig.psp.mailbox, []

    def third_time_never(cmd: int, hpa: int = 0) -> int:
        count.append(cmd)
        return int(Status.HWSEV_RET_UNSAFE) if len(count) == 3 else real(cmd, hpa)

    monkeypatch.setattr(rig.psp, "mailbox", third_time_never)
    with refuses(EIO, Status.HWSEV_RET_UNSAFE):
        rig.update(vm, loose, 3 * PAGE)
    monkeypatch.undo()

    assert [rig.qemu.read(loose + i * PAGE, PAGE) == plain[i] for i in range(3)] == [False, False, True]
    assert rig.psp.guests[1].digest.digest() == hashlib.sha256(plain[0] + plain[1]).digest()
    assert rig.soc.pages.pinned() == 0


def test_the_pins_of_an_update_last_as_long_as_the_update(rig: Rig) -> None:
    vm = rig.started()
    rig.update(vm, rig.memory(bytes(3 * PAGE)), 3 * PAGE)

    assert rig.file(vm).sev.pages_locked == 0
    assert rig.soc.pages.pinned() == 0


def test_twice_on_one_page_encrypts_ciphertext_and_measures_it(rig: Rig) -> None:
    vm, hva = rig.started(), rig.memory(b"x" * PAGE)
    rig.update(vm, hva, PAGE)
    once = rig.soc.dram.read(hpa(rig, hva), PAGE)
    rig.update(vm, hva, PAGE)

    assert rig.soc.engine.read(100, hpa(rig, hva), PAGE) == once
    assert rig.psp.guests[1].digest.digest() == hashlib.sha256(b"x" * PAGE + once).digest()


def test_pages_are_marked_private_as_a_range_with_their_owner(rig: Rig) -> None:
    vm, hva = rig.started(), rig.memory(bytes(4 * PAGE))
    rig.update(vm, hva + 16, 2 * PAGE)
    first = hpa(rig, hva) // PAGE

    assert [(rig.soc.pages.state(pfn), rig.soc.pages.asid(pfn)) for pfn in range(first, first + 4)] == [
        *[(pages.PRIVATE, 100)] * 3,
        (pages.HOST, 0),
    ]


@pytest.mark.parametrize("chip, flushes", [("rome", 1), ("milan", 0)])
def test_the_hosts_lines_are_flushed_before_unless_the_caches_are_coherent(make_rig: Any, chip: str, flushes: int) -> None:
    rig = make_rig(chip=chip)
    vm, hva = rig.started(), rig.memory(bytes(PAGE))
    rig.trace._buffers.clear()
    rig.update(vm, hva, PAGE)
    kinds = [row["kind"] for row in rig.rows() if row["kind"] in ("Clflush", "Encrypted")]

    assert len(rig.rows(Clflush)) == flushes
    assert kinds[-1] == "Encrypted"


def test_nobody_asks_whether_the_memory_is_the_guests(rig: Rig) -> None:
    vm = rig.started()

    rig.update(vm, rig.memory(bytes(PAGE)), PAGE)  # no slot, no region


# ------------------------------------------------------------------ pins and limits


def test_the_limit_is_rlimit_memlock_in_pages_and_a_capability_lifts_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(memlock=4 * PAGE + 100)
    vm, hva = rig.started(), rig.memory(bytes(8 * PAGE))
    rig.update(vm, hva, 4 * PAGE)
    with refuses(ENOMEM):
        rig.update(vm, hva + 16, 4 * PAGE)
    assert rig.last.error == UNTOUCHED
    assert rig.kernel.dmesg[-1] == "SEV: 5 locked pages exceed the lock limit of 4."
    rig.qemu.task.caps = frozenset({"CAP_IPC_LOCK"})

    rig.update(vm, hva, 8 * PAGE)


def test_temporary_pins_count_beside_regions_and_each_vm_has_a_limit_of_its_own(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(memlock=4 * PAGE)
    one, two, hva = rig.started(), rig.started(), rig.memory(bytes(4 * PAGE))
    rig.register(one, hva, 4 * PAGE)
    with refuses(ENOMEM):
        rig.update(one, hva, 16)

    rig.update(two, hva, 4 * PAGE)
    assert rig.file(one).sev.pages_locked == 4


def test_a_wrap_is_met_before_the_limit_and_the_limit_before_the_hole(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(memlock=0)
    vm = rig.started()
    with refuses(EINVAL):
        rig.update(vm, (1 << 64) - 16, 32)
    rig.kernel.dmesg.clear()
    with refuses(ENOMEM):
        rig.update(vm, NOWHERE, PAGE)

    assert rig.kernel.dmesg == ["SEV: 1 locked pages exceed the lock limit of 0."]
