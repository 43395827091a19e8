"""The oracle table of 6.1 (kvm.md B15), row by row: each alone, and with a second thing wrong that stands lower."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EBUSY, EFAULT, EINVAL, EIO, ENOMEM, ENOTTY

import pytest
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_DBG_ENCRYPT,
    KVM_SEV_ES_INIT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_FINISH,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_DATA,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_update_data,
)
from sevlab.abi.sev import Status
from sevlab.hw import chips
from sevlab.kvm import designs

Make = Callable[..., Rig]
NOWHERE = 0x6EEE_EEEE_E000
BLOB = 16 << 10  # SEV_FW_BLOB_MAX_SIZE
HANDLERS = (
    KVM_SEV_LAUNCH_START, KVM_SEV_LAUNCH_UPDATE_DATA, KVM_SEV_LAUNCH_UPDATE_VMSA, KVM_SEV_LAUNCH_MEASURE, KVM_SEV_LAUNCH_SECRET,
    KVM_SEV_LAUNCH_FINISH, KVM_SEV_GUEST_STATUS, KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT,
)  # fmt: skip


def update(hva: int, size: int) -> kvm_sev_launch_update_data:
    return kvm_sev_launch_update_data(hva, size)


# ------------------------------------------------------------------ before INIT


@pytest.mark.parametrize("id", HANDLERS)
def test_before_init_enotty_whatever_the_data_is(rig: Rig, id: int) -> None:
    vm = rig.vm()
    for data in (0, NOWHERE):
        with refuses(ENOTTY):
            rig.op(vm, id, data)
        assert rig.last.error == UNTOUCHED


# ------------------------------------------------------------------ INIT


def test_init_twice_is_ebusy_and_with_a_vcpu_besides_einval(rig: Rig) -> None:
    vm = rig.init()
    for id in (KVM_SEV_INIT, KVM_SEV_ES_INIT):
        with refuses(EBUSY):
            rig.op(vm, id)
    rig.vcpu(vm)
    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_INIT)  # both wrong: the vCPU is asked for first


def test_init_after_a_vcpu_is_einval_even_when_no_slot_is_free(make_rig: Make) -> None:
    rig = make_rig(cgroups={"/none": {"sev": 0}}, cgroup="/none")
    with refuses(EINVAL):
        rig.op(rig.aux(1), KVM_SEV_INIT)
    assert rig.kernel.root_cgroup.find("/none").events["sev"] == 0


def test_out_of_slots_and_over_the_limit_are_both_ebusy(make_rig: Make) -> None:
    rig = make_rig(chip=replace(chips.ROME, name="one slot", max_asid=100))
    rig.init()
    with refuses(EBUSY):
        rig.init()
    rig = make_rig(cgroups={"/none": {"sev": 0}}, cgroup="/none")
    with refuses(EBUSY):
        rig.init()
    assert rig.kernel.root_cgroup.find("/none").events["sev"] == 1


def test_es_init_without_es_is_enotty_before_the_vm_is_looked_at(make_rig: Make) -> None:
    rig = make_rig(chip=replace(chips.ROME, name="no es", min_asid=1))
    for vm in (rig.vm(), rig.init(), rig.aux(1)):
        with refuses(ENOTTY):
            rig.op(vm, KVM_SEV_ES_INIT)
        assert rig.last.error == UNTOUCHED


def test_on_6_12_the_second_init_is_einval(make_rig: Make) -> None:
    rig = make_rig(designs.LINUX_6_12)
    with refuses(EINVAL):
        rig.op(rig.init(), KVM_SEV_INIT)


# ------------------------------------------------------------------ the launch


def test_vmsa_on_plain_sev_is_enotty_in_any_state(rig: Rig) -> None:
    for vm in (rig.init(), rig.started()):
        with refuses(ENOTTY):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA, NOWHERE)


@pytest.mark.parametrize("id", [KVM_SEV_LAUNCH_UPDATE_DATA, KVM_SEV_GUEST_STATUS, KVM_SEV_LAUNCH_FINISH])
def test_between_init_and_start_number_zero_is_no_dev_sev(rig: Rig, id: int) -> None:
    vm, hva = rig.init(), rig.memory(bytes(16))
    data = {KVM_SEV_LAUNCH_UPDATE_DATA: update(hva, 16), KVM_SEV_GUEST_STATUS: kvm_sev_guest_status()}.get(id, 0)
    with refuses(EBADF):
        rig.op(vm, id, data)
    assert rig.last.error == UNTOUCHED


def test_before_that_structure_length_and_memory_are_asked_for_in_this_order(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(16))
    with refuses(EFAULT):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, NOWHERE)
    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update(NOWHERE, 0))  # nothing is there, and it is empty
    with refuses(EINVAL):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update((1 << 64) - 4096, 4096))
    with refuses(ENOMEM):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update(NOWHERE, 16))
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update(hva, 15))  # the firmware would refuse 15, were it asked
    assert rig.soc.pages.pinned() == 0


@pytest.mark.parametrize("length", [1, 2**31, 2**32 - 1])
def test_too_much_to_pin_is_enomem_before_the_firmwares_own_rules(rig: Rig, length: int) -> None:
    vm = rig.started()
    if length == 1:
        with refuses(EIO, Status.INVALID_LEN):
            rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update(rig.memory(bytes(16)), 1))
        return
    with refuses(ENOMEM):
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_DATA, update(0x10000, length))
    assert any("exceed the lock limit" in line for line in rig.kernel.dmesg)


def test_measure_in_the_wrong_state_is_eio_2(rig: Rig) -> None:
    vm = rig.started()
    rig.measure(vm)
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(rig.qemu.put(bytes(48)), 48))
    with refuses(EINVAL):  # too long a buffer outweighs the state
        rig.op(vm, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(NOWHERE, BLOB + 1))


def test_measure_of_length_0_is_eio_4_and_the_length_is_filled_in(rig: Rig) -> None:
    measure = kvm_sev_launch_measure(NOWHERE, 0)
    with refuses(EIO, Status.INVALID_LEN):
        rig.op(rig.started(), KVM_SEV_LAUNCH_MEASURE, measure)
    assert (measure.len, rig.last.error) == (48, Status.INVALID_LEN)


# ------------------------------------------------------------------ the dispatcher


@pytest.mark.parametrize("id", [10, 14, 19, 22, 23, 99, 1 << 31, (1 << 32) - 1])
@pytest.mark.parametrize("active", [False, True], ids=["plain", "SEV"])
def test_an_id_that_nobody_serves_is_einval_before_there_is_sev_and_is_not_copied_back(rig: Rig, id: int, active: bool) -> None:
    with refuses(EINVAL):
        rig.op(rig.started() if active else rig.vm(), id, NOWHERE)
    assert rig.last.error == UNTOUCHED


def test_a_null_argument_is_success_and_one_to_nowhere_efault(rig: Rig) -> None:
    vm = rig.vm()
    assert rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, 0) == 0
    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, NOWHERE)


@pytest.mark.parametrize("argument", [0, NOWHERE, 1])
def test_a_vm_whose_context_was_moved_away_is_eio_before_its_argument_is_read(rig: Rig, argument: int) -> None:
    vm = rig.started()
    rig.move(rig.vm(), vm)
    with refuses(EIO):
        rig.qemu.ioctl(vm, KVM_MEMORY_ENCRYPT_OP, argument)
