"""A second VM with the first one's key (6.1): who may, what is shared, what a mirror may ask, how both of them end."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EFAULT, EINVAL, EIO, ENOTTY

import pytest
from kvm.two_vms import SECRET, Other, Primary, keeper, reader, second_process
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CHECK_EXTENSION,
    KVM_EXIT_HLT,
    KVM_EXIT_SHUTDOWN,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_DBG_ENCRYPT,
    KVM_SEV_ES_INIT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_MEASURE,
    KVM_SEV_LAUNCH_START,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_sev_dbg,
    kvm_sev_guest_status,
    kvm_sev_launch_measure,
    kvm_sev_launch_start,
)
from sevlab.abi.sev import Status
from sevlab.hw.soc import Wbinvd
from sevlab.kvm import designs
from sevlab.kvm.enc_context import ContextCopied, MirrorGone
from sevlab.kvm.vm import VmGone

NOWHERE = 0x6EEE_EEEE_E000
COPY = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM


def pair(rig: Rig) -> tuple[int, int]:
    """An owner that was started, and its mirror."""
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    return owner, mirror


# ------------------------------------------------------------------ what is shared, what is its own


def test_a_mirror_has_slot_handle_and_kind_of_its_owner_and_nothing_else(rig: Rig) -> None:
    owner = rig.started(policy=4)
    hva = rig.memory(bytes(0x3000))
    rig.register(owner, hva, 0x3000)
    rig.file(owner).sev.ap_jump_table = 0x9000
    mirror = rig.vm()
    rig.copy(mirror, owner)

    of, copy = rig.file(owner).sev, rig.file(mirror).sev
    assert (copy.active, copy.asid, copy.handle, copy.es, copy.fd) == (True, of.asid, of.handle, True, of.fd)
    assert (copy.pages_locked, copy.regions, copy.ap_jump_table, copy.misc_cg) == (0, [], 0, None)
    assert copy.owner is rig.file(owner)
    assert of.mirrors == [rig.file(mirror)]
    assert rig.rows(ContextCopied)[-1]["asid"] == of.asid


def test_a_mirror_may_have_memory_slots_before_it_becomes_one(rig: Rig) -> None:
    owner, mirror = rig.started(), rig.vm()
    rig.slot(mirror, rig.memory(bytes(0x1000)), 0x1000)
    rig.copy(mirror, owner)

    assert len(rig.file(mirror).slots) == 1
    assert len(rig.file(owner).slots) == 0


def test_the_mirrors_vcpu_reads_what_the_primary_keeps_private(rig: Rig) -> None:
    primary = Primary(rig)
    assert primary.run() == KVM_EXIT_HLT
    mirror = Other(rig, primary)
    rig.copy(mirror.vm, primary.vm)
    mirror.see_memory()
    mirror.add_vcpu()

    assert mirror.run() == KVM_EXIT_HLT
    assert mirror.said() == SECRET
    assert rig.qemu.read(primary.memory + 0x1000, 16) != SECRET


def test_a_stranger_with_a_key_of_its_own_cannot_even_fetch_the_helper(rig: Rig) -> None:
    primary = Primary(rig)
    primary.run()
    stranger = Other(rig, primary, rig.started())
    stranger.see_memory()
    stranger.add_vcpu()

    assert stranger.run() == KVM_EXIT_SHUTDOWN
    assert stranger.said() == bytes(16)


def test_a_stranger_with_the_same_program_under_its_own_key_reads_noise(rig: Rig) -> None:
    primary = Primary(rig)
    primary.run()
    stranger = Primary(rig, reader)  # its own program, under its own key ...
    rig.slot(stranger.vm, stranger.memory, 0)
    rig.slot(stranger.vm, primary.memory, 0x4_0000)  # ... over the primary's memory
    assert stranger.run() == KVM_EXIT_HLT

    said = primary.read(0x2000, 16)
    assert said not in (SECRET, bytes(16))
    assert said != rig.qemu.read(primary.memory + 0x1000, 16)  # nor is it what the bus carries


def test_a_plain_vm_over_the_same_memory_reads_ciphertext_and_runs_nothing(rig: Rig) -> None:
    primary = Primary(rig)
    primary.run()
    plain = Other(rig, primary)
    plain.see_memory()
    plain.add_vcpu()

    assert plain.run() == KVM_EXIT_SHUTDOWN
    assert plain.said() == bytes(16)


def test_what_the_mirror_writes_privately_the_primary_reads(rig: Rig) -> None:
    primary = Primary(rig, reader, helper=keeper)
    primary.run()
    mirror = Other(rig, primary)
    rig.copy(mirror.vm, primary.vm)
    mirror.see_memory()
    mirror.add_vcpu()

    assert primary.read(0x2000, 16) != SECRET
    assert mirror.run() == KVM_EXIT_HLT
    assert primary.run() == KVM_EXIT_HLT
    assert primary.read(0x2000, 16) == SECRET


def test_without_memory_slots_of_its_own_a_mirror_has_no_memory(rig: Rig) -> None:
    primary = Primary(rig)
    mirror = Other(rig, primary)
    rig.copy(mirror.vm, primary.vm)
    mirror.add_vcpu()

    assert mirror.run() != KVM_EXIT_HLT


def test_mirrors_are_not_charged_and_use_no_slot(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cgroups={"/a": {"sev": 1}, "/b": {"sev": 0}}, cgroup="/a")
    owner = rig.started()
    other = second_process(rig, cgroup="/b")
    mirror = rig.vm(process=other)
    rig.copy(mirror, rig.qemu.send_fd(owner, other), other)

    assert rig.charges() == {"/": {"sev": 1}, "/a": {"sev": 1}}
    assert len(rig.kernel.asids.used()) == 1


# ------------------------------------------------------------------ E4: what a mirror may ask


@pytest.mark.parametrize("id", [*range(24), 30, 100, 1 << 31])
def test_a_mirror_may_ask_for_four_things_and_every_other_id_is_einval_before_its_data(rig: Rig, id: int) -> None:
    _, mirror = pair(rig)
    if id in designs.MIRROR.may:
        with refuses(ENOTTY if id == KVM_SEV_LAUNCH_UPDATE_VMSA else EFAULT):
            rig.op(mirror, id, NOWHERE)
    else:
        with refuses(EINVAL):
            rig.op(mirror, id, NOWHERE)
        assert rig.last.error == UNTOUCHED


def test_the_four_are_these() -> None:
    assert designs.MIRROR.may == {4, 16, 17, 18}
    assert designs.MIRROR.may == {KVM_SEV_LAUNCH_UPDATE_VMSA, KVM_SEV_GUEST_STATUS, KVM_SEV_DBG_DECRYPT, KVM_SEV_DBG_ENCRYPT}


def test_a_null_argument_still_says_that_there_is_sev(rig: Rig) -> None:
    _, mirror = pair(rig)
    assert rig.qemu.ioctl(mirror, KVM_MEMORY_ENCRYPT_OP, 0) == 0
    with refuses(EFAULT):
        rig.qemu.ioctl(mirror, KVM_MEMORY_ENCRYPT_OP, NOWHERE)


def test_status_of_the_mirror_is_the_owners(rig: Rig) -> None:
    owner, mirror = pair(rig)
    assert rig.status(mirror).pack() == rig.status(owner).pack()


def test_a_mirror_decrypts_for_debugging_what_its_owner_may(rig: Rig) -> None:
    owner, mirror = pair(rig)
    hva, out = rig.memory(SECRET), rig.memory(bytes(16))
    rig.update(owner, hva, 16)
    rig.op(mirror, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(hva, out, 16))

    assert rig.qemu.read(out, 16) == SECRET


def test_regions_are_the_owners_business(rig: Rig) -> None:
    owner, mirror = pair(rig)
    hva = rig.memory(bytes(0x1000))
    rig.register(owner, hva, 0x1000)
    with refuses(EINVAL):
        rig.register(mirror, hva, 0x1000)
    with refuses(EINVAL):
        rig.register(mirror, hva, 0)  # an empty region: a mirror is asked about first
    with refuses(EINVAL):
        rig.unregister(mirror, hva, 0x1000)
    assert len(rig.file(owner).sev.regions) == 1


def test_neither_init_nor_a_mirror_of_a_mirror_nor_a_move_onto_it(rig: Rig) -> None:
    owner, mirror = pair(rig)
    for id in (KVM_SEV_INIT, KVM_SEV_ES_INIT):
        with refuses(EINVAL):
            rig.op(mirror, id)
    with refuses(EINVAL):
        rig.copy(rig.vm(), mirror)
    with refuses(EINVAL):
        rig.move(mirror, owner)


def test_es_init_on_a_mirror_is_einval_even_where_there_is_no_es(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip="naples")
    _, mirror = pair(rig)
    with refuses(EINVAL):
        rig.op(mirror, KVM_SEV_ES_INIT)


# ------------------------------------------------------------------ SEV-ES


def test_an_es_mirrors_registers_are_measured_with_its_owners(rig: Rig) -> None:
    owner, mirror = rig.started(policy=4), rig.vm()
    rig.copy(mirror, owner)
    rig.vcpu(mirror)
    alone = rig.psp.guests[1].digest.copy().digest()
    rig.op(mirror, KVM_SEV_LAUNCH_UPDATE_VMSA)

    assert rig.file(mirror).vcpus[0].guest_state_protected
    assert rig.psp.guests[1].digest.copy().digest() != alone


def test_after_the_owners_measurement_an_es_mirror_comes_too_late(rig: Rig) -> None:
    owner, mirror = rig.started(policy=4), rig.vm()
    rig.copy(mirror, owner)
    rig.vcpu(mirror)
    rig.op(owner, KVM_SEV_LAUNCH_MEASURE, kvm_sev_launch_measure(rig.qemu.put(bytes(48)), 48))
    with refuses(EIO, Status.INVALID_GUEST_STATE):
        rig.op(mirror, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert not rig.file(mirror).vcpus[0].guest_state_protected


def test_a_typed_vm_becomes_a_mirror_and_needs_no_init2(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_12)
    owner, mirror = rig.started(), rig.vm(2)
    assert rig.file(mirror).sev.need_init
    rig.copy(mirror, owner)

    assert not rig.file(mirror).sev.need_init
    with refuses(EINVAL):
        rig.op(mirror, 22)  # INIT2


# ------------------------------------------------------------------ E5: how it ends


def alive(rig: Rig) -> tuple[int, int, int]:
    """VMs, slots in use, firmware contexts."""
    return len(rig.kernel.vms), len(rig.kernel.asids.used()), len(rig.psp.guests)


def test_mirror_first_costs_nothing_and_then_the_owner_goes(rig: Rig) -> None:
    owner, mirror = pair(rig)
    flushed = len(rig.rows(Wbinvd))
    rig.qemu.close(mirror)
    assert alive(rig) == (1, 1, 1)
    assert len(rig.rows(Wbinvd)) == flushed
    assert rig.file(owner).sev.mirrors == []
    rig.qemu.close(owner)
    assert alive(rig) == (0, 0, 0)


def test_an_owner_whose_descriptor_is_closed_lives_as_long_as_its_mirror(rig: Rig) -> None:
    owner, mirror = pair(rig)
    hva = rig.memory(bytes(0x2000))
    rig.register(owner, hva, 0x2000)
    rig.qemu.close(owner)
    assert alive(rig) == (2, 1, 1)
    assert rig.soc.pages.pinned() == 2
    assert rig.status(mirror).state == 1
    rig.qemu.close(mirror)

    assert alive(rig) == (0, 0, 0)
    assert sorted(row["vm"] for row in rig.rows(VmGone)) == [1, 2]
    assert rig.soc.pages.pinned() == 0


def test_a_vcpu_of_the_mirror_keeps_the_mirror_and_the_mirror_its_owner(rig: Rig) -> None:
    owner, mirror = pair(rig)
    vcpu = rig.vcpu(mirror)
    rig.qemu.close(owner)
    rig.qemu.close(mirror)
    assert alive(rig) == (2, 1, 1)
    rig.qemu.close(vcpu)
    assert alive(rig) == (0, 0, 0)


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_two_mirrors_and_an_owner_may_end_in_any_order(rig: Rig, order: tuple[int, ...]) -> None:
    owner = rig.started()
    vms = [owner, rig.vm(), rig.vm()]
    for mirror in vms[1:]:
        rig.copy(mirror, owner)
    for left, index in enumerate(order, 1):
        rig.qemu.close(vms[index])
        assert len(rig.kernel.asids.used()) == (left < 3)
        assert len(rig.psp.guests) == (left < 3)


def test_the_owners_process_is_killed_and_the_mirror_runs_on(rig: Rig) -> None:
    other = second_process(rig)
    owner = rig.started()
    mirror = rig.vm(process=other)
    rig.copy(mirror, rig.qemu.send_fd(owner, other), other)
    rig.qemu.kill()
    assert alive(rig) == (2, 1, 1)
    other.kill()
    assert alive(rig) == (0, 0, 0)
    assert len(rig.rows(MirrorGone)) == 1


def test_the_slot_is_not_reused_while_a_mirror_has_it(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig()
    owner, mirror = pair(rig)
    asid = rig.file(mirror).sev.asid
    rig.qemu.close(owner)
    assert rig.file(rig.init()).sev.asid != asid


# ------------------------------------------------------------------ whose descriptor


def test_the_mirror_has_the_owners_number_of_dev_sev_and_looks_it_up_in_its_own_process(rig: Rig) -> None:
    other = second_process(rig)
    owner, mirror = rig.init(), rig.vm(process=other)
    rig.op(owner, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(), sev_fd=rig.qemu.dup2(rig.sev, 40))
    rig.copy(mirror, rig.qemu.send_fd(owner, other), other)
    with refuses(EBADF):
        rig.op(mirror, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), process=other, sev_fd=other.open("/dev/sev"))
    other.dup2(other.open("/dev/sev"), 40)
    rig.op(mirror, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), process=other)


@pytest.mark.parametrize("design", designs.DESIGNS.values(), ids=lambda design: design.name)
def test_the_capability_is_claimed_by_every_kernel_that_has_it(make_rig: Callable[..., Rig], design: designs.Design) -> None:
    rig = make_rig(design)
    assert rig.qemu.ioctl(rig.kvm, KVM_CHECK_EXTENSION, COPY) == rig.qemu.ioctl(rig.vm(), KVM_CHECK_EXTENSION, COPY) == 1


def test_a_kernel_before_it_has_neither_the_capability_nor_the_call(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.replace(designs.LINUX_5_13, mirror=designs.ABSENT))
    owner, mirror = rig.started(), rig.vm()
    assert rig.qemu.ioctl(mirror, KVM_CHECK_EXTENSION, COPY) == 0
    with refuses(EINVAL):
        rig.copy(mirror, owner)
    with refuses(EINVAL):
        rig.copy(mirror, 400)  # a descriptor is not even looked at


def test_start_on_a_mirror_is_einval_and_leaves_the_context_alone(rig: Rig) -> None:
    _, mirror = pair(rig)
    with refuses(EINVAL):
        rig.op(mirror, KVM_SEV_LAUNCH_START, kvm_sev_launch_start())
    assert list(rig.psp.guests) == [1]
