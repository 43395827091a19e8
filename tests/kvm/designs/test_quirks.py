"""The seam `quirks`: each bug that ships, as it is and mended (kvm.md J26, F2, F5). The alignment bug is in test_sev_debug.py."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EINVAL, EIO

import pytest
from kvm.test_move_order import es
from kvm.two_vms import second_process
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_RUN,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT2,
    KVM_SEV_LAUNCH_START,
    KVM_X86_SEV_VM,
    kvm_sev_guest_status,
    kvm_sev_init,
    kvm_sev_launch_start,
)
from sevlab.kvm import designs
from sevlab.kvm.designs.quirks import LEAKS
from sevlab.kvm.process import Process

Make = Callable[..., Rig]
AS_IS, MENDED = designs.LINUX_6_1, designs.LINUX_6_1_FIXED
BOTH = pytest.mark.parametrize("design, works", [(AS_IS, False), (MENDED, True)], ids=["as is", "mended"])


def test_the_fixed_preset_is_6_1_and_nothing_else() -> None:
    assert replace(MENDED, name=AS_IS.name, quirks=AS_IS.quirks) == AS_IS


# ------------------------------------------------------------------ the number of /dev/sev


@BOTH
def test_the_first_command_after_a_move_finds_the_firmware_or_not(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    src, dst = rig.started(), rig.vm()
    rig.move(dst, src)
    if works:
        assert rig.status(dst).handle == 1
    else:
        with refuses(EBADF):
            rig.status(dst)
        rig.qemu.dup2(rig.sev, 0)  # what the course asks for: the number that the kernel looks up
        assert rig.status(dst).handle == 1


@BOTH
def test_in_another_process_and_with_the_old_one_gone(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    other = second_process(rig)
    dst = rig.vm(process=other)
    rig.move(dst, rig.qemu.send_fd(rig.started(), other), other)
    rig.qemu.kill()
    status = kvm_sev_guest_status()
    if works:
        rig.op(dst, KVM_SEV_GUEST_STATUS, status, process=other, sev_fd=0)
        assert (status.handle, status.state) == (1, 1)
    else:
        with refuses(EBADF):
            rig.op(dst, KVM_SEV_GUEST_STATUS, status, process=other, sev_fd=0)


@BOTH
def test_closing_the_descriptor_takes_the_firmware_away_or_not(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    vm = rig.started()
    rig.qemu.close(rig.sev)
    if works:
        assert rig.status(vm).state == 1
    else:
        with refuses(EBADF):
            rig.op(vm, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), sev_fd=rig.qemu.open("/dev/kvm"))
    rig.sev = rig.qemu.open("/dev/sev")


@BOTH
def test_another_file_under_the_same_number(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    vm = rig.started()
    log = rig.qemu.memfd(4096)
    rig.qemu.dup2(log, rig.sev)
    if works:
        assert rig.status(vm).state == 1
    else:
        with refuses(EBADF):
            rig.status(vm)
        rig.qemu.dup2(rig.qemu.open("/dev/sev"), rig.sev)
        assert rig.status(vm).state == 1  # any /dev/sev there will do


def test_mended_the_file_is_held_as_often_as_vms_need_it_and_then_let_go(make_rig: Make) -> None:
    rig = make_rig(MENDED)
    file = rig.qemu.fds[rig.sev]
    vm, mirror, heir = rig.started(), rig.vm(), rig.vm()
    assert file.refs == 2
    rig.copy(mirror, vm)
    assert file.refs == 3
    rig.move(heir, vm)
    assert file.refs == 3
    rig.qemu.close(vm)
    assert file.refs == 3
    for closed in (mirror, heir):
        rig.qemu.close(closed)
    assert file.refs == 1


def test_mended_a_refused_start_holds_nothing(make_rig: Make) -> None:
    rig = make_rig(MENDED)
    file, vm = rig.qemu.fds[rig.sev], rig.init()
    with refuses(EIO, 16):  # no such handle to share a key with
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(handle=99))
    with refuses(EBADF):
        rig.op(vm, KVM_SEV_LAUNCH_START, kvm_sev_launch_start(), sev_fd=rig.kvm)
    assert file.refs == 1
    rig.qemu.close(vm)


# ------------------------------------------------------------------ what stays behind


@BOTH
def test_the_jump_table_goes_along_or_not(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    src, dst = es(rig, 1), rig.aux(1)
    rig.file(src).sev.ap_jump_table = 0x9000
    rig.move(dst, src)
    assert rig.file(dst).sev.ap_jump_table == (0x9000 if works else 0)


@BOTH
def test_a_mirror_never_gets_the_jump_table_and_that_is_meant(make_rig: Make, design: designs.Design, works: bool) -> None:
    rig = make_rig(design)
    owner, mirror = es(rig, 1), rig.vm()
    rig.file(owner).sev.ap_jump_table = 0x9000
    rig.copy(mirror, owner)
    assert rig.file(mirror).sev.ap_jump_table == 0


def typed(rig: Rig) -> int:
    vm = rig.vm(KVM_X86_SEV_VM)
    rig.op(vm, KVM_SEV_INIT2, kvm_sev_init())
    rig.start(vm)
    return vm


@pytest.mark.parametrize("quirks, works", [(designs.AS_IS, False), (designs.MENDED, True)], ids=["as is", "mended"])
def test_a_vm_of_an_sev_type_can_run_after_a_move_or_never(make_rig: Make, quirks: designs.Quirks, works: bool) -> None:
    rig = make_rig(replace(designs.LINUX_6_12, quirks=quirks))
    src, dst = typed(rig), rig.vm(KVM_X86_SEV_VM)
    vcpu = rig.vcpu(dst)
    rig.move(dst, src)
    assert rig.file(dst).sev.need_init is not works
    if works:
        assert rig.qemu.ioctl(vcpu, KVM_RUN) == 0
    else:
        with refuses(EINVAL) as no:
            rig.qemu.ioctl(vcpu, KVM_RUN)
        assert "need_init" in no.why
        with refuses(EINVAL):
            rig.op(dst, KVM_SEV_INIT2, kvm_sev_init())  # too late: it has a vCPU, and is active


@pytest.mark.parametrize("quirks, works", [(designs.AS_IS, False), (designs.MENDED, True)], ids=["as is", "mended"])
def test_the_ghcb_version_goes_along_or_not(make_rig: Make, quirks: designs.Quirks, works: bool) -> None:
    rig = make_rig(replace(designs.LINUX_6_12, quirks=quirks))
    src, dst, mirror = es(rig, 0), rig.vm(), rig.vm()
    assert rig.file(src).sev.ghcb_version == 1
    rig.copy(mirror, src)
    rig.move(dst, src)
    assert rig.file(dst).sev.ghcb_version == rig.file(mirror).sev.ghcb_version == int(works)


# ------------------------------------------------------------------ the books


GROUPS = {"/source": {}, "/destination": {}}


def across(make_rig: Make, design: designs.Design) -> tuple[Rig, Process]:
    rig = make_rig(design, cgroups=GROUPS, cgroup="/source")
    return rig, second_process(rig, cgroup="/destination")


KINDS = {
    "plain SEV": lambda rig: (rig.started(), 0),
    "SEV-ES": lambda rig: (es(rig, 0), 0),
    "a mirror": lambda rig: _mirror(rig),
}


def _mirror(rig: Rig) -> tuple[int, int]:
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    return mirror, owner


def test_the_table_of_leaks_has_a_row_for_each_kind_of_guest() -> None:
    assert set(LEAKS) == set(KINDS)


@pytest.mark.parametrize("kind", LEAKS)
@BOTH
def test_a_move_between_cgroups_leaves_what_the_table_says(make_rig: Make, design: designs.Design, works: bool, kind: str) -> None:
    rig, other = across(make_rig, design)
    src, _ = KINDS[kind](rig)
    rig.move(rig.vm(process=other), rig.qemu.send_fd(src, other), other)
    rig.close()

    leak = LEAKS[kind]
    books = {"/source": leak.source, "/destination": leak.destination}
    total = {name: sum(side.get(name, 0) for side in books.values()) for name in ("sev", "sev_es")}
    books["/"] = {name: number for name, number in total.items() if number}
    expected = {} if works else {path: left for path, left in books.items() if left}
    assert rig.charges() == expected
    rig.leaks = expected


def test_as_it_is_the_sources_count_goes_below_zero_and_the_kernel_says_so(make_rig: Make) -> None:
    rig, other = across(make_rig, AS_IS)
    rig.move(rig.vm(process=other), rig.qemu.send_fd(es(rig, 0), other), other)
    assert rig.charges() == {"/": {"sev_es": 1}, "/source": {"sev": -1, "sev_es": 1}, "/destination": {"sev": 1}}
    assert "misc cgroup resource sev became less than 0" in rig.kernel.dmesg
    rig.leaks = {"/source": LEAKS["SEV-ES"].source, "/destination": LEAKS["SEV-ES"].destination}


def test_mended_the_right_resource_moves(make_rig: Make) -> None:
    rig, other = across(make_rig, MENDED)
    rig.move(rig.vm(process=other), rig.qemu.send_fd(es(rig, 0), other), other)
    assert rig.charges() == {"/": {"sev_es": 1}, "/destination": {"sev_es": 1}}
    assert not any("less than 0" in line for line in rig.kernel.dmesg)


@BOTH
def test_a_limit_on_the_wrong_resource_refuses_or_the_right_one_does(make_rig: Make, design: designs.Design, works: bool) -> None:
    limits = {"/source": {}, "/full": {"sev_es": 0} if works else {"sev": 0}}
    rig = make_rig(design, cgroups=limits, cgroup="/source")
    src, dst = es(rig, 0), rig.vm()
    rig.qemu.cgroup = "/full"
    with refuses(16):
        rig.move(dst, src)
    assert rig.charges() == {"/": {"sev_es": 1}, "/source": {"sev_es": 1}}


def test_within_one_cgroup_an_es_guest_leaks_nothing_on_either(make_rig: Make) -> None:
    for design in (AS_IS, MENDED):
        rig = make_rig(design)
        rig.move(rig.vm(), es(rig, 0))
        assert rig.charges() == {"/": {"sev_es": 1}}


def test_a_student_may_mend_the_move_with_one_method(make_rig: Make) -> None:
    class CopiesTheNumber(designs.AsIs):
        def carry(self, dst: object, src: object) -> None:
            dst.fd = src.fd  # type: ignore[attr-defined]

    rig = make_rig(replace(AS_IS, quirks=CopiesTheNumber()))
    src, dst = rig.started(), rig.vm()
    rig.move(dst, src)
    assert rig.status(dst).handle == 1

    other = second_process(rig)
    heir = rig.vm(process=other)
    rig.move(heir, rig.qemu.send_fd(dst, other), other)
    with refuses(EBADF):  # number 4 is another file there
        rig.op(heir, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status(), process=other)
