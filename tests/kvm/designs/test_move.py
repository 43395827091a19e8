"""The seam `move`: V11 as posted in October 2021, and its review remark by remark (what that did not see: test_move_defects.py).

`POSTED` and `MERGED` are one kernel but for this seam. `REMARKS` is the review of 4 November 2021 as a table: each
remark has a test that is red on the one and green on the other, or says why it cannot have one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EBUSY, EINVAL, EIO
from typing import Any

import pytest
from kvm.test_move_order import begin, drive, es, running
from kvm.two_vms import Primary, counter, second_process, spinner
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CHECK_EXTENSION,
    KVM_EXIT_FAIL_ENTRY,
    KVM_GET_REGS,
    KVM_RUN,
    kvm_regs,
)
from sevlab.kvm import designs
from sevlab.kvm.designs.move import KVM_CAP_VM_MIGRATE_PROTECTED_VM_FROM
from sevlab.kvm.ladder import ladder

Make = Callable[..., Rig]
MERGED = designs.LINUX_6_1_FIXED
POSTED = replace(MERGED, name="6.1 with V11", move=designs.MOVE_V11)
TENANTS = {"/a": {"sev": 4}, "/b": {"sev": 1}}

REMARKS: dict[str, str] = {
    '"SEV enabled" is a lie: an SEV-ES VM is an SEV VM': "test_remark_an_es_vm_is_an_sev_vm",
    "misc_cg is copied: dst must be charged, src uncharged": "test_remark_the_tenant_who_gets_the_guest_pays_for_it",
    "asid and misc_cg belong together, in a helper": "test_remark_whoever_has_the_slot_is_who_is_charged",
    "kvm_vcpu_reset(): KVM has no true RESET path": "test_remark_the_reset_source_is_neither_fresh_nor_the_guest",
    "a flag checked in kvm_vcpu_ioctl(): the vCPUs should just die": "test_remark_the_sources_vcpus_are_dead",
    "what all do you need to do with the source afterwards?": "test_remark_nothing_can_be_done_with_the_source_afterwards",
    "the source's vCPUs then need no lock": "test_remark_that_was_not_taken_up_both_lock_every_vcpu",
    "the name: omit PROTECTED": "test_remark_the_name_changed_and_the_number_did_not",
    "let the call poke out: no operation, EINVAL": "test_remark_a_kernel_without_it_says_einval",
    "the vCPU needs to be loaded, not just locked": "not modelled: a control block is reached from any processor here",
    "braces not needed (twice)": "no behaviour",
}


def test_every_remark_has_its_test_or_its_reason() -> None:
    for remark, test in REMARKS.items():
        assert test in globals() if test.startswith("test_") else test, remark


def two(make_rig: Make, design: designs.Design) -> tuple[Rig, Any, int, int]:
    """Tenant /a with a guest, tenant /b with an empty VM and the guest's descriptor: rig, b's process, dst, src."""
    rig = make_rig(design, cgroups=TENANTS, cgroup="/a")
    other = second_process(rig, cgroup="/b")
    dst = rig.vm(process=other)
    return rig, other, dst, rig.qemu.send_fd(rig.started(), other)


# ------------------------------------------------------------------ the contract: what both do


@pytest.mark.parametrize("design", [POSTED, MERGED], ids=["posted", "merged"])
def test_both_move_slot_handle_and_pins_of_a_plain_guest(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    src, dst, hva = rig.started(), rig.vm(), rig.memory(bytes(0x2000))
    rig.register(src, hva, 0x2000)
    asid = rig.file(src).sev.asid
    rig.move(dst, src)
    has, had = rig.file(dst).sev, rig.file(src).sev
    assert (has.active, has.asid, has.handle, has.pages_locked, len(has.regions)) == (True, asid, 1, 2, 1)
    assert (had.active, had.asid, had.handle, had.pages_locked, had.regions, had.misc_cg) == (False, 0, 0, 0, [], None)
    rig.unregister(dst, hva, 0x2000)
    assert rig.soc.pages.pinned() == 0


@pytest.mark.parametrize("design", [POSTED, MERGED], ids=["posted", "merged"])
def test_both_refuse_no_vm_no_sev_and_an_sev_destination(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    for dst, src, code in ((rig.vm(), 400, EBADF), (rig.vm(), rig.sev, EBADF), (rig.vm(), rig.vm(), EINVAL)):
        with refuses(code):
            rig.move(dst, src)
        assert rig.file(dst).lock.holder is None and rig.file(dst).migration_in_progress.holder is None
    with refuses(EINVAL):
        rig.move(rig.started(), rig.started())


# ------------------------------------------------------------------ the review, remark by remark


@pytest.mark.parametrize("design, works", [(POSTED, False), (MERGED, True)], ids=["posted", "merged"])
def test_remark_an_es_vm_is_an_sev_vm(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    dst, src = rig.aux(2), es(rig, 2)
    if works:
        rig.move(dst, src)
    else:
        with refuses(EINVAL) as no:
            rig.move(dst, src)
        assert "sev_es_guest(source_kvm)" in no.why
    assert rig.file(dst).sev.es is works


def test_remark_the_tenant_who_gets_the_guest_pays_for_it(make_rig: Make) -> None:
    """Posted: (1,0), (1,0), (0,0), the wrong purse; merged: (1,0), (0,1), (0,0)."""
    for design, after in ((POSTED, (1, 0)), (MERGED, (0, 1))):
        rig, other, dst, src = two(make_rig, design)
        books = [_books(rig)]
        rig.move(dst, src, other)
        books.append(_books(rig))
        other.close(dst)
        books.append(_books(rig))
        assert books == [(1, 0), after, (0, 0)]


def test_remark_the_limit_of_the_new_tenant_is_asked(make_rig: Make) -> None:
    for design, code in ((POSTED, 0), (MERGED, EBUSY)):
        rig, other, dst, src = two(make_rig, design)
        rig.op(rig.vm(process=other), 0, process=other)  # /b is full
        if code:
            with refuses(code):
                rig.move(dst, src, other)
            assert _books(rig) == (1, 1)
        else:
            rig.move(dst, src, other)
            assert _books(rig) == (1, 1)  # two guests run in /b, one of them at the cost of /a


def _books(rig: Rig) -> tuple[int, int]:
    return tuple(rig.kernel.root_cgroup.find(path).current["sev"] for path in TENANTS)  # type: ignore[return-value]


@pytest.mark.parametrize("design, theirs", [(POSTED, "/a"), (MERGED, "/b")], ids=["posted", "merged"])
def test_remark_whoever_has_the_slot_is_who_is_charged(make_rig: Make, design: designs.Design, theirs: str) -> None:
    rig, other, dst, src = two(make_rig, design)
    rig.move(dst, src, other)
    moved = rig.file(dst, other).sev
    assert moved.asid and moved.misc_cg.path == theirs
    left = rig.file(src, other).sev
    assert (left.asid, left.misc_cg) == (0, None)


def test_remark_the_reset_source_is_neither_fresh_nor_the_guest(make_rig: Make) -> None:
    rig = make_rig(POSTED)
    primary = Primary(rig, counter)
    primary.run()
    stood = primary.regs()
    rig.move(rig.vm(), primary.vm)
    assert primary.regs().rip == 0xFFF0 and primary.regs().rsp != stood.rsp
    assert primary.vcpu().has_run  # "assumes the vCPU has never been run": this one has
    assert primary.run() == KVM_EXIT_FAIL_ENTRY  # its control block still says encrypted, and it has no slot

    rig = make_rig(MERGED)
    primary = Primary(rig, counter)
    primary.run()
    rig.move(rig.vm(), primary.vm)
    with refuses(EIO):
        primary.regs()


@pytest.mark.parametrize("design, code", [(POSTED, 0), (MERGED, EIO)], ids=["posted", "merged"])
def test_remark_the_sources_vcpus_are_dead(make_rig: Make, design: designs.Design, code: int) -> None:
    rig = make_rig(design)
    src = rig.started()
    vcpu = rig.vcpu(src)
    rig.move(rig.vm(), src)
    for nr, arg in ((KVM_GET_REGS, kvm_regs()), (KVM_RUN, 0)):
        if code:
            with refuses(code):
                rig.qemu.ioctl(vcpu, nr, arg)
        else:
            assert rig.qemu.ioctl(vcpu, nr, arg) == 0
    assert rig.file(src).dead is bool(code)


@pytest.mark.parametrize("design, code", [(POSTED, 0), (MERGED, EIO)], ids=["posted", "merged"])
def test_remark_nothing_can_be_done_with_the_source_afterwards(make_rig: Make, design: designs.Design, code: int) -> None:
    """The flag was meant for vCPUs; the merged one stops the VM's own ioctls too, memory slots among them."""
    rig = make_rig(design)
    src, hva = rig.started(), rig.memory(bytes(4096))
    rig.slot(src, hva, 4096)
    rig.move(rig.vm(), src)
    for action in (
        lambda: rig.slot(src, hva, 0),
        lambda: rig.qemu.ioctl(src, KVM_CHECK_EXTENSION, 206),
        lambda: rig.op(src, 0),  # made an SEV guest again
        lambda: rig.vcpu(src, 3),
    ):
        if code:
            with refuses(code):
                action()
        else:
            action()
    assert rig.file(src).sev.active is not bool(code)


def test_remark_that_was_not_taken_up_both_lock_every_vcpu(make_rig: Make) -> None:
    for design in (POSTED, MERGED):
        rig = make_rig(design)
        primary = Primary(rig, spinner)
        runs = running(rig, primary)
        move = drive(begin(rig, rig.vm(), primary.vm))
        assert move.state == "killable" and "vcpu->mutex" in str(move.waits_for)
        runs.interrupt()
        move.finish()


def test_remark_the_name_changed_and_the_number_did_not(make_rig: Make) -> None:
    assert KVM_CAP_VM_MIGRATE_PROTECTED_VM_FROM == KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM == 206
    assert set(make_rig(POSTED).kernel.capabilities) == set(make_rig(MERGED).kernel.capabilities) == {197, 206}


def test_remark_a_kernel_without_it_says_einval(make_rig: Make) -> None:
    rig = make_rig(designs.LINUX_5_13)
    with refuses(EINVAL):
        rig.move(rig.vm(), rig.started())
    with refuses(EINVAL):
        rig.move(rig.vm(), 400)


# ------------------------------------------------------------------ the order of V11's checks


def test_v11_asks_for_the_destination_before_the_descriptor_and_6_1_the_other_way_round(make_rig: Make) -> None:
    for design, code in ((POSTED, EINVAL), (MERGED, EBADF)):
        rig = make_rig(design)
        with refuses(code):
            rig.move(rig.started(), 400)


def test_v11_asks_for_the_destinations_mark_before_anything(make_rig: Make) -> None:
    rig = make_rig(POSTED)
    dst = rig.started()  # SEV, and the descriptor is bad
    flag = rig.file(dst).migration_in_progress
    flag.holder = object()  # type: ignore[assignment]
    with refuses(EBUSY):
        rig.move(dst, 400)
    flag.holder = None


def test_the_rungs_of_v11_read_as_the_patch_does() -> None:
    codes = [rung.code for rung in ladder(designs.Move_V11.enable)]
    assert codes == ["EBUSY", "EINVAL", "EBADF", "EBUSY", "EINVAL", "EINTR", "EINTR"]
