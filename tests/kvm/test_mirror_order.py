"""KVM_CAP_VM_COPY_ENC_CONTEXT_FROM on 6.1, check by check (kvm.md E3): of two things wrong at once the upper one answers."""

from __future__ import annotations

from errno import EBADF, EBUSY, EFAULT, EINTR, EINVAL, EIO

import pytest
from kvm.two_vms import second_process
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_ENABLE_CAP,
    kvm_enable_cap,
)
from sevlab.kvm import designs
from sevlab.kvm.ladder import ladder

NOWHERE = 0x6EEE_EEEE_E000
COPY = KVM_CAP_VM_COPY_ENC_CONTEXT_FROM


def test_the_rungs_stand_in_the_kernels_order() -> None:
    rungs = [(rung.code, rung.note) for rung in ladder(designs.Mirror.enable)]
    assert [code for code, _ in rungs] == ["EBADF", "EINVAL, EBUSY, EINTR", "EINVAL", "EINVAL", "EINVAL", "EINVAL"]


@pytest.mark.parametrize("what", ["closed", "/dev/kvm", "/dev/sev", "console", "a vCPU", "memfd", "-1"])
def test_a_source_that_is_no_vm_is_ebadf_whatever_the_destination_is(rig: Rig, what: str) -> None:
    vm = rig.vm()
    fd = {
        "closed": 400, "/dev/kvm": rig.kvm, "/dev/sev": rig.sev, "console": 0,
        "a vCPU": rig.vcpu(vm), "memfd": rig.qemu.memfd(4096), "-1": (1 << 64) - 1,
    }[what]  # fmt: skip
    for destination in (rig.vm(), rig.started(), vm):  # the second is SEV, the third has a vCPU: both worse off
        with refuses(EBADF):
            rig.copy(destination, fd)


def test_the_descriptor_is_cut_to_32_bits(rig: Rig) -> None:
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner | 1 << 40)
    assert rig.file(mirror).sev.owner is rig.file(owner)


def test_a_vm_onto_itself_is_einval_before_anybody_is_busy(rig: Rig) -> None:
    owner = rig.started()
    rig.file(owner).migration_in_progress.holder = object()  # type: ignore[assignment]
    with refuses(EINVAL) as no:
        rig.copy(owner, owner)
    assert "dst_kvm == src_kvm" in no.why
    rig.file(owner).migration_in_progress.holder = None


@pytest.mark.parametrize("busy", ["destination", "source"])
def test_a_vm_that_is_under_way_is_ebusy_before_its_kind_is_asked(rig: Rig, busy: str) -> None:
    destination, source = rig.started(), rig.vm()  # wrong way round: EINVAL, were it asked
    flag = rig.file(destination if busy == "destination" else source).migration_in_progress
    flag.holder = object()  # type: ignore[assignment]
    with refuses(EBUSY) as no:
        rig.copy(destination, source)
    assert ("dst_sev" if busy == "destination" else "src_sev") in no.why
    flag.holder = None
    assert rig.file(destination).migration_in_progress.holder is None  # the first was given back


def test_two_copies_at_once_and_one_of_them_is_busy(rig: Rig) -> None:
    owner, one, two = rig.started(), rig.vm(), rig.vm()
    calls = [rig.qemu.begin(mirror, KVM_ENABLE_CAP, kvm_enable_cap(COPY, args=(owner, 0, 0, 0))) for mirror in (one, two)]
    for call in calls:
        for _ in range(3):
            call.step()
    with refuses(EBUSY):
        calls[1].finish()
    calls[0].finish()

    assert rig.file(one).sev.owner is rig.file(owner)
    assert not rig.file(two).sev.active
    rig.copy(two, owner)


def test_death_ends_the_wait_for_a_lock_with_eintr(rig: Rig) -> None:
    owner, mirror = rig.started(), rig.vm()
    other = second_process(rig)
    holder = other.begin(other.open("/dev/kvm"), 0)  # any call, to hold the lock in its name
    rig.file(owner).lock.holder = holder
    call = rig.qemu.begin(mirror, KVM_ENABLE_CAP, kvm_enable_cap(COPY, args=(owner, 0, 0, 0)))
    while call.step() == "runnable":
        pass
    assert call.state == "killable"
    vm = rig.file(mirror)
    rig.qemu.kill()

    assert call.error is not None and call.error.errno == EINTR  # type: ignore[attr-defined]
    assert vm.lock.holder is None and vm.migration_in_progress.holder is None
    with refuses(EINVAL):
        holder.finish()


def broken(rig: Rig, *what: str) -> tuple[int, int]:
    """A destination and a source with these things wrong."""
    source = rig.vm() if "source not SEV" in what else rig.started()
    if "source is a mirror" in what:
        owner, source = rig.started(), rig.vm()
        rig.copy(source, owner)
    destination = rig.started() if "destination SEV" in what else rig.vm()
    if "destination has vCPUs" in what:
        rig.vcpu(destination)
    return destination, source


EINVALS = ("destination SEV", "source not SEV", "source is a mirror", "destination has vCPUs")
WORDS = {
    "destination SEV": "sev_guest(kvm)",
    "source not SEV": "!sev_guest(source_kvm)",
    "source is a mirror": "is_mirroring",
    "destination has vCPUs": "created_vcpus",
}


@pytest.mark.parametrize("wrong", EINVALS)
def test_each_thing_that_is_wrong_with_one_of_the_two_is_einval(rig: Rig, wrong: str) -> None:
    destination, source = broken(rig, wrong)
    before = (rig.file(destination).sev.active, rig.file(source).refs, rig.file(destination).refs)
    with refuses(EINVAL) as no:
        rig.copy(destination, source)
    assert WORDS[wrong] in no.why
    assert (rig.file(destination).sev.active, rig.file(source).refs, rig.file(destination).refs) == before


@pytest.mark.parametrize("upper", range(len(EINVALS)))
@pytest.mark.parametrize("lower", range(len(EINVALS)))
def test_of_two_wrong_things_the_upper_one_answers(rig: Rig, upper: int, lower: int) -> None:
    if upper >= lower or {EINVALS[upper], EINVALS[lower]} == {"source not SEV", "source is a mirror"}:
        return  # the same pair the other way round; and what is a mirror is SEV
    with refuses(EINVAL) as no:
        rig.copy(*broken(rig, EINVALS[upper], EINVALS[lower]))
    assert WORDS[EINVALS[upper]] in no.why


def test_flags_of_the_structure_are_asked_before_the_descriptor(rig: Rig) -> None:
    vm = rig.vm()
    with refuses(EINVAL):
        rig.qemu.ioctl(vm, KVM_ENABLE_CAP, kvm_enable_cap(COPY, flags=1, args=(400, 0, 0, 0)))
    with refuses(EFAULT):
        rig.qemu.ioctl(vm, KVM_ENABLE_CAP, NOWHERE)


def test_a_dead_source_is_einval_and_a_dead_destination_eio(rig: Rig) -> None:
    source, destination, mirror = rig.started(), rig.vm(), rig.vm()
    rig.move(destination, source)
    with refuses(EINVAL) as no:
        rig.copy(mirror, source)
    assert "!sev_guest(source_kvm)" in no.why
    with refuses(EIO):
        rig.copy(source, destination)


def test_the_caller_must_be_the_destinations_process_and_need_not_be_the_sources(rig: Rig) -> None:
    other = second_process(rig)
    owner = rig.started()
    mirror = rig.vm(process=other)
    with refuses(EIO):
        rig.copy(other.send_fd(mirror, rig.qemu), owner)
    rig.copy(mirror, rig.qemu.send_fd(owner, other), other)

    assert rig.file(mirror, other).sev.owner is rig.file(owner)


def test_a_source_that_was_never_launched_makes_a_mirror_without_a_handle_for_ever(rig: Rig) -> None:
    owner, mirror = rig.init(), rig.vm()
    rig.copy(mirror, owner)
    rig.start(owner)

    assert rig.file(mirror).sev.handle == 0
    with refuses(EBADF):
        rig.status(mirror)
