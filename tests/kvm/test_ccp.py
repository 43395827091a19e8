"""The ccp driver: from a firmware status to an errno, and the platform's ups and downs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EBUSY, EFAULT, EINVAL, EIO, ENODEV, ENOMEM, ETIMEDOUT
from typing import Any

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_START,
    SEV_PEK_GEN,
    SEV_PLATFORM_STATUS,
    kvm_sev_guest_status,
    kvm_sev_launch_start,
    sev_issue_cmd,
)
from sevlab.abi.sev import Cmd, GetId, Handle, PlatformState, PlatformStatus, Status
from sevlab.hw.soc import Wbinvd
from sevlab.kvm import designs
from sevlab.kvm.ccp import Ccp, Heap
from sevlab.kvm.fd import KvmError
from sevlab.psp.firmware import CommandDone, Psp


def commands(rig: Rig) -> list[int]:
    """The firmware commands of a machine so far, by number."""
    return [row["cmd"] for row in rig.rows(CommandDone)]


# ------------------------------------------------------------------ statuses


@pytest.mark.parametrize("status", [status for status in Status if 0 < status < Status.NO_FW_CALL])
def test_every_refusal_of_the_firmware_is_eio_with_its_status(rig: Rig, status: Status, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rig.psp, "mailbox", lambda cmd, hpa=0: int(status))
    answer = sev_issue_cmd(error=UNTOUCHED)

    with refuses(EIO, status):
        rig.kernel.ccp.command(Cmd.DF_FLUSH, answer=answer)
    assert answer.error == status


def test_success_overwrites_what_the_caller_had_in_error(rig: Rig) -> None:
    answer = sev_issue_cmd(error=UNTOUCHED)
    rig.kernel.ccp.command(Cmd.PLATFORM_STATUS, PlatformStatus(), answer)

    assert answer.error == 0


def test_the_refusal_says_what_the_firmware_did_not_like(rig: Rig) -> None:
    rig.started()

    with refuses(EIO, Status.INVALID_GUEST) as no:
        rig.kernel.ccp.command(Cmd.DECOMMISSION, Handle(77))
    assert no.why == "the firmware refused: DECOMMISSION: INVALID_GUEST: no guest has this handle"


def test_the_buffer_comes_back_also_after_a_refusal(rig: Rig) -> None:
    ident = GetId()
    with refuses(EIO, Status.INVALID_LEN):
        rig.kernel.ccp.command(Cmd.GET_ID, ident)
    assert ident.len == 64


def test_a_command_that_gets_no_answer_ends_the_processor_for_good(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = sev_issue_cmd(error=UNTOUCHED)
    monkeypatch.setattr(rig.psp, "mailbox", lambda cmd, hpa=0: None)
    with refuses(ETIMEDOUT):
        rig.kernel.ccp.command(Cmd.DF_FLUSH, answer=answer)
    monkeypatch.undo()

    assert answer.error == 0
    assert rig.kernel.dmesg[-1] == "sev command 0xa timed out, disabling PSP"
    with refuses(EBUSY):
        rig.kernel.ccp.command(Cmd.DF_FLUSH)
    with refuses(EBUSY):
        rig.issue(SEV_PLATFORM_STATUS)
    assert rig.last.error == UNTOUCHED


def test_a_missing_processor_is_met_before_a_dead_one(rig: Rig) -> None:
    ccp = Ccp(rig.soc, rig.kernel.frames, None, rig.kernel.design.release, print)
    ccp.dead = True

    with refuses(ENODEV):
        ccp.command(Cmd.DF_FLUSH)
    with refuses(ENODEV):
        ccp.platform_init(sev_issue_cmd())
    ccp.probe()
    rig.kernel.frames.give(ccp._buffer >> 12, 1)
    rig.kernel.frames.give(ccp._tmr >> 12, 256)


# ------------------------------------------------------- whose descriptor


def test_a_command_needs_a_descriptor_of_dev_sev_and_not_that_it_is_writable(rig: Rig) -> None:
    vm, readonly = rig.init(), rig.qemu.open("/dev/sev", "r")

    for number in (0, rig.kvm, vm, 99, 0xFFFFFFFF):
        with refuses(EBADF):
            rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(), sev_fd=number)
        assert rig.last.error == UNTOUCHED
    rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(), sev_fd=readonly)


def test_kvm_remembers_the_number_and_not_the_file(rig: Rig) -> None:
    vm = rig.started()
    other = rig.qemu.open("/dev/sev")
    assert rig.status(vm).handle == 1

    rig.qemu.dup2(rig.kvm, rig.sev)
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), sev_fd=other)
    rig.qemu.close(rig.sev)
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), sev_fd=other)
    rig.qemu.dup2(other, rig.sev)
    assert rig.status(vm).handle == 1


def test_dev_sev_of_another_machine_is_no_way_to_this_ones_firmware(make_rig: Callable[..., Rig]) -> None:
    one, two = make_rig(), make_rig()
    one.qemu.task.fds[9] = two.qemu.task.fds[two.sev]
    answer = sev_issue_cmd()

    with pytest.raises(KvmError) as no:
        one.kernel.ccp.issue(one.qemu.task, 9, Cmd.PLATFORM_STATUS, PlatformStatus(), answer)
    del one.qemu.task.fds[9]
    assert no.value.errno == EBADF


# ------------------------------------------------------------- the platform


def test_the_platform_is_up_when_the_kernel_has_booted(rig: Rig) -> None:
    assert commands(rig) == [Cmd.PLATFORM_STATUS, Cmd.INIT, Cmd.DF_FLUSH]
    assert rig.kernel.dmesg[0] == "SEV API:0.24 build:15"
    assert rig.psp.es
    assert rig.psp.state == PlatformState.INIT


def test_a_platform_that_is_up_is_not_brought_up_again_and_error_stays_as_it_was(rig: Rig) -> None:
    before, vm = commands(rig), rig.vm()
    cmd = rig.op(vm, KVM_SEV_INIT)

    assert commands(rig) == before
    assert cmd.error == UNTOUCHED


def test_without_init_at_probe_the_first_guest_brings_the_platform_up(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(replace(designs.LINUX_6_1, release=replace(designs.V6_1, init_on_probe=False)))
    assert commands(rig) == [Cmd.PLATFORM_STATUS]

    cmd = rig.op(rig.vm(), KVM_SEV_INIT)
    assert commands(rig)[1:] == [Cmd.INIT, Cmd.DF_FLUSH]
    assert cmd.error == 0


def test_corrupt_persistent_state_is_met_once_and_the_second_try_starts_afresh(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(nv=bytes(range(256)) * 128)

    assert commands(rig)[1:3] == [Cmd.INIT, Cmd.INIT]
    assert rig.psp.state == PlatformState.INIT


def test_it_is_tried_twice_and_not_three_times(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.kernel.ccp.platform_shutdown(sev_issue_cmd())
    tries: list[int] = []

    def corrupt(cmd: int, hpa: int = 0) -> int:
        tries.append(cmd)
        return Status.SECURE_DATA_INVALID

    monkeypatch.setattr(rig.psp, "mailbox", corrupt)
    with refuses(EIO, Status.SECURE_DATA_INVALID):
        rig.op(rig.vm(), KVM_SEV_INIT)
    assert tries == [Cmd.INIT, Cmd.INIT]
    assert rig.last.error == Status.SECURE_DATA_INVALID


def test_a_guest_whose_platform_does_not_come_up_leaves_nothing_behind(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.kernel.ccp.platform_shutdown(sev_issue_cmd())
    vm = rig.vm()
    monkeypatch.setattr(rig.psp, "mailbox", lambda cmd, hpa=0: int(Status.HWSEV_RET_PLATFORM))
    with refuses(EIO, Status.HWSEV_RET_PLATFORM):
        rig.op(vm, KVM_SEV_INIT)
    monkeypatch.undo()

    assert not rig.file(vm).sev.active
    assert rig.kernel.root_cgroup.current["sev"] == 0
    assert rig.kernel.asids.state(100) == "reclaimable"
    rig.op(vm, KVM_SEV_INIT)
    assert rig.last.error == 0


def test_error_is_minus_one_when_init_was_tried_and_the_firmware_never_reached(rig: Rig) -> None:
    rig.kernel.ccp.platform_shutdown(sev_issue_cmd())
    rig.kernel.ccp.dead = True

    with refuses(EBUSY):
        rig.op(rig.vm(), KVM_SEV_INIT)
    assert rig.last.error == 0xFFFFFFFF


def test_after_init_the_caches_are_written_back_before_the_first_flush(rig: Rig) -> None:
    kinds = [row["kind"] for row in rig.rows(Wbinvd, CommandDone)]

    assert kinds == ["CommandDone", "CommandDone", "Wbinvd", "CommandDone"]


def test_a_boot_whose_platform_does_not_come_up_is_logged_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    real = Psp.mailbox
    refuse = lambda psp, cmd, hpa=0: int(Status.HWSEV_RET_PLATFORM) if cmd == Cmd.INIT else real(psp, cmd, hpa)  # noqa: E731
    monkeypatch.setattr(Psp, "mailbox", refuse)
    rig = Rig()

    assert rig.kernel.dmesg[0] == "SEV: failed to INIT error 0x13, rc -5"
    assert rig.kernel.ccp.state == PlatformState.UNINIT
    with refuses(EIO, Status.HWSEV_RET_PLATFORM):
        rig.init()


@pytest.mark.parametrize("design, afterwards", [(designs.LINUX_6_1, "INIT"), (designs.LINUX_6_12, "UNINIT")], ids=["6.1", "6.12"])
def test_newer_kernels_shut_down_what_they_brought_up_for_one_command(
    make_rig: Callable[..., Rig], design: designs.Design, afterwards: str
) -> None:
    rig = make_rig(design)
    rig.kernel.ccp.platform_shutdown(sev_issue_cmd())
    rig.issue(SEV_PEK_GEN)

    assert rig.kernel.ccp.state.name == afterwards
    rig.op(rig.vm(), KVM_SEV_INIT)


# ------------------------------------------------------------------ raw


def test_a_hostile_kernels_mailbox_gets_a_status_and_no_exception(rig: Rig) -> None:
    status = PlatformStatus()
    assert rig.kernel.ccp.raw(Cmd.PLATFORM_STATUS, status) == 0
    assert (status.api_major, status.api_minor, status.build, status.state) == (0, 24, 15, PlatformState.INIT)
    assert rig.kernel.ccp.raw(Cmd.DECOMMISSION, Handle(5)) != 0
    assert rig.kernel.ccp.raw(0xEE) == Status.INVALID_COMMAND


# ------------------------------------------------------------------ heap


def test_kernel_memory_for_a_call_is_contiguous_zeroed_and_given_back(rig: Rig) -> None:
    before = rig.kernel.frames.free
    with Heap(rig.kernel.frames) as heap:
        hpa = heap.alloc(10_000)
        heap.dram.write(hpa, b"\xff" * 10_000)
    with Heap(rig.kernel.frames) as heap:
        again = heap.alloc(12_288)
        assert (again, heap.read(again, 12_288)) == (hpa, bytes(12_288))
    assert rig.kernel.frames.free == before


@pytest.mark.parametrize("size, code", [((4 << 20) + 1, ENOMEM), (1 << 32, ENOMEM)])
def test_the_allocator_gives_four_mib_in_one_piece_and_no_more(rig: Rig, size: int, code: int) -> None:
    with Heap(rig.kernel.frames) as heap, refuses(code):
        heap.alloc(size)


@pytest.mark.parametrize("uaddr, n, code", [(0, 16, EINVAL), (1, 0, EINVAL), (1, 0x4001, EINVAL), (0x1000, 16, EFAULT)])
def test_a_blob_of_user_memory_is_bounded_before_it_is_read(rig: Rig, uaddr: int, n: int, code: int) -> None:
    task: Any = rig.qemu.task
    with Heap(rig.kernel.frames) as heap, refuses(code):
        heap.copy_user_blob(task, uaddr, n)
