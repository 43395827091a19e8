"""The launch, sub-command by sub-command: rules in the kernel's order, what is copied back, what stays behind."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from errno import EBADF, EBUSY, EFAULT, EINTR, EINVAL, EIO, ENOMEM, ENOTTY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SET_DEBUGREGS,
    KVM_SET_GUEST_DEBUG,
    KVM_SEV_GET_ATTESTATION_REPORT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_debugregs,
    kvm_guest_debug,
    kvm_sev_attestation_report,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_secret,
    kvm_sev_launch_start,
    kvm_sev_launch_update_data,
)
from sevlab.abi.session import AttestationReport, PacketHeader, packet_message
from sevlab.abi.sev import Cmd, GuestState, Status
from sevlab.crypto import aes_ctr, hmac256
from sevlab.hw import pages
from sevlab.hw.soc import Clflush
from sevlab.kvm import designs
from sevlab.kvm.call import Lock
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_launch import guest_status, launch_finish, launch_secret, launch_start, launch_update_data, launch_update_vmsa
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


# ------------------------------------------------------------------ LAUNCH_UPDATE_VMSA


def test_update_vmsa_of_a_plain_vm_is_enotty_before_and_after_init(rig: Rig) -> None:
    for vm in (rig.vm(), rig.init(), rig.started()):
        with refuses(ENOTTY):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
        assert rig.last.error == UNTOUCHED


def test_update_vmsa_measures_every_vcpu_in_the_order_of_their_making(rig: Rig) -> None:
    vm = rig.init(es=True)
    for vcpu_id in (3, 0, 1):
        rig.vcpu(vm, vcpu_id)
    rig.start(vm, 5)
    measured = hashlib.sha256(b"".join(vcpu.vmsa_page() for vcpu in rig.file(vm).vcpus)).digest()
    rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    assert rig.psp.guests[1].digest.digest() == measured
    assert all(vcpu.guest_state_protected for vcpu in rig.file(vm).vcpus)


def test_update_vmsa_without_vcpus_is_zero_and_asks_nothing(rig: Rig) -> None:
    vm = rig.init(es=True)
    cmd = rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)

    assert cmd.error == UNTOUCHED


def test_vcpus_before_the_refused_one_stay_sealed(rig: Rig) -> None:
    vm = rig.init(es=True)
    vcpus = [rig.vcpu(vm, i) for i in range(3)]
    rig.start(vm, 4)
    rig.qemu.ioctl(vcpus[1], KVM_SET_GUEST_DEBUG, kvm_guest_debug(control=1))

    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert [vcpu.guest_state_protected for vcpu in rig.file(vm).vcpus] == [True, False, False]
    assert rig.last.error == 0  # the firmware was called for the first


def test_a_breakpoint_in_dr7_refuses_before_the_firmware_is_asked(rig: Rig) -> None:
    vm = rig.init(es=True)
    vcpu = rig.vcpu(vm)
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, kvm_debugregs(dr7=0x401))

    with refuses(EINVAL):  # and no START: EBADF would be next
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.qemu.ioctl(vcpu, KVM_SET_DEBUGREGS, kvm_debugregs(dr7=0))
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert not rig.file(vm).vcpus[0].guest_state_protected


def test_a_vcpu_that_the_firmware_refused_is_an_ordinary_one_still(rig: Rig) -> None:
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    rig.measure(vm)

    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert not rig.file(vm).vcpus[0].guest_state_protected


def test_twice_seals_noise_in_6_1_and_is_refused_in_6_12(make_rig: Callable[..., Rig]) -> None:
    for design, code in ((designs.LINUX_6_1, None), (designs.LINUX_6_12, EINVAL)):
        rig = make_rig(design)
        vm = rig.init(es=True)
        rig.vcpu(vm)
        rig.start(vm, 4)
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
        before = rig.psp.guests[1].digest.digest()
        if code is None:
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
            assert rig.psp.guests[1].digest.digest() != before
        else:
            with refuses(code):
                rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
            assert rig.psp.guests[1].digest.digest() == before


@pytest.mark.parametrize("design, code", [(designs.LINUX_6_1, None), (designs.LINUX_6_12, EBUSY)], ids=["6.1", "6.12"])
def test_a_vcpu_in_the_making_is_left_out_or_stops_the_command(make_rig: Any, design: designs.Design, code: int | None) -> None:
    rig = make_rig(design)
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    rig.file(vm).created += 1  # KVM_CREATE_VCPU between its two locks
    if code is None:
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    else:
        with refuses(code):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    rig.file(vm).created -= 1


def test_update_vmsa_waits_for_a_vcpu_that_is_held_and_a_signal_of_death_ends_the_wait(rig: Rig) -> None:
    vm = rig.init(es=True)
    rig.vcpu(vm)
    rig.start(vm, 4)
    vcpu = rig.file(vm).vcpus[0]
    call = rig.qemu.begin(vm, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_UPDATE_VMSA))
    vcpu.mutex.holder = call  # somebody is in KVM_RUN
    while call.step() == "runnable":
        pass
    assert call.state == "killable"
    assert isinstance(call.waits_for, Lock)
    call.abandon()

    vcpu.mutex.holder = None
    assert call.state == "done"
    with refuses(EINTR):
        call.finish()
    assert not vcpu.guest_state_protected
    assert rig.file(vm).lock.holder is None


# ------------------------------------------------------------------ LAUNCH_MEASURE, attestation


REPORTS = pytest.mark.parametrize(
    "id, kind, size",
    [(KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure, 48), (KVM_SEV_GET_ATTESTATION_REPORT, kvm_sev_attestation_report, 208)],
    ids=["measure", "report"],
)


def ready(rig: Rig, id: int) -> int:
    """A VM in a state in which the command may run."""
    vm = rig.started()
    if id == KVM_SEV_GET_ATTESTATION_REPORT:
        rig.measure(vm)
    return vm


@REPORTS
def test_length_zero_asks_for_the_length(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = ready(rig, id), kind(uaddr=NOWHERE)
    state = rig.psp.guests[1].state

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert (query.len, rig.last.error, rig.psp.guests[1].state) == (size, Status.INVALID_LEN, state)


@REPORTS
def test_a_null_address_with_a_length_is_a_query_whose_answer_is_lost(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = ready(rig, id), kind(len=77)

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert query.len == 77


@REPORTS
def test_a_length_that_is_too_small_is_refused_and_not_corrected(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, room = ready(rig, id), rig.memory(b"\xaa" * PAGE)
    query = kind(uaddr=room, len=size - 1)

    with refuses(EIO, Status.INVALID_LEN):
        rig.op(vm, id, query)
    assert (query.len, rig.qemu.read(room, PAGE)) == (size - 1, b"\xaa" * PAGE)


@REPORTS
def test_more_room_than_needed_is_filled_with_zeros_and_the_length_corrected(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, room = ready(rig, id), rig.memory(b"\xaa" * PAGE)
    query = kind(uaddr=room, len=256)
    rig.op(vm, id, query)

    assert (query.len, rig.last.error) == (size, 0)
    assert rig.qemu.read(room + size, 300 - size) == bytes(256 - size) + b"\xaa" * 44


@REPORTS
def test_rules_of_a_report_in_their_order(rig: Rig, id: int, kind: Any, size: int) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), id, NOWHERE)
    vm = rig.init()
    with refuses(EFAULT):
        rig.op(vm, id, NOWHERE)
    with refuses(EINVAL):  # too much room, and no START
        rig.op(vm, id, kind(uaddr=rig.memory(0x5000), len=0x4001))
    query = kind(uaddr=rig.memory(PAGE), len=PAGE)
    with refuses(EBADF):
        rig.op(vm, id, query)
    assert (query.len, rig.last.error) == (PAGE, UNTOUCHED)


@REPORTS
def test_a_query_before_start_is_ebadf_and_its_length_becomes_zero(rig: Rig, id: int, kind: Any, size: int) -> None:
    vm, query = rig.init(), kind()
    with refuses(EBADF):
        rig.op(vm, id, query)

    assert (query.len, rig.last.error) == (0, UNTOUCHED)


def test_a_measurement_to_nowhere_is_taken_all_the_same(rig: Rig) -> None:
    vm, query = rig.started(), kvm_sev_launch_measure(uaddr=NOWHERE, len=100)
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_MEASURE, query)

    assert (query.len, rig.last.error) == (48, 0)
    assert rig.status(vm).state == GuestState.LSECRET


def test_measuring_twice_is_the_wrong_state(rig: Rig) -> None:
    vm = rig.started()
    rig.measure(vm)

    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.measure(vm)
    assert rig.last.error == Status.INVALID_GUEST_STATE


def test_the_report_carries_the_callers_nonce_and_changes_no_state(rig: Rig) -> None:
    vm, room = ready(rig, KVM_SEV_GET_ATTESTATION_REPORT), rig.memory(PAGE)
    rig.op(vm, KVM_SEV_GET_ATTESTATION_REPORT, kvm_sev_attestation_report(mnonce=b"n" * 16, uaddr=room, len=208))
    report = AttestationReport.unpack(rig.qemu.read(room, 208))

    assert report.mnonce == b"n" * 16
    assert rig.status(vm).state == GuestState.LSECRET


# ------------------------------------------------------------------ LAUNCH_SECRET


def packet(rig: Rig, payload: bytes) -> tuple[bytes, bytes]:
    """Header and ciphertext for guest 1, made with its keys as an owner would make them."""
    guest, iv = rig.psp.guests[1], b"\x11" * 16
    ciphertext = aes_ctr(guest.tek, iv, payload)
    message = packet_message(1, 0, iv, len(payload), len(payload), ciphertext, guest.measure)
    return PacketHeader(flags=0, iv=iv, mac=hmac256(guest.tik, message)).pack(), ciphertext


def inject(rig: Rig, vm: int, header: bytes, ciphertext: bytes, hva: int) -> None:
    secret = kvm_sev_launch_secret(
        rig.qemu.put(header), len(header), 0, hva, len(ciphertext), 0, rig.qemu.put(ciphertext), len(ciphertext)
    )
    rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret)


def test_a_secret_lies_in_the_guests_memory_under_the_guests_key(rig: Rig) -> None:
    vm, hva = rig.started(), rig.memory(bytes(PAGE))
    rig.measure(vm)
    inject(rig, vm, *packet(rig, b"correct horse battery staple    "), hva + 64)

    assert rig.soc.engine.read(100, hpa(rig, hva + 64), 32) == b"correct horse battery staple    "
    assert rig.qemu.read(hva + 64, 32) != b"correct horse battery staple    "


def test_secret_has_its_rules_in_this_order(rig: Rig) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), KVM_SEV_LAUNCH_SECRET, NOWHERE)
    vm, place, loose, blob = rig.init(), rig.memory(bytes(PAGE)), scattered(rig, 2), rig.memory(0x5000)
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, NOWHERE)

    def secret(hdr: int, hdr_len: int, guest: int, guest_len: int, trans: int, trans_len: int) -> kvm_sev_launch_secret:
        return kvm_sev_launch_secret(hdr, hdr_len, 0, guest, guest_len, 0, trans, trans_len)

    for given_secret, code in [
        (secret(0, 0, place, 0, NOWHERE, 16), EINVAL),  # no guest memory, and a packet to nowhere
        (secret(0, 0, NOWHERE, 16, 0, 0), ENOMEM),  # guest memory that is not there, and no packet
        (secret(0, 0, loose, 2 * PAGE, NOWHERE, 16), EINVAL),  # not contiguous, and a packet to nowhere
        (secret(NOWHERE, 52, place, 16, 0, 16), EINVAL),  # no packet, and a header to nowhere
        (secret(0, 52, place, 16, NOWHERE, 16), EFAULT),  # a packet to nowhere, and no header
        (secret(0, 52, place, 16, blob, 0x4001), EINVAL),  # more than 16 KiB
        (secret(blob, 0x4001, place, 16, blob, 16), EINVAL),  # a header of more than 16 KiB, and no START
        (secret(NOWHERE, 52, place, 16, blob, 16), EFAULT),  # a header to nowhere, and no START
        (secret(blob, 52, place, 16, blob, 16), EBADF),  # no START
    ]:
        with refuses(code):
            rig.op(vm, KVM_SEV_LAUNCH_SECRET, given_secret)
        assert rig.last.error == UNTOUCHED
    rig.start(vm)
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret(blob, 52, place, 16, blob, 16))
    rig.measure(vm)
    with refuses(EIO, Status.BAD_MEASUREMENT):
        rig.op(vm, KVM_SEV_LAUNCH_SECRET, secret(blob, 52, place, 16, blob, 16))
    assert rig.soc.pages.pinned() == 0


def test_a_secret_over_two_pages_depends_on_where_the_hosts_memory_lies(rig: Rig) -> None:
    vm, neighbours, loose = rig.started(), rig.memory(bytes(2 * PAGE)), scattered(rig, 2)
    rig.measure(vm)
    header, ciphertext = packet(rig, bytes(64))
    inject(rig, vm, header, ciphertext, neighbours + PAGE - 32)

    with refuses(EINVAL):
        inject(rig, vm, header, ciphertext, loose + PAGE - 32)


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
