"""Nested page tables: who fills them, who may change them, and what a miss is."""

from __future__ import annotations

from errno import EFAULT

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw.npt import PAGE, NestedFault, Npt


def identity(gfn: int) -> int | None:
    return gfn + 0x100 if gfn < 0x40 else None


def test_a_page_is_asked_for_once_and_then_remembered() -> None:
    asked: list[int] = []
    npt = Npt(lambda gfn: asked.append(gfn) or 7)

    assert [npt.translate(0x5010), npt.translate(0x5FFF), npt.translate(0x6000)] == [0x7010, 0x7FFF, 0x7000]
    assert asked == [5, 6]


def test_a_gpa_without_a_slot_is_a_nested_fault_and_leaves_no_entry() -> None:
    npt = Npt(identity)

    with pytest.raises(NestedFault) as fault:
        npt.translate(0x40123)

    assert fault.value.gpa == 0x40123 and len(npt) == 0


def test_what_the_kernels_handler_refuses_comes_through() -> None:
    def fault(gfn: int) -> int | None:
        raise OSError(EFAULT, "")

    with pytest.raises(OSError) as refusal:
        Npt(fault).translate(0)

    assert refusal.value.errno == EFAULT


def test_a_remapped_page_leads_elsewhere_and_no_byte_moves() -> None:
    npt = Npt(identity)
    npt.translate(0x1000)
    before = npt.version

    npt.remap(0x1000, 0x9000)

    assert npt.translate(0x1234) == 0x9234 and npt.version > before


@pytest.mark.parametrize(("gpa", "hpa"), [(0x1001, 0x9000), (0x1000, 0x9008), (0x1FFF, 0x9FFF)])
def test_only_whole_pages_are_remapped(gpa: int, hpa: int) -> None:
    npt = Npt(identity)

    with pytest.raises(ValueError, match="page-aligned"):
        npt.remap(gpa, hpa)

    assert not npt.table and npt.version == 0


@pytest.mark.parametrize("count", [1, 2, 1 << 20])
def test_dropped_entries_are_asked_for_again(count: int) -> None:
    npt = Npt(identity)
    for gfn in range(4):
        npt.translate(gfn * PAGE)
    npt.remap(0x1000, 0x99000)

    npt.drop(1, count)

    assert npt.translate(0x1000) == 0x101000
    assert sorted(npt.table) == sorted({0, 1} | ({2, 3} if count == 1 else {3} if count == 2 else set()))


def test_dropping_what_is_not_there_changes_nothing_but_the_version() -> None:
    npt = Npt(identity)

    npt.drop(3, 2)

    assert not npt.table and npt.version == 1


def test_neighbours_in_the_machine_are_one_run() -> None:
    npt = Npt(identity)
    npt.remap(0x3000, 0x50000)

    assert list(npt.runs(0x1800, 0x3000)) == [(0x101800, 0x1800), (0x50000, 0x1000), (0x104000, 0x800)]


def test_a_run_that_reaches_a_hole_faults_there() -> None:
    with pytest.raises(NestedFault) as fault:
        list(Npt(identity).runs(0x3F800, 0x1000))

    assert fault.value.gpa == 0x40000


@given(gpa=st.integers(0, 0x3E000), n=st.integers(1, 0x2000), swaps=st.lists(st.integers(0, 63), max_size=8))
def test_runs_are_what_translating_every_byte_would_give(gpa: int, n: int, swaps: list[int]) -> None:
    npt = Npt(identity)
    for number, gfn in enumerate(swaps):
        npt.remap(gfn * PAGE, (0x400 + 2 * number) * PAGE)

    flat = [hpa + i for hpa, size in npt.runs(gpa, n) for i in range(size)]

    assert flat == [npt.translate(gpa + i) for i in range(n)]
