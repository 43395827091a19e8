"""MOVE on 6.1, check by check (kvm.md F1, F4, F7): of two things wrong at once the upper one answers, and who waits for whom."""

from __future__ import annotations

from collections.abc import Callable
from errno import EBADF, EBUSY, EINTR, EINVAL, EIO
from typing import Any

import pytest
from kvm.guests import MEMORY, PAGE, TOP
from kvm.two_vms import Other, Primary, second_process, spinner
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_RUN,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enable_cap,
)
from sevlab.kvm import designs
from sevlab.kvm.call import Blocked, Call
from sevlab.kvm.ladder import ladder

Make = Callable[..., Rig]


def begin(rig: Rig, dst: int, src: int, process: Any = None) -> Call:
    """MOVE, begun and not driven."""
    caller = process or rig.qemu
    return caller.begin(dst, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM, args=(src, 0, 0, 0)))  # type: ignore[no-any-return]


def drive(call: Call) -> Call:
    """Step a call until it is done or must wait."""
    while call.step() == "runnable":
        pass
    return call


# ------------------------------------------------------------------ F7: the answer table


def plain(rig: Rig, vcpus: int = 0) -> int:
    return rig.aux(vcpus)


def es(rig: Rig, vcpus: int, seal: bool = True) -> int:
    vm = rig.started(policy=4)
    for vcpu_id in range(vcpus):
        rig.vcpu(vm, vcpu_id)
    if seal:
        rig.op(vm, KVM_SEV_LAUNCH_UPDATE_VMSA)
    return vm


def sev(rig: Rig, vcpus: int = 0) -> int:
    vm = rig.started()
    for vcpu_id in range(vcpus):
        rig.vcpu(vm, vcpu_id)
    return vm


def dead(rig: Rig) -> int:
    vm = rig.started()
    rig.move(rig.vm(), vm)
    return vm


def mirror(rig: Rig) -> int:
    rig.leaks = {"/": {"sev": 1}}
    vm = rig.vm()
    rig.copy(vm, rig.started())
    return vm


ANSWERS: dict[str, tuple[Callable[[Rig], int], Callable[[Rig], int], int]] = {
    "plain from plain": (plain, plain, EINVAL),
    "SEV from SEV": (sev, sev, EINVAL),
    "SEV from SEV-ES": (sev, lambda rig: es(rig, 1), EINVAL),
    "SEV-ES from SEV": (lambda rig: es(rig, 1), sev, EINVAL),
    "SEV from plain": (sev, plain, EINVAL),
    "plain from SEV": (plain, sev, 0),
    "plain with 2 from SEV with 4": (lambda rig: plain(rig, 2), lambda rig: sev(rig, 4), 0),
    "plain with 4 from SEV without": (lambda rig: plain(rig, 4), sev, 0),
    "plain without from SEV-ES with 4": (plain, lambda rig: es(rig, 4), EINVAL),
    "plain with 4 from SEV-ES with 4": (lambda rig: plain(rig, 4), lambda rig: es(rig, 4), 0),
    "plain with 1 from SEV-ES not sealed": (lambda rig: plain(rig, 1), lambda rig: es(rig, 1, seal=False), EINVAL),
    "plain from SEV-ES, neither with a vCPU": (plain, lambda rig: es(rig, 0), 0),
    "dead from SEV": (dead, sev, EIO),
    "dead from dead": (dead, dead, EIO),
    "plain from dead": (plain, dead, EINVAL),
    "plain from a closed descriptor": (plain, lambda rig: 400, EBADF),
    "plain from /dev/sev": (plain, lambda rig: rig.sev, EBADF),
    "plain from /dev/kvm": (plain, lambda rig: rig.kvm, EBADF),
    "plain from a vCPU": (plain, lambda rig: rig.vcpu(rig.vm()), EBADF),
    "plain from a mirror": (plain, mirror, 0),
    "mirror from SEV": (mirror, sev, EINVAL),
    "plain from SEV that never started": (plain, lambda rig: rig.init(), 0),
}


@pytest.mark.parametrize("row", ANSWERS)
def test_the_answer_table(rig: Rig, row: str) -> None:
    make_dst, make_src, code = ANSWERS[row]
    dst, src = make_dst(rig), make_src(rig)
    if row == "mirror from SEV":
        rig.leaks = {}
    if not code:
        rig.move(dst, src)
        assert rig.file(src).dead and not rig.file(src).sev.active
        assert rig.file(dst).sev.active
        return
    refs = rig.file(dst).refs
    with refuses(code):
        rig.move(dst, src)
    assert rig.file(dst).refs == refs
    assert rig.file(dst).lock.holder is None and rig.file(dst).migration_in_progress.holder is None


@pytest.mark.parametrize("kind", [plain, sev], ids=["plain", "SEV"])
def test_a_vm_onto_itself_is_einval(rig: Rig, kind: Callable[[Rig], int]) -> None:
    vm = kind(rig)
    with refuses(EINVAL) as no:
        rig.move(vm, vm)
    assert "dst_kvm == src_kvm" in no.why
    with refuses(EINVAL):
        rig.move(vm, rig.qemu.dup(vm))  # another descriptor, the same VM


def test_a_full_cgroup_is_ebusy(make_rig: Make) -> None:
    rig = make_rig(cgroups={"/a": {}, "/b": {"sev": 0}}, cgroup="/a")
    src = rig.started()
    rig.qemu.cgroup = "/b"
    with refuses(EBUSY):
        rig.move(rig.vm(), src)


# ------------------------------------------------------------------ F1: two things wrong


def test_the_rungs_stand_in_the_kernels_order() -> None:
    rungs = ladder(designs.Move.enable)
    assert [rung.code for rung in rungs] == [
        "EBADF", "EINVAL, EBUSY, EINTR", "EINVAL", "EINVAL", "EBUSY, EINVAL", "EINTR", "EBUSY", "EBUSY", "EINVAL", "EINVAL",
    ]  # fmt: skip


@pytest.mark.parametrize("fd", [400, 0, (1 << 64) - 1])
def test_a_bad_descriptor_outweighs_a_destination_that_is_sev_or_busy(rig: Rig, fd: int) -> None:
    dst = rig.started()
    rig.file(dst).migration_in_progress.holder = object()  # type: ignore[assignment]
    with refuses(EBADF):
        rig.move(dst, fd)
    rig.file(dst).migration_in_progress.holder = None


@pytest.mark.parametrize("busy", ["dst", "src"])
def test_busy_outweighs_the_wrong_kind(rig: Rig, busy: str) -> None:
    dst, src = rig.started(), rig.vm()
    flag = rig.file(dst if busy == "dst" else src).migration_in_progress
    flag.holder = object()  # type: ignore[assignment]
    with refuses(EBUSY) as no:
        rig.move(dst, src)
    assert f"{busy}_sev" in no.why
    flag.holder = None


def test_the_destinations_mark_is_tried_first(rig: Rig) -> None:
    dst, src = rig.started(), rig.vm()
    flags = [rig.file(vm).migration_in_progress for vm in (dst, src)]
    for flag in flags:
        flag.holder = object()  # type: ignore[assignment]
    with refuses(EBUSY) as no:
        rig.move(dst, src)
    assert "dst_sev" in no.why
    for flag in flags:
        flag.holder = None


def test_the_wrong_kind_outweighs_a_full_cgroup(make_rig: Make) -> None:
    rig = make_rig(cgroups={"/b": {"sev": 0}})
    src = rig.vm()
    rig.qemu.cgroup = "/b"
    with refuses(EINVAL):
        rig.move(rig.vm(), src)
    assert rig.kernel.root_cgroup.find("/b").events["sev"] == 0


def test_a_full_cgroup_outweighs_vcpus_that_do_not_fit(make_rig: Make) -> None:
    rig = make_rig(cgroups={"/b": {"sev": 0}})
    src = es(rig, 2)
    rig.qemu.cgroup = "/b"
    with refuses(EBUSY):
        rig.move(rig.aux(1), src)


@pytest.mark.parametrize("whose", ["destination", "source"])
def test_a_vcpu_in_the_making_is_ebusy_before_the_numbers_are_compared(rig: Rig, whose: str) -> None:
    src, dst = es(rig, 2), rig.aux(1)
    vm = rig.file(dst if whose == "destination" else src)
    making = rig.qemu.begin(dst if whose == "destination" else src, KVM_CREATE_VCPU, 9)
    while vm.created == len(vm.vcpus):
        making.step()
    while vm.lock.holder is not None:
        making.step()
    with refuses(EBUSY) as no:
        rig.move(dst, src)
    assert ("created_vcpus != online_vcpus" in no.why) is (whose == "destination")
    making.finish()


def test_the_number_of_vcpus_outweighs_their_seals(rig: Rig) -> None:
    with refuses(EINVAL) as no:
        rig.move(rig.aux(1), es(rig, 2, seal=False))
    assert "online_vcpus" in no.why
    with refuses(EINVAL) as no:
        rig.move(rig.aux(2), es(rig, 2, seal=False))
    assert "guest_state_protected" in no.why


def test_a_vm_of_another_type_is_einval(make_rig: Make) -> None:
    rig = make_rig(designs.LINUX_6_12)
    with refuses(EINVAL) as no:
        rig.move(rig.vm(2), rig.started())
    assert "vm_type" in no.why


# ------------------------------------------------------------------ who waits


def running(rig: Rig, primary: Any) -> Call:
    """A KVM_RUN under way, with the vCPU's mutex held."""
    call = rig.qemu.begin(primary.fds[0], KVM_RUN)
    for _ in range(3):
        call.step()
    return call


def test_move_waits_for_a_vcpu_of_the_source_that_runs(rig: Rig) -> None:
    primary = Primary(rig, spinner)
    runs = running(rig, primary)
    dst = rig.vm()
    move = drive(begin(rig, dst, primary.vm))
    assert move.state == "killable"
    assert "vcpu->mutex" in str(move.waits_for)
    runs.interrupt()
    with refuses(EINTR):
        runs.finish()
    move.finish()

    assert rig.file(dst).sev.active
    with refuses(EIO):
        primary.run()


def test_move_waits_for_a_vcpu_of_the_destination_too(rig: Rig) -> None:
    dst = Primary(rig, spinner, kind="plain")
    runs = running(rig, dst)
    src = rig.started()
    move = drive(begin(rig, dst.vm, src))
    assert move.state == "killable"
    runs.interrupt()
    with refuses(EINTR):
        runs.finish()
    move.finish()
    assert rig.file(dst.vm).sev.active


def test_a_move_that_nobody_can_help_is_answered_and_never_hangs(rig: Rig) -> None:
    primary = Primary(rig, spinner)
    runs = running(rig, primary)
    dst = rig.vm()
    with pytest.raises(Blocked) as blocked:
        rig.move(dst, primary.vm)
    assert blocked.value.errno == EINTR
    assert "vcpu->mutex" in blocked.value.why
    vms = [rig.file(dst), rig.file(primary.vm)]
    assert [vm.lock.holder for vm in vms] + [vm.migration_in_progress.holder for vm in vms] == [None] * 4
    assert rig.file(primary.vm).vcpus[0].mutex.holder is runs
    assert not rig.file(dst).sev.active
    runs.interrupt()


def test_death_ends_the_wait_and_gives_back_what_was_held_and_charged(make_rig: Make) -> None:
    rig = make_rig(cgroups={"/a": {}, "/b": {}}, cgroup="/a")
    other = second_process(rig, cgroup="/b")
    primary = Primary(rig, spinner)
    runs = running(rig, primary)
    dst = rig.vm(process=other)
    move = drive(begin(rig, dst, rig.qemu.send_fd(primary.vm, other), other))
    assert rig.charges()["/b"] == {"sev": 1}
    other.kill()

    assert move.error is not None and move.error.errno == EINTR  # type: ignore[attr-defined]
    assert rig.charges() == {"/": {"sev": 1}, "/a": {"sev": 1}}
    assert rig.file(primary.vm).lock.holder is None
    assert rig.file(primary.vm).vcpus[0].mutex.holder is runs
    runs.interrupt()


def test_opposite_moves_of_plain_vms_and_one_is_busy(rig: Rig) -> None:
    """Neither could succeed; what the marks prevent is a program that hangs the kernel."""
    a, b = rig.started(), rig.started()
    one, two = begin(rig, a, b), begin(rig, b, a)
    for _ in range(2):
        one.step()
        two.step()
    errors = []
    for call in (one, two):
        with pytest.raises(OSError) as no:
            call.finish()
        errors.append(no.value.errno)
    assert EBUSY in errors
    assert set(errors) <= {EBUSY, EINVAL}


def test_a_second_move_of_the_same_source_is_busy_while_the_first_waits(rig: Rig) -> None:
    primary = Primary(rig, spinner)
    runs = running(rig, primary)
    first = drive(begin(rig, rig.vm(), primary.vm))
    with refuses(EBUSY):
        rig.move(rig.vm(), primary.vm)
    with refuses(EBUSY):
        rig.copy(rig.vm(), primary.vm)
    runs.interrupt()
    first.finish()


def test_locks_are_taken_destination_first_and_given_back_in_the_opposite_order(rig: Rig) -> None:
    src, dst = sev(rig, 1), rig.aux(1)
    rig.trace._buffers.clear()
    rig.move(dst, src)
    rows = [(row["kind"], row["lock"]) for row in rig.rows() if row["kind"] in ("LockTaken", "LockGiven")]
    taken = [lock for kind, lock in rows if kind == "LockTaken"]
    given = [lock for kind, lock in rows if kind == "LockGiven"]
    d, s = rig.file(dst).number, rig.file(src).number
    assert [lock.split(" of VM ")[0] for lock in taken[:4]] == ["migration_in_progress"] * 2 + ["kvm->lock"] * 2
    assert [int(lock[-1]) for lock in taken[:4]] == [d, s, d, s]
    assert taken[4:] == [f"vcpu->mutex {d}/0", f"vcpu->mutex {s}/0"]
    assert given == taken[::-1]


def test_the_heir_runs_while_the_dead_source_is_still_open(rig: Rig) -> None:
    primary = Primary(rig)
    primary.run()
    heir = Other(rig, primary)
    for number, (hva, size, gpa) in enumerate(((primary.memory, MEMORY, 0), (primary.top, PAGE, TOP))):
        rig.slot(heir.vm, hva, size, gpa=gpa, slot=number)
    heir.add_vcpu(start=TOP)
    rig.move(heir.vm, primary.vm)
    assert heir.run() == 5
    with refuses(EIO):
        primary.run()
