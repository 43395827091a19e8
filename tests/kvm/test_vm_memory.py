"""A VM's memory: slots over a process's own, and registered regions."""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINVAL, ENOMEM, ENOTTY
from typing import Any

import pytest
from sev_rig import Rig, refuses

from sevlab.hw.npt import NestedFault
from sevlab.hw.soc import Clflush, Wbinvd
from sevlab.kvm import designs

PAGE = 4096
NOWHERE = 0x6660_0000


# ------------------------------------------------------------------ guest memory


def test_a_guest_touches_memory_and_gets_the_processs_page(rig: Rig) -> None:
    vm, hva = rig.vm(), rig.memory(4 * PAGE)
    rig.slot(vm, hva, 4 * PAGE, gpa=0x100000)
    rig.qemu.write(hva + PAGE, b"hello")
    npt = rig.file(vm).npt

    assert rig.soc.dram.read(npt.translate(0x101000), 5) == b"hello"
    rig.soc.dram.write(npt.translate(0x103010), b"guest")  # a page that nobody had touched
    assert rig.qemu.read(hva + 3 * PAGE + 16, 5) == b"guest"


def test_where_no_slot_is_the_guest_faults(rig: Rig) -> None:
    vm = rig.vm()
    rig.slot(vm, rig.memory(PAGE), PAGE, gpa=0x1000)

    for gpa in (0, 0x2000, 1 << 40):
        with pytest.raises(NestedFault):
            rig.file(vm).npt.translate(gpa)


def test_a_slot_over_nothing_is_made_and_faults_when_touched(rig: Rig) -> None:
    vm = rig.vm()
    rig.slot(vm, NOWHERE, PAGE)

    with refuses(EFAULT):
        rig.file(vm).npt.translate(0)


def test_unmapping_takes_the_page_from_the_guest_too(rig: Rig) -> None:
    vm, hva = rig.vm(), rig.memory(bytes(4 * PAGE))
    rig.slot(vm, hva, 4 * PAGE)
    npt = rig.file(vm).npt
    for page in range(4):
        npt.translate(page * PAGE)
    rig.qemu.munmap(hva + PAGE, 2 * PAGE)

    assert sorted(npt.table) == [0, 3]
    with refuses(EFAULT):
        npt.translate(PAGE)


def test_a_deleted_slot_is_gone_from_the_nested_table_and_a_moved_one_from_its_old_place(rig: Rig) -> None:
    vm, hva = rig.vm(), rig.memory(bytes(2 * PAGE))
    rig.slot(vm, hva, 2 * PAGE)
    npt = rig.file(vm).npt
    npt.translate(0)
    rig.slot(vm, hva, 2 * PAGE, gpa=0x10000)
    with pytest.raises(NestedFault):
        npt.translate(0)
    npt.translate(0x10000)
    rig.slot(vm, hva, 0)

    with pytest.raises(NestedFault):
        npt.translate(0x10000)


@pytest.mark.parametrize("design, flushes", [(designs.LINUX_5_13, 0), (designs.LINUX_6_1, 1)], ids=["5.13", "6.1"])
def test_pages_that_leave_an_encrypted_guest_are_written_back(make_rig: Any, design: designs.Design, flushes: int) -> None:
    rig = make_rig(design)
    vm, hva = rig.started(), rig.memory(bytes(2 * PAGE))
    rig.slot(vm, hva, 2 * PAGE)
    for leave in (lambda: rig.qemu.munmap(hva, PAGE), lambda: rig.slot(vm, hva, 0)):
        before = len(rig.rows(Wbinvd))
        leave()
        assert len(rig.rows(Wbinvd)) == before + flushes


def test_an_ordinary_guest_and_memory_that_no_slot_shows_cost_no_flush(rig: Rig) -> None:
    plain, sev, hva, other = rig.vm(), rig.started(), rig.memory(bytes(PAGE)), rig.memory(bytes(PAGE))
    rig.slot(plain, hva, PAGE)
    before = len(rig.rows(Wbinvd))
    rig.qemu.munmap(other, PAGE)
    rig.qemu.munmap(hva, PAGE)

    assert rig.file(sev).sev.active
    assert len(rig.rows(Wbinvd)) == before


def test_making_or_deleting_a_slot_pins_nothing(rig: Rig) -> None:
    vm, hva = rig.started(), rig.memory(bytes(4 * PAGE))
    rig.slot(vm, hva, 4 * PAGE)
    assert rig.soc.pages.pinned() == 0
    rig.register(vm, hva, 4 * PAGE)
    rig.slot(vm, hva, 0)

    assert rig.soc.pages.pinned() == 4


# ------------------------------------------------------------------ regions


def test_register_and_unregister_have_their_rules_in_this_order(rig: Rig) -> None:
    plain, vm, hva = rig.vm(), rig.init(), rig.memory(bytes(PAGE))
    with refuses(ENOTTY):  # no SEV VM, and no length
        rig.register(plain, hva, 0)
    with refuses(ENOTTY):
        rig.unregister(plain, hva, 0)
    for size, at, code in [(0, hva, EINVAL), (1 << 63, 1 << 63, EINVAL), (1 << 44, 0, EINVAL), (PAGE, NOWHERE, ENOMEM)]:
        with refuses(code):
            rig.register(vm, at, size)
    with refuses(EINVAL):
        rig.unregister(vm, hva, PAGE)
    assert rig.file(vm).sev.pages_locked == 0


def test_a_mirror_owns_no_regions(rig: Rig) -> None:
    owner, vm, plain, hva = rig.init(), rig.init(), rig.vm(), rig.memory(bytes(PAGE))
    for mirror, register in ((vm, EINVAL), (plain, ENOTTY)):  # a mirror that is none SEV: each asks in its own order
        rig.file(mirror).sev.owner = rig.file(owner)
        with refuses(register):
            rig.register(mirror, hva, PAGE)
        with refuses(EINVAL):
            rig.unregister(mirror, hva, PAGE)
        rig.file(mirror).sev.owner = None


def test_the_same_range_twice_is_pinned_and_counted_twice(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(2 * PAGE))
    rig.register(vm, hva, 2 * PAGE)
    rig.register(vm, hva, 2 * PAGE)
    assert (rig.file(vm).sev.pages_locked, len(rig.file(vm).sev.regions)) == (4, 2)
    rig.unregister(vm, hva, 2 * PAGE)
    assert rig.soc.pages.pinned() == 2
    rig.unregister(vm, hva, 2 * PAGE)

    with refuses(EINVAL):
        rig.unregister(vm, hva, 2 * PAGE)
    assert rig.soc.pages.pinned() == rig.file(vm).sev.pages_locked == 0


@pytest.mark.parametrize("addr, size", [(0, PAGE), (PAGE, PAGE), (0, 2 * PAGE - 1), (1, 2 * PAGE)])
def test_only_exactly_what_was_registered_can_be_unregistered(rig: Rig, addr: int, size: int) -> None:
    vm, hva = rig.init(), rig.memory(bytes(3 * PAGE))
    rig.register(vm, hva, 2 * PAGE)

    with refuses(EINVAL):
        rig.unregister(vm, hva + addr, size)
    assert rig.soc.pages.pinned() == 2


def test_unaligned_regions_count_every_page_they_touch(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(3 * PAGE))
    rig.register(vm, hva + PAGE - 1, 2)

    assert rig.file(vm).sev.pages_locked == 2


def test_unregistering_writes_the_caches_back_before_the_pages_are_free(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(PAGE))
    rig.register(vm, hva, PAGE)
    assert len(rig.rows(Clflush)) == 1
    rig.unregister(vm, hva, PAGE)

    kinds = [row["kind"] for row in rig.rows() if row["kind"] in ("Wbinvd", "PagesUnpinned")]
    assert kinds[-2:] == ["Wbinvd", "PagesUnpinned"]


def test_a_refused_unregister_flushes_nothing(rig: Rig) -> None:
    vm, before = rig.init(), len(rig.rows(Wbinvd))

    with refuses(EINVAL):
        rig.unregister(vm, 0x1000, PAGE)
    assert len(rig.rows(Wbinvd)) == before


def test_unmapping_a_registered_region_leaves_its_pages_pinned_until_it_is_unregistered(rig: Rig) -> None:
    vm, hva = rig.init(), rig.memory(bytes(2 * PAGE))
    rig.register(vm, hva, 2 * PAGE)
    free = rig.kernel.frames.free
    rig.qemu.munmap(hva, 2 * PAGE)
    assert (rig.soc.pages.pinned(), rig.kernel.frames.free) == (2, free)
    rig.unregister(vm, hva, 2 * PAGE)

    assert (rig.soc.pages.pinned(), rig.kernel.frames.free) == (0, free + 2)


def test_a_region_counts_against_the_limit_and_the_limit_is_the_vms_own(make_rig: Callable[..., Rig]) -> None:
    rig = make_rig(memlock=4 * PAGE)
    one, two, hva = rig.init(), rig.init(), rig.memory(bytes(8 * PAGE))
    rig.register(one, hva, 3 * PAGE)
    with refuses(ENOMEM):
        rig.register(one, hva, 2 * PAGE)
    rig.register(one, hva, PAGE)
    rig.register(two, hva, 4 * PAGE)

    assert rig.kernel.dmesg[-1] == "SEV: 5 locked pages exceed the lock limit of 4."
