"""The trace: rows in one order, columns, a ring, and watchers that cannot hurt the machine."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.trace import BLOB_LIMIT, HEADER, Event, Trace, blob, name, u8, u16, u32, u64


class Switched(Event, lane="host"):
    """Somebody took over."""

    who: name
    asid: u16


class Moved(Event, lane="engine"):
    """Bytes moved."""

    hpa: u64
    size: u32
    data: blob


class Counted(Event, lane="psp"):
    """Numbers alone."""

    small: u8
    large: u64


# ------------------------------------------------------------------------- story


def test_rows_of_all_kinds_come_in_the_order_in_which_they_were_emitted() -> None:
    trace = Trace()
    trace.emit(Switched, "qemu", 3)
    trace.emit(Counted, 1, 2)
    trace.emit(Switched, "sshd", 0)

    assert [(row["seq"], row["kind"]) for row in trace] == [(0, "Switched"), (1, "Counted"), (2, "Switched")]
    assert trace.rows(Switched)[1]["who"] == "sshd"
    assert len(trace) == 3


def test_a_row_says_when_and_where_it_happened_and_what_caused_it() -> None:
    trace = Trace()
    trace.now, trace.entry, trace.host = 1_500, 7, 1
    trace.emit(Counted, 4, 1 << 40)

    assert trace.rows() == [
        {"seq": 0, "t": 1500, "n": 7, "host": 1, "lane": "psp", "kind": "Counted", "small": 4, "large": 1 << 40}
    ]


def test_texts_and_blobs_come_back_as_they_were_and_equal_ones_are_kept_once() -> None:
    trace = Trace()
    for _ in range(100):
        trace.emit(Moved, 0x1000, 16, b"sixteen bytes ok")
        trace.emit(Switched, "qemu", 1)

    assert trace.rows(Moved)[99]["data"] == b"sixteen bytes ok"
    packed, _ = trace.packed(Moved)
    number = int.from_bytes(packed[-4:], "little")
    assert trace.text(number) == b"sixteen bytes ok"
    with pytest.raises(IndexError):
        trace.text(2)


def test_a_text_and_a_blob_of_the_same_bytes_stay_what_they_are() -> None:
    trace = Trace()
    trace.emit(Switched, "abc", 1)
    trace.emit(Moved, 0, 3, memoryview(b"abc"))

    assert trace.rows(Switched)[0]["who"] == "abc" and trace.rows(Moved)[0]["data"] == b"abc"


def test_a_long_blob_is_cut_and_the_size_beside_it_is_the_true_one() -> None:
    trace = Trace()
    trace.emit(Moved, 0, 1 << 20, bytes(1 << 20))

    assert len(trace.rows()[0]["data"]) == BLOB_LIMIT and trace.rows()[0]["size"] == 1 << 20


def test_packed_rows_are_columns_that_a_plot_reads_as_they_are() -> None:
    trace = Trace()
    for i in range(5):
        trace.now = 10 * i
        trace.emit(Counted, i, 1 << i)
    packed, columns = trace.packed(Counted)

    assert columns == [("seq", "<u4"), ("t", "<u8"), ("n", "<u4"), ("host", "u1"), ("small", "u1"), ("large", "<u8")]
    sizes = [int(form[-1]) for _, form in columns]
    assert len(packed) == 5 * sum(sizes)
    large = range(sum(sizes[:-1]), len(packed), sum(sizes))
    assert [int.from_bytes(packed[at : at + 8], "little") for at in large] == [1, 2, 4, 8, 16]


def test_since_gives_the_newer_rows_only() -> None:
    trace = Trace()
    for i in range(10):
        trace.emit(Counted if i % 2 else Switched, *((i, i) if i % 2 else ("x", i)))

    assert [row["seq"] for row in trace.rows(since=6)] == [6, 7, 8, 9]
    assert [row["seq"] for row in trace.rows(Counted, since=6)] == [7, 9]
    assert trace.rows(since=10) == []


# ------------------------------------------------------------------- laws, limits


@given(st.lists(st.sampled_from([Switched, Moved, Counted]), max_size=60), st.integers(0, 70))
def test_the_order_is_common_to_all_kinds_and_nothing_is_lost(kinds: list[type[Event]], since: int) -> None:
    samples: dict[type[Event], tuple[Any, ...]] = {Switched: ("who", 1), Moved: (1, 2, b"3"), Counted: (4, 5)}
    trace = Trace()
    for kind in kinds:
        trace.emit(kind, *samples[kind])

    assert [row["kind"] for row in trace.rows(since=since)] == [kind.__name__ for kind in kinds[since:]]


@given(st.integers(1, 20), st.integers(0, 200))
def test_a_ring_keeps_at_least_the_newest_and_at_most_twice_as_many(ring: int, count: int) -> None:
    trace = Trace(ring=ring)
    for i in range(count):
        trace.emit(Counted, 0, i)
    kept = [row["large"] for row in trace.rows()]

    assert kept == list(range(count - len(kept), count))
    assert min(ring, count) <= len(kept) <= 2 * ring


def test_a_ring_forgets_by_kind_so_a_chatty_one_drowns_no_other() -> None:
    trace = Trace(ring=4)
    trace.emit(Switched, "once", 1)
    for i in range(1000):
        trace.emit(Counted, 0, i)

    assert trace.rows(Switched)[0]["who"] == "once"


@pytest.mark.parametrize("event", [Switched, Counted])
def test_a_typical_event_takes_at_most_thirty_bytes(event: type[Event]) -> None:
    assert event.PACK.size <= 30
    assert HEADER.size == 17


def test_switched_off_it_records_nothing() -> None:
    trace = Trace(on=False)
    trace.emit(Counted, 1, 2)

    assert trace.rows() == [] and len(trace) == 0 and trace.seq == 0


# ---------------------------------------------------------------------- watchers


def test_a_watcher_is_given_what_is_new_when_the_gate_has_been_left() -> None:
    trace = Trace()
    trace.emit(Counted, 0, 0)
    told: list[list[int]] = []
    end = trace.watch(lambda rows: told.append([row["seq"] for row in rows]))

    trace.emit(Counted, 1, 1)
    trace.emit(Counted, 2, 2)
    assert told == []
    trace.tell()
    trace.tell()
    assert told == [[1, 2]], "what was there before it came is not new"

    end()
    end()
    trace.emit(Counted, 3, 3)
    trace.tell()
    assert told == [[1, 2]]


def test_a_watcher_that_raises_is_dropped_with_a_line_in_the_log_and_the_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace()
    told: list[int] = []
    calls: list[int] = []

    def broken(rows: list[dict[str, Any]]) -> None:
        calls.append(len(rows))
        raise RuntimeError("no such widget")

    trace.watch(broken)
    trace.watch(lambda rows: told.append(len(rows)))
    with caplog.at_level(logging.ERROR, logger="sevlab.trace"):
        for i in range(2):
            trace.emit(Counted, 0, i)
            trace.tell()

    assert (calls, told) == ([1], [1, 1])
    assert [record.getMessage() for record in caplog.records] == ["a trace watcher raised and was dropped"]


def test_a_watcher_that_ends_itself_and_then_raises_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    trace = Trace()

    def gone(rows: list[dict[str, Any]]) -> None:
        end()
        raise RuntimeError("and out")

    end = trace.watch(gone)
    trace.emit(Counted, 0, 0)
    trace.tell()

    trace.emit(Counted, 0, 1)
    trace.tell()
    assert len(caplog.records) == 1


def test_a_watcher_may_cause_new_rows_and_is_told_of_them_next_time() -> None:
    trace = Trace()
    told: list[list[int]] = []

    def busy(rows: list[dict[str, Any]]) -> None:
        told.append([row["seq"] for row in rows])
        if len(told) == 1:
            trace.emit(Counted, 9, 9)

    trace.watch(busy)
    trace.emit(Counted, 0, 0)
    trace.tell()
    trace.tell()

    assert told == [[0], [1]]


# ---------------------------------------------------------------------- refusals


def test_an_annotation_that_is_no_column_is_refused_when_the_event_is_declared() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.a: <class 'float'> is no column type"):
        type("Wrong", (Event,), {"__annotations__": {"a": float}, "__module__": __name__}, lane="psp")


def test_an_event_without_a_lane_is_refused() -> None:
    with pytest.raises(TypeError):
        type("Lost", (Event,), {"__annotations__": {}, "__module__": __name__})


@pytest.mark.parametrize("values", [(1,), (1, 2, 3), (256, 0), ("x", 0)])
def test_values_that_are_not_the_events_columns_are_refused_and_leave_no_row(values: tuple[Any, ...]) -> None:
    trace = Trace()
    with pytest.raises(Exception, match=r"pack|argument|format"):
        trace.emit(Counted, *values)

    assert len(trace) == 0 and trace.seq == 0


# ------------------------------------------------------------------- long runs


def test_a_ring_forgets_the_texts_that_only_forgotten_rows_named() -> None:
    trace = Trace(ring=100)
    trace.emit(Switched, "kept for ever", 1)
    for number in range(20_000):
        trace.emit(Moved, number, 4, number.to_bytes(4, "little"))
    assert len(trace._numbers) < 5_000
    assert trace.rows(Switched)[0]["who"] == "kept for ever"
    assert all(row["data"] == row["hpa"].to_bytes(4, "little") for row in trace.rows(Moved))


def test_without_a_ring_every_text_is_kept() -> None:
    trace = Trace()
    for number in range(5_000):
        trace.emit(Switched, str(number), 0)
    assert [row["who"] for row in trace.rows()] == [str(number) for number in range(5_000)]


def test_one_row_is_found_by_its_number_and_another_kinds_number_finds_none() -> None:
    trace = Trace()
    trace.emit(Counted, 1, 10)
    trace.emit(Switched, "qemu", 3)
    trace.emit(Counted, 2, 20)
    row = trace.row(Counted, 2)
    assert row is not None and row["large"] == 20
    assert trace.row(Counted, 1) is None
    assert trace.row(Counted, 9) is None and trace.row(Moved, 0) is None


def test_the_rows_of_an_entry_that_is_undone_are_gone_and_their_numbers_free() -> None:
    trace = Trace()
    for entry in (1, 1, 2, 3):
        trace.entry = entry
        trace.emit(Counted, entry, entry)
    before = trace.rows()[:3]
    trace.forget(3)

    assert trace.rows() == before and trace.seq == 3
    trace.forget(7)
    assert trace.rows() == before
    trace.forget(1)
    assert len(trace) == 0 and trace.seq == 0
