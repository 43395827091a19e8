"""Page frames: lowest first, zero when handed out, and none lost."""

from __future__ import annotations

from errno import EBUSY, ENOMEM
from typing import Any

import pytest
from bare_kernel import BareKernel
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw.pages import FREE, HOST, MOVED
from sevlab.kvm.fd import KvmError
from sevlab.kvm.frames import LOW, Frames

PAGES = 1024  # of the machine in these tests
ALL = PAGES - LOW


@pytest.fixture
def frames() -> Frames:
    return BareKernel(PAGES << 12).frames


def refused(function: Any, *args: Any) -> int:
    with pytest.raises(KvmError) as no:
        function(*args)
    return no.value.errno or 0


def test_the_first_mib_belongs_to_the_firmware_and_address_0_to_nobody(frames: Frames) -> None:
    assert frames.take(1) == [(LOW, 1)]
    assert frames.free == ALL - 1


def test_frames_asked_for_together_lie_together(frames: Frames) -> None:
    assert frames.take(300) == [(LOW, 300)]
    assert frames.take(2) == [(LOW + 300, 2)]


def test_what_came_back_is_handed_out_before_what_is_new_the_lowest_first(frames: Frames) -> None:
    frames.take(10)
    frames.give(LOW + 6, 2)
    frames.give(LOW + 1, 2)

    assert frames.take(5) == [(LOW + 1, 2), (LOW + 6, 2), (LOW + 10, 1)]


def test_neighbours_that_came_back_are_one_run_again(frames: Frames) -> None:
    frames.take(10)
    for pfn in (LOW + 4, LOW + 2, LOW + 3):
        frames.give(pfn, 1)

    assert list(frames) == [(LOW + 2, 3), (LOW + 10, ALL - 10)]
    assert frames.take(3) == [(LOW + 2, 3)]


def test_a_frame_that_comes_back_keeps_its_bytes_until_it_is_handed_out_again(frames: Frames) -> None:
    frames.take(1)
    frames.dram.write(LOW << 12, b"secret")
    frames.give(LOW, 1)
    assert frames.dram.read(LOW << 12, 6) == b"secret"

    frames.take(1)
    assert frames.dram.read(LOW << 12, 6) == bytes(6)


def test_the_page_map_shows_who_has_what(frames: Frames) -> None:
    frames.take(3)
    frames.give(LOW + 1, 1)
    frames.give(LOW + 2, 1, MOVED)

    assert [frames.pages.state(LOW + n) for n in range(4)] == [HOST, FREE, MOVED, FREE]


def test_one_run_is_found_among_what_came_back_or_what_is_new(frames: Frames) -> None:
    frames.take(20)
    frames.give(LOW + 1, 3)
    frames.give(LOW + 9, 9)
    assert frames.take_run(8) == LOW + 9
    assert frames.take_run(8) == LOW + 20
    assert frames.take_run(3) == LOW + 1


def test_an_aligned_run_leaves_what_it_jumped_over_to_others(frames: Frames) -> None:
    frames.take(1)

    assert frames.take_run(256, 256) == 2 * LOW
    assert frames.take(1) == [(LOW + 1, 1)]
    assert frames.free == ALL - 258


def test_an_aligned_run_is_found_inside_a_returned_one(frames: Frames) -> None:
    frames.take(30)
    frames.give(LOW + 1, 29)
    assert frames.take_run(4, 8) == LOW + 8

    assert list(frames)[:2] == [(LOW + 1, 7), (LOW + 12, 18)]


def test_one_frame_can_be_had_by_its_number(frames: Frames) -> None:
    frames.take(4)
    frames.give(LOW + 2, 1)

    assert frames.take_at(LOW + 2) == LOW + 2
    assert frames.take_at(LOW + 100) == LOW + 100
    assert frames.take(1) == [(LOW + 4, 1)]


@pytest.mark.parametrize("pfn", [0, LOW - 1, LOW, LOW + 3, PAGES, PAGES + 7])
def test_a_frame_in_use_or_of_no_machine_is_not_to_be_had(frames: Frames, pfn: int) -> None:
    frames.take(4)

    assert refused(frames.take_at, pfn) == EBUSY


def test_more_than_there_is_is_enomem_and_takes_nothing(frames: Frames) -> None:
    frames.take(10)
    frames.give(LOW, 5)
    assert refused(frames.take, ALL - 4) == ENOMEM
    assert frames.free == ALL - 5

    assert sum(count for _, count in frames.take(ALL - 5)) == ALL - 5
    assert refused(frames.take, 1) == ENOMEM


@pytest.mark.parametrize(("count", "align"), [(ALL, 1), (600, 512), (600, 256)])
def test_a_run_that_fits_nowhere_is_enomem_although_frames_are_left(frames: Frames, count: int, align: int) -> None:
    frames.take(200)

    assert refused(frames.take_run, count, align) == ENOMEM
    assert frames.free == ALL - 200


def test_a_refusal_says_how_many_were_wanted(frames: Frames) -> None:
    with pytest.raises(KvmError, match=f"{ALL + 1} frames are wanted and {ALL} are free"):
        frames.take(ALL + 1)


def test_no_frames_are_had_for_nothing(frames: Frames) -> None:
    assert frames.take(0) == []


def test_the_smallest_machine_still_has_frames() -> None:
    frames = BareKernel(2 << 20).frames

    assert frames.free == 256


@given(st.lists(st.tuples(st.sampled_from(["take", "run", "at", "give"]), st.integers(0, 400), st.integers(0, 3)), max_size=25))
def test_law_no_frame_is_handed_out_twice_or_lost_and_each_is_zero(script: list[tuple[str, int, int]]) -> None:
    frames = BareKernel(PAGES << 12).frames
    held: dict[int, int] = {}
    for what, number, shift in script:
        try:
            match what:
                case "take":
                    new = frames.take(number)
                case "run":
                    pfn = frames.take_run(number + 1, 1 << shift * 3)
                    assert pfn % (1 << shift * 3) == 0
                    new = [(pfn, number + 1)]
                case "at":
                    new = [(frames.take_at(number * 3), 1)]
                case "give":
                    new = []
                    for pfn in sorted(held)[shift : shift + number : shift + 1]:
                        del held[pfn]
                        frames.give(pfn, 1)
        except KvmError as no:
            assert no.errno in (ENOMEM, EBUSY)
            continue
        for first, count in new:
            for pfn in range(first, first + count):
                assert pfn not in held
                assert LOW <= pfn < PAGES
                assert frames.dram.read(pfn << 12, 8) == bytes(8)
                frames.dram.write(pfn << 12, b"in use!!")
                held[pfn] = 1

    assert frames.free == ALL - len(held) == sum(count for _, count in frames)
    assert frames.pages.counts()["host"] == len(held)
