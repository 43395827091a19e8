"""The launch, sub-command by sub-command: rules in the kernel's order, what is copied back, what stays behind."""

from __future__ import annotations

import hashlib
from errno import EBADF, EFAULT, EINVAL, EIO, ENOTTY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.abi.sev import Cmd, GuestState, Status
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_launch import guest_status, launch_finish, launch_secret, launch_start, launch_update_data, launch_update_vmsa

PAGE = 4096
NOWHERE = 0x6660_0000


def hpa(rig: Rig, hva: int) -> int:
    return rig.qemu.task.mm.translate(hva)


# ------------------------------------------------------------------ the whole story


def test_a_launch_from_init_to_running(rig: Rig) -> None:
    vm = rig.started(policy=1)
    image = rig.memory(bytes(range(256)) * 64)
    rig.update(vm, image, 16384)
    assert rig.qemu.read(image, 16384) != bytes(range(256)) * 64
    assert len(rig.measure(vm)) == 48
    assert rig.status(vm).state == GuestState.LSECRET
    rig.finish(vm)

    status = rig.status(vm)
    assert (status.handle, status.policy, status.state) == (1, 1, GuestState.RUNNING)


def test_what_is_encrypted_is_what_is_measured(rig: Rig) -> None:
    vm = rig.started()
    first, second = rig.memory(b"a" * PAGE), rig.memory(b"b" * 64)
    rig.update(vm, first, PAGE)
    rig.update(vm, second, 64)

    assert rig.psp.guests[1].digest.digest() == hashlib.sha256(b"a" * PAGE + b"b" * 64).digest()
    assert rig.soc.engine.read(100, hpa(rig, first), PAGE) == b"a" * PAGE


# ------------------------------------------------------------------ LAUNCH_START


def test_start_writes_the_handle_and_remembers_number_and_handle(rig: Rig) -> None:
    vm, start = rig.init(), kvm_sev_launch_start(policy=3)
    cmd = rig.op(vm, KVM_SEV_LAUNCH_START, start)

    assert (start.handle, start.policy, cmd.error) == (1, 3, 0)
    assert (rig.file(vm).sev.handle, rig.file(vm).sev.fd) == (1, rig.sev)


def test_start_has_its_rules_in_this_order(rig: Rig) -> None:
    vm = rig.vm()
    with refuses(ENOTTY):  # no SEV VM, and a pointer to nowhere
        rig.op(vm, KVM_SEV_LAUNCH_START, NOWHERE)
    vm, blob = rig.init(), rig.memory(0x5000)
    with refuses(EFAULT):  # a pointer to nowhere, and a descriptor that is none
        rig.op(vm, KVM_SEV_LAUNCH_START, NOWHERE, sev_fd=99)
    with refuses(EINVAL):  # a certificate without a length, and a session to nowhere
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(dh_uaddr=blob, session_uaddr=NOWHERE, session_len=128))
    with refuses(EINVAL):  # a certificate of more than 16 KiB at a place that is not there
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(dh_uaddr=NOWHERE, dh_len=0x4001))
    with refuses(EFAULT):  # a certificate to nowhere, and a session without a length
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(dh_uaddr=NOWHERE, dh_len=16, session_uaddr=blob))
    with refuses(EINVAL):  # a session of more than 16 KiB, and a descriptor that is none
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(session_uaddr=blob, session_len=0x4001), sev_fd=99)
    with refuses(EBADF):  # a descriptor that is none, and blobs that the firmware would refuse
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(0, 0, blob, 5, 0, blob, 5), sev_fd=99)
    assert rig.last.error == UNTOUCHED
    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(0, 0, blob, 5, 0, blob, 5))
    assert rig.last.error == Status.INVALID_LEN


def test_a_second_start_is_refused_at_activate_and_the_first_context_stays(rig: Rig) -> None:
    vm = rig.started(policy=1)

    with refuses(EIO, Status.ASID_OWNED):
        rig.start(vm)
    assert rig.last.error == Status.ASID_OWNED
    assert list(rig.psp.guests) == [1]
    assert (rig.status(vm).handle, rig.status(vm).policy) == (1, 1)


def test_a_policy_for_es_in_a_plain_vm_is_the_firmwares_affair(rig: Rig) -> None:
    vm = rig.init()

    with refuses(EIO, Status.INVALID_ASID):  # slot 100 is for plain SEV
        rig.start(vm, policy=4)
    assert rig.psp.guests == {}
    assert rig.file(vm).sev.handle == 0
    assert rig.start(vm) == 1


def test_start_into_memory_that_cannot_be_written_undoes_the_context_and_error_says_success(rig: Rig) -> None:
    vm, task = rig.init(), rig.qemu.task
    data = rig.qemu.put(kvm_sev_launch_start())
    cmd = kvm_sev_cmd(id=KVM_SEV_LAUNCH_START, data=data, error=UNTOUCHED, sev_fd=rig.sev)
    write = task.write

    def fault(at: int, bytes_: bytes) -> None:
        if at == data:
            raise OSError(EFAULT, "")
        write(at, bytes_)

    task.write = fault
    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, cmd)
    task.write = write
    assert (cmd.error, rig.psp.guests, rig.file(vm).sev.handle) == (0, {}, 0)


def test_two_guests_share_a_key_when_one_starts_with_the_others_handle(rig: Rig) -> None:
    first = rig.started()
    vm, start = rig.init(), kvm_sev_launch_start(handle=rig.status(first).handle)
    rig.op(vm, KVM_SEV_LAUNCH_START, start)

    assert start.handle == 2
    assert rig.psp.guests[1].vek == rig.psp.guests[2].vek


@pytest.mark.parametrize(
    "policy, handle, fw", [(2, 1, Status.POLICY_FAILURE), (0, 1, Status.POLICY_FAILURE), (0, 77, Status.INVALID_GUEST)]
)
def test_sharing_a_key_that_is_not_to_be_shared_is_refused(rig: Rig, policy: int, handle: int, fw: Status) -> None:
    rig.started(policy=2)

    with refuses(EIO, fw):
        rig.op(rig.init(), KVM_SEV_LAUNCH_START, kvm_sev_launch_start(handle=handle, policy=policy))


# ------------------------------------------------------------------ FINISH, GUEST_STATUS


def test_finish_and_status_before_start_are_ebadf_since_zero_is_no_dev_sev(rig: Rig) -> None:
    vm = rig.init()
    for id in (KVM_SEV_LAUNCH_FINISH, KVM_SEV_GUEST_STATUS):
        with refuses(EBADF):
            rig.op(vm, id, NOWHERE)
        assert rig.last.error == UNTOUCHED


def test_finish_of_an_unmeasured_guest_is_the_firmwares_refusal(rig: Rig) -> None:
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.finish(rig.started())


def test_status_ignores_what_it_is_given_and_faults_only_on_the_way_out(rig: Rig) -> None:
    vm, status = rig.started(policy=3), kvm_sev_guest_status(77, 77, 77)
    rig.op(vm, KVM_SEV_GUEST_STATUS, status)
    assert (status.handle, status.policy, status.state) == (1, 3, GuestState.LUPDATE)

    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_GUEST_STATUS, NOWHERE)
    assert rig.last.error == 0


# ------------------------------------------------------------------ the ladders, and a law


@pytest.mark.parametrize(
    "handler, codes",
    [
        (launch_start, ["ENOTTY", "EFAULT", "EINVAL, EFAULT", "EINVAL, EFAULT", "EBADF, EIO", "EIO", "EFAULT"]),
        (launch_update_data, ["ENOTTY", "EFAULT", "EINVAL, ENOMEM", "EBADF, EIO"]),
        (launch_update_vmsa, ["ENOTTY", "EBUSY", "EINTR", "EINVAL, EBADF, EIO"]),
        (launch_secret, ["ENOTTY", "EFAULT", "EINVAL, ENOMEM", "EINVAL", "EINVAL, EFAULT", "EINVAL, EFAULT", "EBADF, EIO"]),
        (launch_finish, ["ENOTTY", "EBADF, EIO"]),
        (guest_status, ["ENOTTY", "EBADF, EIO", "EFAULT"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_the_ladders_are_the_kernels(handler: Any, codes: list[str]) -> None:
    assert [rung.code for rung in ladder(handler)] == codes


@given(st.lists(st.tuples(st.integers(0, 4 * PAGE // 16), st.integers(1, 64)), max_size=6))
def test_law_the_digest_is_of_what_lay_there_when_it_was_loaded(script: list[tuple[int, int]]) -> None:
    rig = Rig()
    vm, hva = rig.started(), rig.memory(bytes(range(256)) * 64 + bytes(PAGE))
    digest = hashlib.sha256()
    for start, blocks in script:
        digest.update(rig.qemu.read(hva + 16 * start, 16 * blocks))
        rig.update(vm, hva + 16 * start, 16 * blocks)

    assert rig.psp.guests[1].digest.digest() == digest.digest()
    rig.close()
    rig.check_balance()


def test_commands_after_start_use_the_remembered_number_and_ignore_the_given_one(rig: Rig) -> None:
    vm = rig.started()

    status = kvm_sev_guest_status()
    cmd = rig.op(vm, KVM_SEV_GUEST_STATUS, status, sev_fd=12345)
    assert (status.handle, cmd.sev_fd) == (1, 12345)


def test_the_firmware_hears_of_guest_memory_with_the_c_bit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    real = rig.psp.mailbox

    def listen(cmd: int, hpa: int = 0) -> int:
        if cmd == Cmd.LAUNCH_UPDATE_DATA:
            seen.append(int.from_bytes(rig.soc.dram.read(hpa + 8, 8), "little"))
        return real(cmd, hpa)

    monkeypatch.setattr(rig.psp, "mailbox", listen)
    vm, hva = rig.started(), rig.memory(bytes(PAGE))
    rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, kvm_sev_launch_update_data(hva, PAGE))

    assert seen == [hpa(rig, hva) | 1 << rig.soc.chip.c_bit]
