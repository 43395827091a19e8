"""Pins: what they hold in place, and compaction, which moves the rest."""

from __future__ import annotations

from errno import EBUSY, EFAULT
from typing import Any

import pytest
from bare_kernel import BareKernel

from sevlab.hw.pages import HOST, MOVED, PRIVATE, SHARED, STALE
from sevlab.kvm.fd import KvmError
from sevlab.kvm.frames import Frames
from sevlab.kvm.mm import PAGE, Backing, Mm


@pytest.fixture
def frames() -> Frames:
    return BareKernel().frames


@pytest.fixture
def mm(frames: Frames) -> Mm:
    return Mm(frames)


def refused(function: Any, *args: Any, **kw: Any) -> int:
    with pytest.raises(KvmError) as no:
        function(*args, **kw)
    return no.value.errno or 0


# ------------------------------------------------------------------------ pins


def test_a_pin_of_untouched_memory_gives_it_one_run(mm: Mm) -> None:
    va = mm.mmap(16 << 20)
    pin = mm.pin(va + 100, (8 << 20) - 100)

    assert (pin.first_offset, pin.pages) == (100, 2048)
    assert pin.runs == [(mm.page(va), 2048)]


def test_a_pin_joins_what_lies_together_over_several_mappings(mm: Mm) -> None:
    va = mm.mmap(4 * PAGE)
    mm.write(va, b"x" * 2 * PAGE)
    mm.mmap(2 * PAGE, at=va + 2 * PAGE)
    pin = mm.pin(va, 4 * PAGE)

    assert [count for _, count in pin.runs] == [4]
    assert pin.pages == 4


@pytest.mark.parametrize(("offset", "n", "pages"), [(0, 1, 1), (0, PAGE, 1), (1, PAGE, 2), (PAGE - 1, 2, 2), (5, 3 * PAGE, 4)])
def test_a_pin_counts_the_pages_that_are_touched(mm: Mm, offset: int, n: int, pages: int) -> None:
    va = mm.mmap(8 * PAGE)
    pin = mm.pin(va + offset, n)

    assert pin.pages == pages == sum(count for _, count in pin.runs)
    assert mm.frames.pages.pinned() == pages


def test_pins_count_and_the_second_release_of_one_changes_nothing(mm: Mm) -> None:
    va = mm.mmap(2 * PAGE)
    one, two = mm.pin(va, 2 * PAGE), mm.pin(va, PAGE)
    pfn = mm.page(va)
    assert (mm.frames.pages.pins(pfn), mm.frames.pages.pins(pfn + 1)) == (2, 1)

    two.release()
    two.release()
    assert mm.frames.pages.pins(pfn) == 1
    with one:
        pass
    assert mm.frames.pages.pinned() == 0


def test_a_pin_that_meets_a_hole_leaves_nothing_pinned(mm: Mm) -> None:
    va = mm.mmap(2 * PAGE)

    assert refused(mm.pin, va, 3 * PAGE) == EFAULT
    assert mm.frames.pages.pinned() == 0


def test_a_pinned_page_outlives_its_mapping_and_its_process(mm: Mm) -> None:
    free = mm.frames.free
    va = mm.mmap(4 * PAGE)
    mm.write(va, b"guest" + bytes(4 * PAGE - 5))
    pin = mm.pin(va, PAGE)
    mm.munmap(va, PAGE)
    mm.teardown()
    assert mm.frames.free == free - 1
    assert mm.dram.read(pin.runs[0][0] << 12, 5) == b"guest"

    pin.release()
    assert mm.frames.free == free


def test_of_overlapping_pins_on_unmapped_memory_each_frees_what_no_other_keeps(mm: Mm) -> None:
    free = mm.frames.free
    va = mm.mmap(6 * PAGE)
    low, high = mm.pin(va, 4 * PAGE), mm.pin(va + 2 * PAGE, 4 * PAGE)
    mm.munmap(va, 6 * PAGE)
    assert mm.frames.free == free - 6

    low.release()
    assert mm.frames.free == free - 4
    high.release()
    assert mm.frames.free == free


def test_a_gibibyte_is_pinned_as_one_run_without_an_object_a_page() -> None:
    mm = Mm(BareKernel(2 << 30).frames)
    va = mm.mmap(1 << 30)
    pin = mm.pin(va, 1 << 30)

    assert [count for _, count in pin.runs] == [1 << 18]
    assert len(mm.find(va).backing._extents) == 1  # type: ignore[union-attr]
    assert not mm._pages
    pin.release()


# ------------------------------------------------------------------ compaction


def test_compaction_moves_the_raw_bytes_and_nobody_in_the_process_notices(mm: Mm) -> None:
    va = mm.mmap(3 * PAGE)
    mm.write(va, b"a" * 3 * PAGE)
    told = []
    mm.notifiers.append(lambda start, n: told.append((start, n)))
    old, new = mm.move(va + PAGE + 5)

    assert (mm.translate(va + PAGE), old) != (old << 12, new)
    assert mm.read(va, 3 * PAGE) == b"a" * 3 * PAGE
    assert told == [(va + PAGE, PAGE)]
    assert (mm.frames.pages.state(old), mm.frames.pages.state(new)) == (MOVED, HOST)
    mm.write(va + PAGE, b"b")
    assert mm.dram.read(new << 12, 2) == b"ba"


@pytest.mark.parametrize(("before", "after"), [(PRIVATE, STALE), (SHARED, SHARED)])
def test_what_a_guest_s_key_wrote_is_stale_in_its_new_place(mm: Mm, before: int, after: int) -> None:
    va = mm.mmap(PAGE)
    mm.frames.pages.mark(mm.page(va), 1, before, 5)
    _, new = mm.move(va)

    assert (mm.frames.pages.state(new), mm.frames.pages.asid(new)) == (after, 5)


def test_compaction_can_be_told_where_to(mm: Mm) -> None:
    va = mm.mmap(PAGE)
    mm.page(va)

    assert mm.move(va, 5000)[1] == 5000 == mm.page(va)


def test_compaction_of_shared_memory_tells_everybody_who_maps_it(mm: Mm) -> None:
    other = Mm(mm.frames)
    backing = Backing(mm.frames, 4, shared=True)
    here, there = mm.mmap(4 * PAGE, backing=backing), other.mmap(2 * PAGE, backing=backing, offset=2)
    mm.write(here + 3 * PAGE, b"both")
    told: list[int] = []
    other.notifiers.append(lambda start, n: told.append(start))
    assert other.read(there + PAGE, 4) == b"both"

    mm.move(here + 3 * PAGE)
    mm.move(here + 3 * PAGE)
    mm.write(here + 3 * PAGE, b"BOTH")
    assert other.read(there + PAGE, 4) == b"BOTH"
    assert told == [there + PAGE] * 2


def test_what_may_not_move(mm: Mm) -> None:
    va = mm.mmap(2 * PAGE)
    kernel = mm.mmap(PAGE, backing=Backing(mm.frames, 1, shared=True, movable=False))
    mm.write(kernel, b"kvm_run")
    assert refused(mm.move, va) == refused(mm.move, va - PAGE) == EFAULT

    mm.write(va, b"x")
    with mm.pin(va, 1):
        assert refused(mm.move, va) == EBUSY
    assert refused(mm.move, va, mm.page(va)) == EBUSY
    assert refused(mm.move, kernel) == EBUSY
    assert mm.read(va, 1) == b"x"
