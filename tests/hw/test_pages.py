"""What each frame is used for: ranges in, counts and runs out, one event a range."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw import pages
from sevlab.hw.pages import HELD, NAMES, Pages, PagesMarked, PagesPinned, PagesUnpinned, Run
from sevlab.trace import Trace

COUNT = 64


def test_all_frames_are_free_at_first_and_nobody_s() -> None:
    fresh = Pages(COUNT, Trace())
    assert fresh.counts() == {name: COUNT if name == "free" else 0 for name in NAMES}
    assert (fresh.state(5), fresh.asid(5), fresh.pins(5)) == (pages.FREE, 0, 0)
    assert fresh.runs() == [Run(0, COUNT, pages.FREE, 0, 0)]


def test_a_range_is_marked_with_one_event_whatever_its_length() -> None:
    trace = Trace()
    frames = Pages(1 << 20, trace)
    frames.mark(0x100, 1 << 18, pages.PRIVATE, 7)
    assert trace.rows() == [
        {"seq": 0, "t": 0, "n": 0, "host": 0, "lane": "host", "kind": "PagesMarked"}
        | {"first": 0x100, "count": 1 << 18, "state": pages.PRIVATE, "asid": 7}
    ]
    assert frames.counts()["private"] == 1 << 18
    assert (frames.state(0x100), frames.asid(0x100), frames.state(0xFF)) == (pages.PRIVATE, 7, pages.FREE)


def test_runs_join_what_is_equal_and_part_what_differs_in_state_owner_or_pins() -> None:
    frames = Pages(COUNT, Trace())
    frames.mark(8, 8, pages.PRIVATE, 3)
    frames.mark(12, 8, pages.PRIVATE, 4)
    frames.mark(16, 4, pages.PRIVATE, 4)
    frames.pin(14, 1)
    assert frames.runs(8, 12) == [
        Run(8, 4, pages.PRIVATE, 3, 0),
        Run(12, 2, pages.PRIVATE, 4, 0),
        Run(14, 1, pages.PRIVATE, 4, 1),
        Run(15, 5, pages.PRIVATE, 4, 0),
    ]


def test_pins_are_counted_and_each_change_is_an_event() -> None:
    trace = Trace()
    frames = Pages(COUNT, trace)
    frames.pin(4, 8)
    frames.pin(6, 1)
    frames.unpin(4, 4)
    assert [frames.pins(pfn) for pfn in range(3, 13)] == [0, 0, 0, 1, 0, 1, 1, 1, 1, 0]
    assert frames.pinned() == 5
    kinds = [(row["kind"], row["first"], row["count"]) for row in trace.rows()]
    assert kinds == [("PagesPinned", 4, 8), ("PagesPinned", 6, 1), ("PagesUnpinned", 4, 4)]


STEP = st.tuples(st.sampled_from(["mark", "pin", "unpin"]), st.integers(0, COUNT - 1), st.integers(1, COUNT), st.integers(0, 8))


@given(steps=st.lists(STEP, max_size=25))
def test_time_can_be_drawn_by_folding_the_trace(steps: list[tuple[str, int, int, int]]) -> None:
    """Widgets know no frames: what the rows add up to is what the frames are."""
    trace = Trace()
    frames = Pages(COUNT, trace)
    for what, first, count, state in steps:
        count = min(count, COUNT - first)
        try:
            frames.mark(first, count, state, state + 1) if what == "mark" else getattr(frames, what)(first, count)
        except OverflowError:
            assert what == "unpin"

    states, asids, pins = [0] * COUNT, [0] * COUNT, [0] * COUNT
    for row in trace.rows(PagesMarked, PagesPinned, PagesUnpinned):
        for pfn in range(row["first"], row["first"] + row["count"]):
            if row["kind"] == "PagesMarked":
                states[pfn], asids[pfn] = row["state"], row["asid"]
            else:
                pins[pfn] += 1 if row["kind"] == "PagesPinned" else -1
    assert states == [frames.state(pfn) for pfn in range(COUNT)]
    assert asids == [frames.asid(pfn) for pfn in range(COUNT)]
    assert pins == [frames.pins(pfn) for pfn in range(COUNT)]
    assert frames.counts() == {name: states.count(state) for state, name in enumerate(NAMES)}
    assert frames.pinned() == sum(count > 0 for count in pins)


def test_the_picture_of_a_host_says_only_what_there_is() -> None:
    frames = Pages(COUNT, Trace())
    frames.mark(0, 2, pages.VMSA, 1)
    assert repr(frames) == "<Pages: 62 free, 2 vmsa>"


def test_a_pin_that_nobody_set_cannot_be_taken_and_nothing_changes() -> None:
    trace = Trace()
    frames = Pages(COUNT, trace)
    frames.pin(0, 4)
    with pytest.raises(OverflowError):
        frames.unpin(2, 4)
    assert [frames.pins(pfn) for pfn in range(6)] == [1, 1, 1, 1, 0, 0]
    assert len(trace.rows(PagesUnpinned)) == 0


@pytest.mark.parametrize(("pfn", "count"), [(COUNT, 1), (0, COUNT + 1), (-1, 1), (-1, 2), (COUNT - 1, 2), (0, -1)])
def test_frames_that_the_machine_has_not_are_refused_without_an_event(pfn: int, count: int) -> None:
    trace = Trace()
    frames = Pages(COUNT, trace)
    for call in (lambda: frames.mark(pfn, count, pages.HOST), lambda: frames.pin(pfn, count), lambda: frames.unpin(pfn, count)):
        with pytest.raises(ValueError, match="not inside the machine's 0x40"):
            call()
    with pytest.raises(ValueError, match="not inside"):
        frames.runs(pfn, count)
    assert len(trace) == 0


@pytest.mark.parametrize("pfn", [-1, COUNT])
def test_a_frame_that_is_not_there_has_no_state(pfn: int) -> None:
    frames = Pages(COUNT, Trace())
    for look in (frames.state, frames.asid, frames.pins):
        with pytest.raises(IndexError):
            look(pfn)


@pytest.mark.parametrize("state", [-1, 9, 255])
def test_a_state_that_is_none_is_refused(state: int) -> None:
    frames = Pages(COUNT, Trace())
    with pytest.raises(ValueError, match="no page state"):
        frames.mark(0, 1, state)
    assert frames.counts()["free"] == COUNT


# -------------------------------------------------------- the event that changed it


def test_each_frame_knows_the_event_that_changed_it_last() -> None:
    trace = Trace()
    frames = Pages(COUNT, trace)
    frames.mark(0, 8, pages.HOST)
    frames.mark(4, 8, pages.PRIVATE, 3)
    frames.pin(6, 1)
    assert [frames.event(pfn) for pfn in (0, 3, 4, 6, 11, 12)] == [0, 0, 1, 2, 1, None]
    found = [frames.why(pfn) for pfn in (3, 5, 6)]
    assert [row and (row["kind"], row["seq"]) for row in found] == [("PagesMarked", 0), ("PagesMarked", 1), ("PagesPinned", 2)]


def test_an_event_that_a_ring_forgot_is_none_and_so_is_one_that_never_was() -> None:
    trace = Trace(ring=2)
    frames = Pages(COUNT, trace)
    for pfn in range(20):
        frames.mark(pfn, 1, pages.HOST)
    assert frames.event(0) == 0 and frames.why(0) is None
    assert frames.why(19) is not None
    assert frames.why(40) is None and frames.event(40) is None


def test_with_the_trace_off_states_are_kept_and_events_are_not() -> None:
    frames = Pages(COUNT, Trace(on=False))
    frames.mark(0, 4, pages.PRIVATE, 3)
    frames.pin(0, 4)
    assert (frames.state(2), frames.pins(2), frames.event(2)) == (pages.PRIVATE, 1, None)


def test_what_somebody_overwrote_is_stale_if_a_guest_had_written_it_and_keeps_its_owner() -> None:
    frames = Pages(COUNT, Trace())
    for pfn, state in enumerate(range(len(NAMES))):
        frames.mark(pfn, 1, state, 5)
    frames.overwritten(0, len(NAMES) * 4096)
    wanted = [pages.STALE if state in (pages.PRIVATE, pages.VMSA) else state for state in range(len(NAMES))]
    assert [frames.state(pfn) for pfn in range(len(NAMES))] == wanted
    assert {frames.asid(pfn) for pfn in range(len(NAMES))} == {5}


def test_a_range_that_is_refused_changes_no_frames_event() -> None:
    frames = Pages(COUNT, Trace())
    with pytest.raises(ValueError, match="not inside"):
        frames.mark(COUNT - 1, 2, pages.HOST)
    with pytest.raises(OverflowError):
        frames.unpin(0, 4)
    assert [frames.event(pfn) for pfn in (0, 3, COUNT - 1)] == [None] * 3


def test_more_ranges_than_are_noted_are_counted_all_the_same() -> None:
    frames = Pages(4 * HELD, Trace())
    for first in range(2 * HELD):
        frames.pin(first, 3)
        frames.pin(first, 3)
    assert [frames.pins(pfn) for pfn in (0, 1, 2, HELD, 2 * HELD + 1, 2 * HELD + 2)] == [2, 4, 6, 6, 2, 0]

    for first in range(2 * HELD):
        frames.unpin(first, 3)
        frames.unpin(first, 3)
    assert frames.pinned() == 0
    with pytest.raises(OverflowError):
        frames.unpin(0, 3)


def test_a_frame_that_is_pinned_65535_times_is_not_pinned_once_more_by_another_range() -> None:
    frames = Pages(COUNT, Trace(on=False))
    for _ in range(65_535):
        frames.pin(3, 1)
    with pytest.raises(OverflowError):
        frames.pin(2, 3)
    assert [frames.pins(pfn) for pfn in (2, 3, 4)] == [0, 65_535, 0]
    frames.unpin(3)
    frames.pin(2, 3)
    assert [frames.pins(pfn) for pfn in (2, 3, 4)] == [1, 65_535, 1]


def test_the_event_that_changed_a_frame_is_its_own_also_where_ranges_overlap() -> None:
    frames = Pages(COUNT, Trace())
    frames.mark(0, 8, pages.HOST)
    frames.pin(2, 2)
    frames.unpin(2, 2)
    frames.mark(3, 4, pages.SHARED)
    assert [frames.event(pfn) for pfn in range(9)] == [0, 0, 2, 3, 3, 3, 3, 0, None]
