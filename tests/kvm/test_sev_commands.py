"""KVM_MEMORY_ENCRYPT_OP: the way in, the way out, and the errno of every situation."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EBUSY, EFAULT, EINVAL, EIO, ENOTTY
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_CERT_EXPORT,
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_DBG_ENCRYPT,
    KVM_SEV_ES_INIT,
    KVM_SEV_GET_ATTESTATION_REPORT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    KVM_SEV_RECEIVE_UPDATE_VMSA,
    KVM_SEV_SEND_UPDATE_VMSA,
    kvm_sev_cmd,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
)
from sevlab.abi.sev import Status
from sevlab.kvm import designs
from sevlab.kvm.ladder import ladder
from sevlab.kvm.sev_commands import COMMANDS, SevCommand, commands, memory_encrypt_op

NOWHERE = 0x6660_0000
EVERY = pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda d: d.name)


# ------------------------------------------------------------------ the way in


@EVERY
def test_a_null_argument_asks_whether_there_is_sev_and_does_nothing(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)
    vm = rig.vm()
    before = len(rig.trace)

    assert rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0) == 0
    assert [row["kind"] for row in rig.trace.rows()[before:]] == ["Ioctl"]


def test_where_sev_is_off_even_the_question_is_enotty(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    vm = rig.vm()
    rig.kernel.sev_enabled = False

    for argument in (0, NOWHERE, kvm_sev_cmd(id=KVM_SEV_INIT)):
        with refuses(ENOTTY):
            rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, argument)


def test_a_bad_pointer_is_efault_before_the_lock_is_asked_for(rig: Rig) -> None:
    vm = rig.vm()
    holder = rig.qemu.begin(vm, KVM_MEMORY_ENCRYPT_OP, 0)
    rig.file(vm).lock.holder = holder

    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, NOWHERE)
    rig.file(vm).lock.holder = None
    holder.finish()


@EVERY
def test_every_id_that_has_no_row_is_einval_and_is_not_copied_back(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)
    vm, known = rig.vm(), commands(design)
    for id in [*range(130), 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]:
        if id not in known:
            with refuses(EINVAL):
                rig.op(vm, id, NOWHERE)
            assert rig.last == kvm_sev_cmd(id=id, data=NOWHERE, error=UNTOUCHED, sev_fd=rig.sev)
    assert not rig.rows(SevCommand)


@EVERY
@pytest.mark.parametrize("id", [KVM_SEV_SEND_UPDATE_VMSA, KVM_SEV_RECEIVE_UPDATE_VMSA, KVM_SEV_CERT_EXPORT])
def test_three_ids_of_the_header_never_had_a_handler(make_rig: Callable[..., Rig], design: designs.Design, id: int) -> None:
    assert id not in commands(design)
    rig = make_rig(design)

    with refuses(EINVAL):
        rig.op(rig.started(), id)


@given(st.integers(23, 99))
def test_ids_between_the_old_and_the_new_are_nobodys(id: int) -> None:
    assert all(id not in commands(design) for design in designs.DESIGNS.values())


# ------------------------------------------------------------------ the way out


def test_error_is_what_it_was_unless_the_firmware_was_called(rig: Rig) -> None:
    vm = rig.vm()
    with refuses(ENOTTY):
        rig.op(vm, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status())
    assert rig.last.error == UNTOUCHED
    rig.op(vm, KVM_SEV_INIT)
    assert rig.last.error == UNTOUCHED
    rig.start(vm)
    assert rig.last.error == 0
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.finish(vm)
    assert rig.last.error == Status.INVALID_GUEST_STATE


def test_the_structure_goes_back_after_a_refusal_too_and_its_loss_outweighs_it(rig: Rig) -> None:
    vm, task = rig.started(), rig.qemu.task
    at = rig.qemu.put(kvm_sev_cmd(id=KVM_SEV_LAUNCH_FINISH, error=UNTOUCHED))
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, at)
    assert rig.qemu.get(at, kvm_sev_cmd).error == Status.INVALID_GUEST_STATE

    write = task.write

    def fault(where: int, data: bytes) -> None:
        raise OSError(EFAULT, "")

    task.write = fault
    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, at)
    task.write = write
    assert rig.file(vm).lock.holder is None


def test_when_the_way_back_faults_what_was_done_stays_done(rig: Rig) -> None:
    vm, task = rig.vm(), rig.qemu.task
    at, write = rig.qemu.put(kvm_sev_cmd(id=KVM_SEV_INIT)), rig.qemu.task.write

    def fault(where: int, data: bytes) -> None:
        raise OSError(EFAULT, "")

    task.write = fault
    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, at)
    task.write = write
    assert rig.file(vm).sev.active


def test_only_error_changes_in_the_structure(rig: Rig) -> None:
    vm = rig.init()
    cmd = kvm_sev_cmd(id=KVM_SEV_LAUNCH_START, pad0=0x77, data=rig.qemu.put(bytes(40)), error=9, sev_fd=rig.sev)
    before = cmd.replace(error=0)
    rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, cmd)

    assert cmd == before


def test_the_trace_has_one_row_for_each_command_that_had_a_handler(rig: Rig) -> None:
    vm = rig.init()
    with refuses(EBADF):
        rig.status(vm)

    rows = [(row["vm"], row["id"], row["errno"], row["error"]) for row in rig.rows(SevCommand)]
    assert rows == [(1, KVM_SEV_INIT, 0, UNTOUCHED), (1, KVM_SEV_GUEST_STATUS, EBADF, UNTOUCHED)]


# ------------------------------------------------------------------ one lock for each VM


def test_commands_of_one_vm_wait_for_each_other_and_commands_of_two_do_not(rig: Rig) -> None:
    one, two = rig.init(), rig.init()
    first = rig.qemu.begin(one, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_FINISH))
    while rig.file(one).lock.holder is not first:
        first.step()
    second = rig.qemu.begin(one, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_FINISH))
    second.step()
    assert second.state == "uninterruptible"  # mutex_lock(), which nothing ends

    with refuses(EBADF):
        rig.finish(two)
    for call in (second, first):
        with refuses(EBADF):
            call.finish()


# ------------------------------------------------------------------ a mirror's rights


def test_a_mirror_may_ask_for_four_things_and_the_rest_is_einval_whatever_it_is(rig: Rig) -> None:
    owner, mirror = rig.started(), rig.init()
    rig.file(mirror).sev.owner = rig.file(owner)
    for id in range(130):
        if id in designs.MIRROR.may:
            with refuses(ENOTTY if id == KVM_SEV_LAUNCH_UPDATE_VMSA else EBADF if id == KVM_SEV_GUEST_STATUS else EFAULT):
                rig.op(mirror, id, NOWHERE)
        else:
            with refuses(EINVAL):
                rig.op(mirror, id, NOWHERE)
        assert rig.last.error == UNTOUCHED
    assert {KVM_SEV_LAUNCH_UPDATE_VMSA, KVM_SEV_GUEST_STATUS, KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT} == designs.MIRROR.may
    rig.file(mirror).sev.owner = None


def test_being_a_mirror_is_asked_before_the_machine_has_es(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    owner, mirror = rig.init(), rig.vm()
    rig.kernel.sev_es_enabled = False
    rig.file(mirror).sev.owner = rig.file(owner)

    with refuses(EINVAL):
        rig.op(mirror, KVM_SEV_ES_INIT)
    rig.file(mirror).sev.owner = None
    with refuses(ENOTTY):
        rig.op(mirror, KVM_SEV_ES_INIT)


# ------------------------------------------------------------------ errno by situation (kvm.md B15)


BEFORE_INIT = [id for id in COMMANDS]


@pytest.mark.parametrize("id", BEFORE_INIT)
def test_every_handler_says_enotty_before_init_even_to_a_bad_pointer(rig: Rig, id: int) -> None:
    with refuses(ENOTTY):
        rig.op(rig.vm(), id, NOWHERE)
    assert rig.last.error == UNTOUCHED


def twice(rig: Rig) -> Any:
    return rig.init(), KVM_SEV_INIT, 0


def after_a_vcpu(rig: Rig) -> Any:
    vm = rig.vm()
    rig.vcpu(vm)
    return vm, KVM_SEV_INIT, 0


def plain_vmsa(rig: Rig) -> Any:
    return rig.init(), KVM_SEV_LAUNCH_UPDATE_VMSA, 0


def status_before_start(rig: Rig) -> Any:
    return rig.init(), KVM_SEV_GUEST_STATUS, kvm_sev_guest_status()


def measured_twice(rig: Rig) -> Any:
    vm = rig.started()
    rig.measure(vm)
    return vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(rig.memory(48), 48)


def measure_of_no_length(rig: Rig) -> Any:
    return rig.started(), KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure()


@pytest.mark.parametrize(
    "situation, code, fw",
    [
        (twice, EBUSY, None),
        (after_a_vcpu, EINVAL, None),
        (plain_vmsa, ENOTTY, None),
        (status_before_start, EBADF, None),
        (measured_twice, EIO, Status.INVALID_GUEST_STATE),
        (measure_of_no_length, EIO, Status.INVALID_LEN),
    ],
)
def test_errno_by_situation(rig: Rig, situation: Any, code: int, fw: int | None) -> None:
    vm, id, data = situation(rig)

    with refuses(code, fw):
        rig.op(vm, id, data)
    assert rig.last.error == (UNTOUCHED if fw is None else fw)


@pytest.mark.parametrize("id", [KVM_SEV_INIT, KVM_SEV_LAUNCH_SECRET, KVM_SEV_GET_ATTESTATION_REPORT, 99, 10])
def test_a_vm_whose_context_was_moved_away_says_eio_to_everything(rig: Rig, id: int) -> None:
    vm = rig.started()
    rig.file(vm).dead = True

    with refuses(EIO):
        rig.op(vm, id, NOWHERE)
    with refuses(EIO):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0)


def test_update_data_before_start_is_ebadf_since_descriptor_0_is_no_dev_sev(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(4096))

    with refuses(EBADF):
        rig.update(vm, hva, 4096)
    rig.qemu.dup2(rig.sev, 0)  # and if it is one?
    with refuses(EIO, Status.INVALID_PLATFORM_STATE):
        rig.update(vm, hva, 4096)
    assert KVM_SEV_LAUNCH_UPDATE_DATA in COMMANDS


def test_the_dispatchers_ladder() -> None:
    codes = [rung.code for rung in ladder(memory_encrypt_op)]

    assert codes == ["ENOTTY", "EFAULT", "EINVAL", "ENOTTY", "EINVAL", "EFAULT", "EFAULT"]


def test_every_row_says_what_it_leaves_out_in_a_few_words() -> None:
    assert all(len(row.leaves_out) < 60 for design in designs.DESIGNS.values() for row in commands(design).values())
