"""MOVE on 6.1: what goes to the other VM, what stays, who pays, and what is left of the source (kvm.md F2, F3, F5)."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EBUSY, EINVAL, EIO
from itertools import pairwise

import pytest
from kvm.guests import MEMORY, PAGE, TOP
from kvm.two_vms import SHARED, Other, Primary, counter, second_process
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU,
    KVM_EXIT_HLT,
    KVM_EXIT_SHUTDOWN,
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_MEMORY_ENCRYPT_UNREG_REGION,
    KVM_RUN,
    KVM_SET_REGS,
    KVM_SET_SREGS,
    KVM_SET_USER_MEMORY_REGION,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enc_region,
    kvm_regs,
    kvm_sregs,
)
from sevlab.kvm import designs
from sevlab.kvm.enc_context import ContextMoved

NOWHERE = 0x6EEE_EEEE_E000


def moved(rig: Rig, policy: int = 0) -> tuple[int, int]:
    """A source that was started, and the destination that has its context now."""
    src, dst = rig.started(policy), rig.vm()
    rig.move(dst, src)
    return dst, src


# ------------------------------------------------------------------ what moves


def test_slot_handle_pins_and_regions_move_and_the_source_has_none(rig: Rig) -> None:
    src, dst = rig.started(), rig.vm()
    hva = rig.memory(bytes(0x3000))
    rig.register(src, hva, 0x3000)
    was = rig.file(src).sev
    asid, handle = was.asid, was.handle
    rig.move(dst, src)

    has = rig.file(dst).sev
    assert (has.active, has.asid, has.handle, has.pages_locked, len(has.regions)) == (True, asid, handle, 3, 1)
    assert (was.active, was.asid, was.handle, was.pages_locked, was.regions, was.misc_cg) == (False, 0, 0, 0, [], None)
    assert rig.kernel.asids.used() == {asid: rig.file(dst).number}
    assert rig.rows(ContextMoved)[-1]["asid"] == asid
    assert rig.soc.pages.pinned() == 3


def test_a_region_is_given_back_by_the_address_it_had_in_the_source(rig: Rig) -> None:
    other = second_process(rig)
    src, hva = rig.started(), rig.memory(bytes(0x2000))
    rig.register(src, hva, 0x2000)
    dst = rig.vm(process=other)
    rig.move(dst, rig.qemu.send_fd(src, other), other)
    with refuses(EINVAL):
        other.ioctl(dst, KVM_MEMORY_ENCRYPT_UNREG_REGION, kvm_enc_region(hva, 0x1000))
    other.ioctl(dst, KVM_MEMORY_ENCRYPT_UNREG_REGION, kvm_enc_region(hva, 0x2000))
    assert rig.soc.pages.pinned() == 0
    assert rig.file(dst, other).sev.pages_locked == 0


def test_the_pins_outlive_the_process_whose_memory_it_was(rig: Rig) -> None:
    other = second_process(rig)
    src, hva = rig.started(), rig.memory(bytes(0x2000))
    rig.register(src, hva, 0x2000)
    dst = rig.vm(process=other)
    rig.move(dst, rig.qemu.send_fd(src, other), other)
    rig.qemu.kill()
    assert rig.soc.pages.pinned() == 2
    other.close(dst)
    assert rig.soc.pages.pinned() == 0


def test_memory_slots_vcpus_and_plain_registers_stay_where_they_are(rig: Rig) -> None:
    src, dst = rig.started(), rig.aux(2)
    rig.slot(src, rig.memory(bytes(PAGE)), PAGE)
    rig.vcpu(src)
    rig.move(dst, src)

    assert (len(rig.file(dst).slots), len(rig.file(dst).vcpus)) == (0, 2)
    assert (len(rig.file(src).slots), len(rig.file(src).vcpus)) == (1, 1)


def test_the_jump_table_and_the_descriptors_number_stay_behind_as_it_is(rig: Rig) -> None:
    src, dst = rig.started(), rig.vm()
    rig.file(src).sev.ap_jump_table = 0x9000
    rig.move(dst, src)
    assert rig.file(dst).sev.ap_jump_table == rig.file(dst).sev.fd == 0


def test_a_vcpu_that_was_there_before_gets_the_key(rig: Rig) -> None:
    primary = Primary(rig, counter)
    for _ in range(3):
        primary.run()
    heir = Other(rig, primary)
    heir.see_memory()
    heir.add_vcpu(start=TOP)
    rig.move(heir.vm, primary.vm)

    assert heir.run() == KVM_EXIT_HLT
    assert primary.read(SHARED, 8) == bytes(8)  # from the program's top: no register came along


def test_a_plain_guest_is_carried_by_its_registers_and_counts_on(rig: Rig) -> None:
    primary = Primary(rig, counter)
    for _ in range(3):
        primary.run()
    heir = Other(rig, primary)
    heir.see_memory()
    heir.add_vcpu()
    rig.qemu.ioctl(heir.fd, KVM_SET_SREGS, primary.sregs())
    rig.qemu.ioctl(heir.fd, KVM_SET_REGS, primary.regs())
    rig.move(heir.vm, primary.vm)
    for count in (3, 4, 5):
        assert heir.run() == KVM_EXIT_HLT
        assert primary.read(SHARED, 8) == count.to_bytes(8, "little")


def test_without_memory_slots_the_key_is_there_and_the_guest_is_not(rig: Rig) -> None:
    primary = Primary(rig, counter)
    primary.run()
    heir = Other(rig, primary)
    heir.add_vcpu(start=TOP)
    rig.move(heir.vm, primary.vm)
    assert heir.run() != KVM_EXIT_HLT


def test_a_copy_of_the_bytes_is_ciphertext_at_the_wrong_address(rig: Rig) -> None:
    primary = Primary(rig, counter)
    primary.run()
    heir = Other(rig, primary)
    for number, (hva, size, gpa) in enumerate(((primary.memory, MEMORY, 0), (primary.top, PAGE, TOP))):
        rig.slot(heir.vm, rig.memory(rig.qemu.read(hva, size)), size, gpa=gpa, slot=number)
    heir.add_vcpu(start=TOP)
    rig.move(heir.vm, primary.vm)
    assert heir.run() == KVM_EXIT_SHUTDOWN


def test_a_moved_vm_can_be_moved_again_and_its_slot_freed(rig: Rig) -> None:
    chain = [rig.started(), rig.vm(), rig.vm(), rig.vm()]
    asid = rig.file(chain[0]).sev.asid
    for src, dst in pairwise(chain):
        rig.move(dst, src)
    for vm in chain[:-1]:
        rig.qemu.close(vm)
    assert list(rig.kernel.asids.used()) == [asid]
    rig.qemu.close(chain[-1])
    assert rig.kernel.asids.used() == rig.psp.guests == {}


def test_a_source_that_was_never_started_moves_its_slot(rig: Rig) -> None:
    src, dst = rig.init(), rig.vm()
    rig.move(dst, src)
    assert rig.start(dst) == 1
    assert rig.status(dst).state == 1


# ------------------------------------------------------------------ SEV-ES


def sealed(rig: Rig, vcpus: int = 1) -> int:
    vm = rig.started(policy=4)
    for vcpu_id in range(vcpus):
        rig.vcpu(vm, vcpu_id)
    rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    return vm


def test_es_save_areas_move_by_index_and_not_by_id(rig: Rig) -> None:
    src, dst = rig.started(policy=4), rig.vm()
    for here, there in ((0, 9), (5, 2), (3, 7)):
        rig.vcpu(src, here)
        rig.vcpu(dst, there)
    rig.op(src, KVM_SEV_LAUNCH_UPDATE_VMSA)
    pages = [vcpu.vmsa_pfn for vcpu in rig.file(src).vcpus]
    rig.move(dst, src)

    heirs, left = rig.file(dst).vcpus, rig.file(src).vcpus
    assert [vcpu.vmsa_pfn for vcpu in heirs] == pages
    assert [vcpu.vmcb.vmsa_hpa for vcpu in heirs] == [pfn << 12 for pfn in pages]
    assert all(vcpu.guest_state_protected and vcpu.vmcb.es and vcpu.vmcb.sev for vcpu in heirs)
    assert not any(vcpu.guest_state_protected or vcpu.vmsa_pfn or vcpu.vmcb.vmsa_hpa for vcpu in left)


def test_a_sealed_guest_goes_on_where_it_stood_without_any_register_carried(rig: Rig) -> None:
    primary = Primary(rig, counter, kind="es")
    for _ in range(3):
        primary.run()
    heir = Other(rig, primary)
    heir.see_memory()
    heir.fd = rig.vcpu(heir.vm)
    heir.page = rig.qemu.mmap(0x3000, fd=heir.fd)
    rig.move(heir.vm, primary.vm)
    for count in (3, 4):
        assert heir.run() == KVM_EXIT_HLT
        assert primary.read(SHARED, 8) == count.to_bytes(8, "little")


def test_the_source_closed_first_takes_no_save_area_with_it(rig: Rig) -> None:
    src, dst = sealed(rig), rig.aux(1)
    rig.move(dst, src)
    rig.qemu.close(src)
    assert rig.file(dst).vcpus[0].vmsa_pfn
    assert rig.file(dst).sev.es


# ------------------------------------------------------------------ the dead source


def test_every_ioctl_of_the_dead_source_is_eio_known_or_not(rig: Rig) -> None:
    _, src = moved(rig)
    numbers = (
        KVM_CHECK_EXTENSION, KVM_CREATE_VCPU, KVM_SET_USER_MEMORY_REGION, KVM_MEMORY_ENCRYPT_OP,
        KVM_MEMORY_ENCRYPT_REG_REGION, KVM_MEMORY_ENCRYPT_UNREG_REGION, 0xAEFF,
    )  # fmt: skip
    for number in numbers:
        with refuses(EIO):
            rig.qemu.ioctl(src, number, NOWHERE)
    assert rig.qemu.ioctl(rig.kvm, KVM_CHECK_EXTENSION, 206) == 1  # /dev/kvm is nobody's source


def test_every_ioctl_of_its_vcpus_is_eio_and_their_mapping_stays(rig: Rig) -> None:
    src, dst = rig.started(), rig.vm()
    vcpu = rig.vcpu(src)
    page = rig.qemu.mmap(0x3000, fd=vcpu)
    rig.move(dst, src)
    calls = ((KVM_RUN, 0), (KVM_GET_REGS, kvm_regs()), (KVM_GET_SREGS, kvm_sregs()), (KVM_GET_MP_STATE, NOWHERE), (1, 1))
    for number, arg in calls:
        with refuses(EIO):
            rig.qemu.ioctl(vcpu, number, arg)
    assert rig.qemu.read(page, 8) == bytes(8)
    assert rig.qemu.read(rig.qemu.mmap(0x3000, fd=vcpu), 8) == bytes(8)
    rig.qemu.close(vcpu)


def test_as_a_source_the_dead_one_is_einval_and_as_a_destination_eio(rig: Rig) -> None:
    dst, src = moved(rig)
    fresh = rig.vm()
    with refuses(EINVAL):
        rig.move(fresh, src)
    with refuses(EINVAL):
        rig.copy(fresh, src)
    with refuses(EIO):
        rig.move(src, dst)
    with refuses(EIO):
        rig.move(src, 400)  # dead before its descriptor is looked at


def test_closing_the_dead_source_frees_nothing(rig: Rig) -> None:
    dst, src = moved(rig)
    rig.qemu.close(src)
    assert len(rig.psp.guests) == len(rig.kernel.asids.used()) == 1
    assert rig.file(dst).sev.active


def test_a_call_that_waited_for_the_source_finds_no_sev_there(rig: Rig) -> None:
    """It had passed the check at the door before the VM died (kvm_vm_ioctl); its lock is free now, and nothing is behind it."""
    src, dst = rig.started(), rig.vm()
    late = rig.qemu.begin(src, KVM_MEMORY_ENCRYPT_OP, rig.last)
    late.step()
    rig.move(dst, src)
    with pytest.raises(OSError) as no:
        late.finish()
    assert no.value.errno == 25  # ENOTTY: !sev_guest(kvm)


# ------------------------------------------------------------------ who pays

TENANTS = {"/a": {"sev": 2, "sev_es": 2}, "/b": {"sev": 1, "sev_es": 1}}


def tenants(make_rig: Callable[..., Rig], design: designs.Design = designs.LINUX_6_1) -> tuple[Rig, object]:
    rig = make_rig(design, cgroups=TENANTS, cgroup="/a")
    return rig, second_process(rig, cgroup="/b")


def test_the_new_tenant_is_charged_and_the_old_one_released(make_rig: Callable[..., Rig]) -> None:
    rig, other = tenants(make_rig)
    src, dst = rig.started(), rig.vm(process=other)
    assert rig.charges() == {"/": {"sev": 1}, "/a": {"sev": 1}}
    rig.move(dst, rig.qemu.send_fd(src, other), other)
    assert rig.charges() == {"/": {"sev": 1}, "/b": {"sev": 1}}
    other.close(dst)  # type: ignore[attr-defined]
    assert rig.charges() == {}


def test_within_one_cgroup_nothing_is_charged_even_if_it_is_full(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cgroups={"/a": {"sev": 1}}, cgroup="/a")
    moved(rig)
    assert rig.charges() == {"/": {"sev": 1}, "/a": {"sev": 1}}
    assert rig.kernel.root_cgroup.find("/a").events["sev"] == 0


def test_a_full_target_refuses_and_nothing_has_changed(make_rig: Callable[..., Rig]) -> None:
    rig, other = tenants(make_rig)
    src, dst, full = rig.started(), rig.vm(process=other), rig.vm(process=other)
    rig.op(full, 0, process=other)
    before = rig.charges()
    with refuses(EBUSY) as no:
        rig.move(dst, rig.qemu.send_fd(src, other), other)
    assert "max or capacity" in no.why
    assert rig.charges() == before
    assert rig.kernel.root_cgroup.find("/b").events["sev"] == 1
    assert (rig.file(src).sev.active, rig.file(dst, other).sev.active, rig.file(dst, other).sev.misc_cg) == (True, False, None)
    assert rig.status(src).state == 1


def test_a_full_machine_refuses_too_though_in_sum_nothing_would_change(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(chip="naples", cgroups={"/a": {}, "/b": {}}, cgroup="/a")
    guests = [rig.init() for _ in range(10)]  # Naples: slots 6 to 15
    other = second_process(rig, cgroup="/b")
    with refuses(EBUSY):
        rig.move(rig.vm(process=other), rig.qemu.send_fd(guests[0], other), other)
    assert rig.charges() == {"/": {"sev": 10}, "/a": {"sev": 10}}


def test_what_is_wrong_afterwards_takes_the_charge_back(make_rig: Callable[..., Rig]) -> None:
    rig, other = tenants(make_rig)
    src = sealed(rig)
    dst = rig.vm(process=other)  # no vCPU: EINVAL, after the charge
    before = rig.charges()
    with refuses(EINVAL):
        rig.move(dst, rig.qemu.send_fd(src, other), other)
    assert rig.charges() == before
    assert rig.file(dst, other).sev.misc_cg is None


def test_the_caller_pays_and_not_the_one_who_made_the_vm(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(cgroups={"/a": {}, "/b": {}}, cgroup="/a")
    src, dst = rig.started(), rig.vm()
    rig.qemu.cgroup = "/b"
    rig.move(dst, src)
    assert rig.charges() == {"/": {"sev": 1}, "/b": {"sev": 1}}


# ------------------------------------------------------------------ mirrors


def test_mirrors_are_handed_over_with_their_references(rig: Rig) -> None:
    src, one, two, dst = rig.started(), rig.vm(), rig.vm(), rig.vm()
    rig.copy(one, src)
    rig.copy(two, src)
    rig.move(dst, src)

    new, old = rig.file(dst), rig.file(src)
    assert [rig.file(vm).sev.owner for vm in (one, two)] == [new, new]
    assert new.sev.mirrors == [rig.file(one), rig.file(two)]
    assert (new.refs, old.refs, old.sev.mirrors) == (3, 1, [])
    rig.qemu.close(dst)
    assert rig.status(one).state == 1


def test_a_mirror_moves_and_keeps_its_place_among_the_owners(rig: Rig) -> None:
    owner, one, two, dst = rig.started(), rig.vm(), rig.vm(), rig.aux(2)
    rig.copy(one, owner)
    rig.copy(two, owner)
    rig.leaks = {"/": {"sev": 1}}  # as it is: a moved mirror is charged, and never released
    rig.move(dst, one)

    assert rig.file(dst).sev.owner is rig.file(owner)
    assert rig.file(owner).sev.mirrors == [rig.file(dst), rig.file(two)]
    assert (rig.file(owner).refs, rig.file(one).sev.owner, rig.file(one).dead) == (3, None, True)
    assert rig.kernel.asids.used() == {rig.file(owner).sev.asid: rig.file(owner).number}
    with refuses(EBADF):
        rig.status(dst)  # what a mirror may ask it still may, were there a road to the firmware


def test_owner_then_mirror_and_closed_in_this_order(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(designs.LINUX_6_1_FIXED)
    a, m, a2, m2 = rig.started(), rig.vm(), rig.vm(), rig.vm()
    rig.copy(m, a)
    rig.move(a2, a)
    rig.move(m2, m)
    assert rig.file(m2).sev.owner is rig.file(a2)
    used = []
    for vm in (a, a2, m, m2):
        rig.qemu.close(vm)
        used.append(len(rig.kernel.asids.used()))
    assert used == [1, 1, 1, 0]
