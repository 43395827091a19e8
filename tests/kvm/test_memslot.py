"""Memory slots: the kernel's rules in the kernel's order, and a model that they are held against."""

from __future__ import annotations

from errno import EEXIST, EINVAL
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import refuses

from sevlab.abi.kvm import KVM_MEM_LOG_DIRTY_PAGES, KVM_MEM_READONLY, KVM_USER_MEM_SLOTS, kvm_userspace_memory_region
from sevlab.kvm.fd import KvmError
from sevlab.kvm.ladder import ladder
from sevlab.kvm.memslot import Slot, Slots
from sevlab.kvm.mm import TASK_SIZE

PAGE = 4096


def region(slot: int = 0, flags: int = 0, gpa: int = 0, size: int = PAGE, hva: int = 0x10000) -> kvm_userspace_memory_region:
    return kvm_userspace_memory_region(slot, flags, gpa, size, hva)


@pytest.mark.parametrize(
    "wrong, note",
    [
        (region(slot=KVM_USER_MEM_SLOTS), "KVM_USER_MEM_SLOTS"),
        (region(slot=0xFFFF), "KVM_USER_MEM_SLOTS"),
        (region(flags=4), "check_memory_region_flags"),
        (region(flags=0x80000000), "check_memory_region_flags"),
        (region(size=PAGE + 1), "memory_size"),
        (region(size=8), "memory_size"),
        (region(gpa=1), "guest_phys_addr"),
        (region(hva=0x10001), "userspace_addr"),
        (region(hva=TASK_SIZE), "access_ok"),
        (region(hva=(1 << 64) - PAGE), "access_ok"),
        (region(slot=1 << 16), "as_id"),
        (region(gpa=(1 << 64) - PAGE), "guest_phys_addr + memory_size"),
        (region(gpa=(1 << 64) - PAGE, size=2 * PAGE), "guest_phys_addr + memory_size"),
        (region(size=0), "deleting a slot"),
        (region(size=0, slot=7), "deleting a slot"),
    ],
)
def test_what_can_be_no_slot_is_einval(wrong: kvm_userspace_memory_region, note: str) -> None:
    slots = Slots()

    with refuses(EINVAL) as no:
        slots.set(wrong)
    assert note in no.why
    assert len(slots) == 0


@pytest.mark.parametrize(
    "wrong, upper",
    [
        (region(slot=0xFFFF, flags=4), "KVM_USER_MEM_SLOTS"),
        (region(flags=4, size=1), "check_memory_region_flags"),
        (region(size=1, gpa=1), "memory_size"),
        (region(gpa=1, hva=1), "guest_phys_addr"),
        (region(hva=1, slot=1 << 16), "userspace_addr"),
        (region(slot=1 << 16, gpa=(1 << 64) - PAGE, size=2 * PAGE), "as_id"),
    ],
)
def test_with_two_things_wrong_one_learns_of_the_upper(wrong: kvm_userspace_memory_region, upper: str) -> None:
    with refuses(EINVAL) as no:
        Slots().set(wrong)
    assert upper in no.why


def test_a_slot_may_move_in_the_guest_and_change_its_dirty_log_and_nothing_else() -> None:
    slots = Slots()
    slots.set(region(size=2 * PAGE))
    slots.set(region(size=2 * PAGE, gpa=0x100000))
    slots.set(region(size=2 * PAGE, gpa=0x100000, flags=KVM_MEM_LOG_DIRTY_PAGES))
    assert list(slots) == [Slot(0, 0x100, 2, 0x10000, KVM_MEM_LOG_DIRTY_PAGES)]

    for change in ({"size": PAGE}, {"hva": 0x20000}, {"flags": KVM_MEM_READONLY}, {"size": 3 * PAGE, "gpa": 0x500000}):
        with refuses(EINVAL):
            slots.set(region(**{"size": 2 * PAGE, "gpa": 0x100000, **change}))
    assert list(slots) == [Slot(0, 0x100, 2, 0x10000, KVM_MEM_LOG_DIRTY_PAGES)]


def test_a_slot_at_another_address_is_met_before_it_overlaps() -> None:
    slots = Slots()
    slots.set(region(slot=0))
    slots.set(region(slot=1, gpa=PAGE))

    with refuses(EINVAL):
        slots.set(region(slot=1, gpa=0, hva=0x20000))
    with refuses(EEXIST):
        slots.set(region(slot=1, gpa=0))


@pytest.mark.parametrize("gpa, size, free", [(0, 1, True), (3, 1, True), (0, 2, False), (1, 1, False), (2, 9, False)])
def test_overlap_is_eexist_and_touching_is_none(gpa: int, size: int, free: bool) -> None:
    slots = Slots()
    slots.set(region(slot=5, gpa=PAGE, size=2 * PAGE))
    if free:
        slots.set(region(slot=6, gpa=gpa * PAGE, size=size * PAGE))
    else:
        with refuses(EEXIST):
            slots.set(region(slot=6, gpa=gpa * PAGE, size=size * PAGE))


def test_saying_the_same_again_changes_nothing() -> None:
    slots = Slots()
    slots.set(region())

    assert slots.set(region()) == (Slot(0, 0, 1, 0x10000, 0),) * 2


def test_two_slots_may_show_the_same_memory() -> None:
    slots = Slots()
    slots.set(region(slot=0))
    slots.set(region(slot=1, gpa=0x5000))

    assert list(slots.behind(0x10000, 16)) == [(0, 1), (5, 1)]


@pytest.mark.parametrize(
    "hva, size, found",
    [(0x10000, 0x4000, [(16, 4)]), (0x12000, 1, [(18, 1)]), (0x12FFF, 2, [(18, 2)]), (0xF000, 0x1000, []), (0x14000, 99, [])],
)
def test_the_frames_behind_an_address_of_the_process(hva: int, size: int, found: list[Any]) -> None:
    slots = Slots()
    slots.set(region(gpa=0x10000, size=0x4000))

    assert list(slots.behind(hva, size)) == found


STEP = st.tuples(
    st.integers(0, 3), st.integers(0, 6), st.integers(0, 3), st.sampled_from([0x10000, 0x20000]), st.sampled_from([0, 1, 2])
)


@given(st.lists(STEP, max_size=40))
def test_law_slots_answer_as_a_plain_dictionary_of_frames(script: list[tuple[int, int, int, int, int]]) -> None:
    slots, model = Slots(), dict[int, Slot]()
    for slot, gfn, count, hva, flags in script:
        before = list(slots)
        try:
            slots.set(region(slot, flags, gfn * PAGE, count * PAGE, hva))
        except KvmError:
            assert list(slots) == before
            continue
        if count:
            model[slot] = Slot(slot, gfn, count, hva, flags)
        else:
            del model[slot]

    frames = {gfn: slot for slot in model.values() for gfn in range(slot.gfn, slot.gfn + slot.pages)}
    assert {gfn: slots.find(gfn) for gfn in range(12)} == {gfn: frames.get(gfn) for gfn in range(12)}
    assert sum(slot.pages for slot in model.values()) == len(frames)  # no two overlap


def test_the_ladder_is_the_kernels() -> None:
    assert [rung.code for rung in ladder(Slots.set)] == [*["EINVAL"] * 13, "EEXIST"]
