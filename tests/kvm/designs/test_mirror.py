"""The seam `mirror`: each hole of the patch as it shipped in 5.13, open there and closed in 6.1.

`BEFORE` is the kernel of the patch; `AFTER` the same kernel with the mirror of 6.1, so that nothing else differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from errno import EBADF, EBUSY, EINVAL, ENOTTY, ESRCH

import pytest
from kvm.two_vms import SECRET, Other, Primary, second_process
from sev_rig import UNTOUCHED, Rig, refuses

from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_ENABLE_CAP,
    KVM_EXIT_HLT,
    KVM_SEV_DBG_DECRYPT,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_LAUNCH_UPDATE_VMSA,
    kvm_enable_cap,
    kvm_sev_dbg,
    kvm_sev_guest_status,
)
from sevlab.kvm import designs
from sevlab.kvm.fd import Oops
from sevlab.kvm.ladder import ladder

Make = Callable[..., Rig]
BEFORE = designs.LINUX_5_13
AFTER = replace(BEFORE, name="5.13 with the mirror of 6.1", mirror=designs.MIRROR)
BOTH = pytest.mark.parametrize("design", [BEFORE, AFTER], ids=["5.13", "6.1"])


def begin(rig: Rig, mirror: int, source: int) -> object:
    return rig.qemu.begin(mirror, KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(source, 0, 0, 0)))


# ------------------------------------------------------------------ the contract: what both do


@BOTH
def test_both_share_the_key(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    primary = Primary(rig)
    primary.run()
    mirror = Other(rig, primary)
    rig.copy(mirror.vm, primary.vm)
    mirror.see_memory()
    mirror.add_vcpu()

    assert mirror.run() == KVM_EXIT_HLT
    assert mirror.said() == SECRET


@BOTH
def test_both_refuse_no_vm_no_sev_vm_a_mirror_oneself_and_an_sev_destination(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    for destination, source, code in (
        (rig.vm(), rig.kvm, EBADF),
        (rig.vm(), rig.vm(), EINVAL),
        (rig.vm(), mirror, EINVAL),
        (owner, owner, EINVAL),
        (rig.started(), owner, EINVAL),
        (mirror, owner, EINVAL),
    ):
        with refuses(code):
            rig.copy(destination, source)
    assert rig.file(owner).refs == 2  # its descriptor and its one mirror: nothing was left behind


@BOTH
def test_both_keep_the_owner_for_their_mirror_and_free_nothing_with_it(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    rig.qemu.close(owner)
    assert len(rig.psp.guests) == len(rig.kernel.asids.used()) == 1
    rig.qemu.close(mirror)
    assert len(rig.psp.guests) == len(rig.kernel.asids.used()) == 0


@BOTH
def test_neither_answers_enotty_as_the_patchs_documentation_promises(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    for source in (rig.sev, rig.vm()):
        with pytest.raises(OSError) as no:
            rig.copy(rig.vm(), source)
        assert no.value.errno in (EBADF, EINVAL) and no.value.errno != ENOTTY


@BOTH
def test_both_refuse_regions_of_a_mirror(make_rig: Make, design: designs.Design) -> None:
    rig = make_rig(design)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    with refuses(EINVAL):
        rig.register(mirror, rig.memory(4096), 4096)
    with refuses(EINVAL):
        rig.unregister(mirror, 0, 0)


# ------------------------------------------------------------------ the reasons: red on 5.13, green on 6.1


def test_a_bad_descriptor_oopses_5_13_and_takes_the_process_with_it(make_rig: Make) -> None:
    rig = make_rig(BEFORE)
    vm = rig.vm()
    with pytest.raises(Oops) as oops:
        rig.copy(vm, 400)
    assert "fput" in oops.value.why
    assert rig.qemu.dead
    assert any(line.startswith("BUG:") for line in rig.kernel.dmesg)
    with refuses(ESRCH):
        rig.qemu.open("/dev/kvm")
    assert rig.kernel.vms == {}


def test_a_bad_descriptor_is_ebadf_since(make_rig: Make) -> None:
    rig = make_rig(AFTER)
    with refuses(EBADF):
        rig.copy(rig.vm(), 400)
    assert not rig.qemu.dead
    assert not any("BUG" in line for line in rig.kernel.dmesg)


@pytest.mark.parametrize("design, es, same_handle", [(BEFORE, False, False), (AFTER, True, True)], ids=["5.13", "6.1"])
def test_an_es_source_is_copied_half_or_whole(make_rig: Make, design: designs.Design, es: bool, same_handle: bool) -> None:
    rig = make_rig(design)
    owner, mirror = rig.started(policy=4), rig.vm()
    rig.copy(mirror, owner)
    of, copy = rig.file(owner).sev, rig.file(mirror).sev
    assert of.es
    assert copy.es is es
    assert (copy.handle == of.handle) is same_handle
    rig.vcpu(mirror)
    assert bool(rig.file(mirror).vcpus[0].vmsa_pfn) is es  # no save area for a vCPU that takes itself for plain SEV
    if es:
        rig.op(mirror, KVM_SEV_LAUNCH_UPDATE_VMSA)
    else:
        with refuses(EINVAL):
            rig.op(mirror, KVM_SEV_LAUNCH_UPDATE_VMSA)
    assert rig.file(mirror).vcpus[0].guest_state_protected is es


@pytest.mark.parametrize("id", range(24))
def test_a_mirror_of_5_13_may_ask_nothing_at_all(make_rig: Make, id: int) -> None:
    rig = make_rig(BEFORE)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    with refuses(EINVAL):
        rig.op(mirror, id, 0x6EEE_EEEE_E000)
    assert rig.last.error == UNTOUCHED


def test_a_mirror_of_6_1_asks_for_its_status_and_debugs(make_rig: Make) -> None:
    rig = make_rig(AFTER)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    assert rig.status(mirror).handle == rig.file(owner).sev.handle
    hva, out = rig.memory(SECRET), rig.memory(16)
    rig.update(owner, hva, 16)
    rig.op(mirror, KVM_SEV_DBG_DECRYPT, kvm_sev_dbg(hva, out, 16))
    assert rig.qemu.read(out, 16) == SECRET


def test_a_vcpu_that_was_there_before_the_copy_stays_without_the_key_on_5_13(make_rig: Make) -> None:
    rig = make_rig(BEFORE)
    primary = Primary(rig)
    primary.run()
    mirror = Other(rig, primary)
    mirror.see_memory()
    mirror.add_vcpu()
    rig.copy(mirror.vm, primary.vm)

    assert mirror.run() != KVM_EXIT_HLT  # it fetches ciphertext
    assert mirror.said() == bytes(16)
    assert not rig.file(mirror.vm).vcpus[0].vmcb.sev


def test_a_destination_with_vcpus_is_einval_since(make_rig: Make) -> None:
    rig = make_rig(AFTER)
    owner = rig.started()
    with refuses(EINVAL) as no:
        rig.copy(rig.aux(1), owner)
    assert "created_vcpus" in no.why


def test_on_5_13_two_copies_into_one_vm_at_once_both_get_through_to_its_lock(make_rig: Make) -> None:
    rig = make_rig(BEFORE)
    one, two, mirror = rig.started(), rig.started(), rig.vm()
    calls = [begin(rig, mirror, source) for source in (one, two)]
    for call in calls:
        while call.step() == "runnable" and rig.file(mirror).lock.holder is None:  # type: ignore[attr-defined]
            pass
    calls[0].finish()  # type: ignore[attr-defined]
    with refuses(EINVAL):
        calls[1].finish()  # type: ignore[attr-defined]
    assert rig.file(two).refs == 1


def test_on_6_1_the_second_of_them_is_busy(make_rig: Make) -> None:
    rig = make_rig(AFTER)
    one, two, mirror = rig.started(), rig.started(), rig.vm()
    first, second = begin(rig, mirror, one), begin(rig, mirror, two)
    for _ in range(2):
        first.step()  # type: ignore[attr-defined]
    with refuses(EBUSY):
        second.finish()  # type: ignore[attr-defined]
    first.finish()  # type: ignore[attr-defined]


def test_on_5_13_the_source_may_change_between_the_two_locks(make_rig: Make) -> None:
    """The source's context is moved away while nobody holds it: the mirror then has a slot whose owner it does not know."""
    rig = Rig(replace(BEFORE, move=designs.MOVE))  # not balanced, which is the point
    source, mirror, fresh = rig.started(), rig.vm(), rig.vm()
    call = begin(rig, mirror, source)
    while rig.file(source).refs < 3:  # descriptor, the call's own, and now the mirror's
        call.step()  # type: ignore[attr-defined]
    while rig.file(source).lock.holder is not None:
        call.step()  # type: ignore[attr-defined]
    rig.move(fresh, source)
    call.finish()  # type: ignore[attr-defined]

    copy = rig.file(mirror).sev
    assert (copy.active, copy.asid, copy.owner) == (True, rig.file(fresh).sev.asid, rig.file(source))
    assert not rig.file(source).sev.active
    rig.qemu.close(fresh)
    assert rig.kernel.asids.state(copy.asid) == "reclaimable"  # somebody else's soon, and the mirror still runs on it


def test_on_6_1_a_move_waits_its_turn_and_is_busy(make_rig: Make) -> None:
    rig = make_rig(replace(AFTER, move=designs.MOVE))
    source, mirror, fresh = rig.started(), rig.vm(), rig.vm()
    call = begin(rig, mirror, source)
    for _ in range(4):
        call.step()  # type: ignore[attr-defined]
    with refuses(EBUSY):
        rig.move(fresh, source)
    call.finish()  # type: ignore[attr-defined]
    rig.move(fresh, source)
    assert rig.file(mirror).sev.owner is rig.file(fresh)


@pytest.mark.parametrize("design, known", [(BEFORE, 0), (AFTER, 1)], ids=["5.13", "6.1"])
def test_an_owner_knows_its_mirrors_or_does_not(make_rig: Make, design: designs.Design, known: int) -> None:
    rig = make_rig(design)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    assert len(rig.file(owner).sev.mirrors) == known


def test_on_5_13_the_number_of_dev_sev_is_not_copied_and_that_hurts_nobody_yet(make_rig: Make) -> None:
    rig = make_rig(BEFORE)
    owner, mirror = rig.started(), rig.vm()
    rig.copy(mirror, owner)
    assert (rig.file(mirror).sev.fd, rig.file(owner).sev.fd) == (0, rig.sev)
    with refuses(EINVAL):
        rig.op(mirror, KVM_SEV_GUEST_STATUS, kvm_sev_guest_status())


def test_the_mirror_of_another_process_works_on_both(make_rig: Make) -> None:
    for design in (BEFORE, AFTER):
        rig = make_rig(design)
        other = second_process(rig)
        owner, mirror = rig.started(), rig.vm(process=other)
        rig.copy(mirror, rig.qemu.send_fd(owner, other), other)
        assert rig.file(mirror, other).sev.asid == rig.file(owner).sev.asid


def test_a_bad_descriptor_is_met_in_5_13_before_anything_of_the_destination_is_asked(make_rig: Make) -> None:
    rig = make_rig(BEFORE)
    destination = rig.started()  # SEV already: EINVAL, were it asked first
    with refuses(EBADF):
        rig.copy(destination, rig.sev)
    with pytest.raises(Oops):
        rig.copy(destination, 77)


def test_of_two_things_wrong_in_5_13_the_source_answers_first(make_rig: Make) -> None:
    """E1 check by check: file, source not SEV, source a mirror, source the destination; only then the destination."""
    rig = make_rig(BEFORE)
    owner, mirror, plain = rig.started(), rig.vm(), rig.vm()
    rig.copy(mirror, owner)
    for destination, source, word in (
        (owner, plain, "!sev_guest(source_kvm)"),  # and the destination is SEV
        (plain, plain, "!sev_guest(source_kvm)"),  # and it is the destination
        (owner, mirror, "is_mirroring"),  # and the destination is SEV
        (mirror, mirror, "is_mirroring"),  # and it is the destination, which is SEV
        (owner, owner, "source_kvm == kvm"),  # and the destination is SEV
        (rig.started(), owner, "sev_guest(kvm)"),
    ):
        with refuses(EINVAL) as no:
            rig.copy(destination, source)
        assert word in no.why


def test_the_rungs_of_5_13_read_as_the_patch_does() -> None:
    rungs = ladder(designs.Mirror_5_13.enable)
    assert [rung.code for rung in rungs] == ["EBADF", "EINVAL", "EINVAL", "EINVAL", "EINVAL"]
    assert [rung.note for rung in rungs][1::3] == ["!sev_guest(source_kvm)", "sev_guest(kvm)"]
