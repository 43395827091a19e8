"""The seam `move`: what the review of V11 did not see, each defect red there and green on 6.1; and locks taken naively.

Numbers as in kvm.md F6.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EBUSY, EINTR, EINVAL

import pytest
from kvm.test_move_order import begin, drive, running
from kvm.two_vms import SHARED, Other, Primary, counter, spinner
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CHECK_EXTENSION,
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HLT,
)
from sevlab.kvm import designs
from sevlab.kvm.fd import Oops

Make = Callable[..., Rig]
MERGED = designs.LINUX_6_1_FIXED
POSTED = replace(MERGED, name="6.1 with V11", move=designs.MOVE_V11)


def test_defect_1_a_move_that_gives_up_takes_the_lock_from_the_vcpu_that_runs(make_rig: Make) -> None:
    for design, robbed in ((POSTED, True), (MERGED, False)):
        rig = make_rig(design)
        primary = Primary(rig, spinner, vcpus=2)
        runs = running(rig, primary)
        mutex = primary.vcpu().mutex
        assert mutex.holder is runs
        with refuses(EINTR):
            rig.move(rig.vm(), primary.vm)  # nobody lets go of the vCPU: answered as after a signal
        assert (mutex.holder is None) is robbed
        assert ("WARNING: bad unlock balance detected!" in rig.kernel.dmesg) is robbed
        if robbed:
            primary.regs()  # a second call is inside the vCPU together with KVM_RUN
        runs.interrupt()
        with refuses(EINTR):
            runs.finish()
        assert rig.file(primary.vm).lock.holder is None


def test_defect_1_by_the_other_label_too(make_rig: Make) -> None:
    for design, robbed in ((POSTED, True), (MERGED, False)):
        rig = make_rig(design)
        dst = Primary(rig, spinner, kind="plain")
        runs = running(rig, dst)
        with refuses(EINTR):
            rig.move(dst.vm, rig.started())
        assert (dst.vcpu().mutex.holder is None) is robbed
        runs.interrupt()


def test_defect_2_is_none_a_list_replaced_while_empty_ends_up_empty(make_rig: Make) -> None:
    """The four assignments of list_replace(), and of the initialisation after it, on an empty list (kvm.md F6 (2), J22).

    The fix that went in (4674164f0ac5) says that they corrupt it; played through they do not.
    """

    class Head:
        def __init__(self) -> None:
            self.next = self.prev = self

    old, new = Head(), Head()
    new.next = old.next
    new.next.prev = new
    new.prev = old.prev
    new.prev.next = new
    old.next = old.prev = old
    assert new.next is new.prev is new

    for design in (POSTED, MERGED):
        rig = make_rig(design)
        src, dst, hva = rig.started(), rig.vm(), rig.memory(bytes(4096))
        rig.move(dst, src)  # no region at all
        rig.register(dst, hva, 4096)
        rig.unregister(dst, hva, 4096)


def test_defect_2_is_one_where_the_list_was_never_initialised() -> None:
    """A 5.13 mirror's: V11 walks a null pointer, and what it held it holds for ever."""
    rig = Rig(designs.POSTED)  # not balanced: a task that dies in the kernel gives nothing back
    owner, mirror, dst = rig.started(), rig.vm(), rig.vm()
    rig.copy(mirror, owner)
    vms = [rig.file(dst), rig.file(mirror)]
    with pytest.raises(Oops) as oops:
        rig.move(dst, mirror)
    assert "list_replace_init" in oops.value.why
    assert rig.qemu.dead
    assert all(vm.lock.holder is not None and vm.migration_in_progress.holder is not None for vm in vms)
    assert rig.kernel.vms  # the reference that fget() took


def test_defect_2_on_6_1_a_mirror_moves(make_rig: Make) -> None:
    rig = make_rig(MERGED)
    owner, mirror, dst = rig.started(), rig.vm(), rig.vm()
    rig.copy(mirror, owner)
    rig.move(dst, mirror)
    assert rig.file(dst).sev.owner is rig.file(owner)


def test_defect_3_a_mirror_of_a_moved_owner_runs_on_a_slot_that_is_nobodys(make_rig: Make) -> None:
    """J2: copy A to B, move A to L, close L. The next tenant gets B's slot."""
    for design, dangling in ((POSTED, True), (MERGED, False)):
        rig = make_rig(design)
        a, b, heir = rig.started(), rig.vm(), rig.vm()
        rig.copy(b, a)
        rig.move(heir, a)
        asid, kept = rig.file(b).sev.asid, rig.file(heir)
        rig.qemu.close(heir)
        assert rig.file(b).sev.owner is (rig.file(a) if dangling else kept)
        assert (rig.kernel.asids.state(asid) == "reclaimable") is dangling
        assert bool(rig.psp.guests) is not dangling


def test_defect_3_a_moved_mirror_loses_its_owner_and_takes_the_owners_slot_down_with_it() -> None:
    rig = Rig(POSTED)  # not balanced: the owner's reference is lost
    owner, mirror, dst = rig.started(), rig.vm(), rig.vm()
    rig.copy(mirror, owner)
    rig.move(dst, mirror)
    assert rig.file(dst).sev.owner is None
    with refuses(EBADF):
        rig.status(dst)
    rig.qemu.close(dst)
    assert rig.kernel.asids.used() == {} and rig.psp.guests == {}  # while the owner still runs
    rig.close()
    assert [vm.sev.active for vm in rig.kernel.vms.values()] == [True]  # the owner, kept by nobody for ever


def test_defect_4_a_vm_onto_itself_meets_its_own_mark(make_rig: Make) -> None:
    for design, code in ((POSTED, EBUSY), (MERGED, EINVAL)):
        rig = make_rig(design)
        for vm in (rig.vm(), rig.vm()):
            with refuses(code):
                rig.move(vm, vm)
        with refuses(EINVAL):
            sev = rig.started()
            rig.move(sev, sev)


def test_defect_5_the_capability_does_not_say_that_it_is_there(make_rig: Make) -> None:
    for design, said in ((POSTED, 0), (MERGED, 1)):
        rig = make_rig(design)
        vm = rig.vm()
        assert rig.qemu.ioctl(vm, KVM_CHECK_EXTENSION, 206) == rig.qemu.ioctl(rig.kvm, KVM_CHECK_EXTENSION, 206) == said
        rig.move(vm, rig.started())  # it is there all the same


def test_defect_6_vcpus_made_before_the_move_run_without_the_key(make_rig: Make) -> None:
    for design, runs in ((POSTED, False), (MERGED, True)):
        rig = make_rig(design)
        primary = Primary(rig, counter)
        primary.run()
        heir = Other(rig, primary)
        heir.see_memory()
        heir.add_vcpu(start=0xFFFF_F000)
        rig.move(heir.vm, primary.vm)
        assert (heir.run() == KVM_EXIT_HLT) is runs
        assert rig.file(heir.vm).vcpus[0].vmcb.sev is runs


def test_defect_7_until_6_1_54_the_sealed_registers_were_looked_for_in_the_destination() -> None:
    rig = Rig(replace(designs.LINUX_6_1, move=designs.MOVE_6_0))
    primary = Primary(rig, counter, kind="es")
    primary.run()
    heir = Other(rig, primary)
    heir.see_memory()
    heir.fd = rig.vcpu(heir.vm)
    heir.page = rig.qemu.mmap(0x3000, fd=heir.fd)
    rig.move(heir.vm, primary.vm)
    vcpu = rig.file(heir.vm).vcpus[0]
    assert (vcpu.vmsa_pfn, vcpu.guest_state_protected, rig.file(primary.vm).vcpus[0].guest_state_protected) == (0, False, True)
    assert heir.run() == KVM_EXIT_FAIL_ENTRY


def test_defect_7_green_since(make_rig: Make) -> None:
    rig = make_rig(MERGED)
    primary = Primary(rig, counter, kind="es")
    primary.run()
    heir = Other(rig, primary)
    heir.see_memory()
    heir.fd = rig.vcpu(heir.vm)
    heir.page = rig.qemu.mmap(0x3000, fd=heir.fd)
    rig.move(heir.vm, primary.vm)
    assert heir.run() == KVM_EXIT_HLT
    assert primary.read(SHARED, 8) == (1).to_bytes(8, "little")


# ------------------------------------------------------------------ a design of our own


def test_naive_locks_can_wait_for_each_other_for_ever_and_the_marks_cannot(make_rig: Make) -> None:
    for move, stuck in ((designs.MOVE_NAIVE, True), (designs.MOVE, False)):
        rig = make_rig(replace(designs.LINUX_6_1, move=move))
        a, b = rig.vm(), rig.vm()
        calls = [begin(rig, a, b), begin(rig, b, a)]
        for _ in range(2):  # begun, and the first request granted
            for call in calls:
                call.step()
        for call in calls:
            drive(call)
        assert all(call.state == "killable" for call in calls) is stuck
        codes = []
        for call in calls:
            with pytest.raises(OSError) as no:
                call.finish()
            codes.append(no.value.errno)
        assert (EBUSY in codes) is not stuck
        assert (EINTR in codes) is stuck  # answered as after a signal: nobody could help
