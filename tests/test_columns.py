"""Columns: a number for every frame, whole runs at a time, and the rows of a trace without a loop."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.columns import Column, columns
from sevlab.trace import Event, Trace, name, u8, u16, u64

MIB = 1 << 20
SMALL = 40
FILLS = st.lists(st.tuples(st.integers(0, SMALL - 1), st.integers(0, SMALL), st.integers(0, 5)), max_size=12)


def resident() -> int:
    """Bytes of this process that lie in real memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def filled(width: int, fills: list[tuple[int, int, int]]) -> tuple[Column, list[int]]:
    column, plain = Column(SMALL, width), [0] * SMALL
    for first, count, value in fills:
        count = min(count, SMALL - first)
        column.fill(first, count, value)
        plain[first : first + count] = [value] * count
    return column, plain


@pytest.mark.parametrize("width", [1, 2])
@given(fills=FILLS)
def test_a_column_is_a_list_of_numbers(width: int, fills: list[tuple[int, int, int]]) -> None:
    column, plain = filled(width, fills)
    assert [column[i] for i in range(SMALL)] == plain
    assert column.counts() == {value: plain.count(value) for value in set(plain)}


@given(a=FILLS, b=FILLS, first=st.integers(0, SMALL), count=st.integers(0, SMALL))
def test_runs_cover_a_range_once_in_order_and_each_is_uniform_and_as_long_as_can_be(
    a: list[tuple[int, int, int]], b: list[tuple[int, int, int]], first: int, count: int
) -> None:
    count = min(count, SMALL - first)
    (one, plain_one), (two, plain_two) = filled(1, a), filled(2, b)
    runs = Column.runs(first, count, one, two)
    covered = [(start + i, x, y) for start, length, x, y in runs for i in range(length)]
    assert covered == [(i, plain_one[i], plain_two[i]) for i in range(first, first + count)]
    assert all(before[2:] != after[2:] for before, after in pairwise(runs))


@given(changes=st.lists(st.tuples(st.integers(0, SMALL - 1), st.integers(0, SMALL), st.sampled_from([1, -1])), max_size=30))
def test_counts_go_up_and_down_by_ranges_and_never_below_nothing(changes: list[tuple[int, int, int]]) -> None:
    column, plain = Column(SMALL, 2), [0] * SMALL
    for first, count, change in changes:
        count = min(count, SMALL - first)
        if change < 0 and 0 in plain[first : first + count]:
            with pytest.raises(OverflowError):
                column.add(first, count, change)
        else:
            column.add(first, count, change)
            plain[first : first + count] = [value + change for value in plain[first : first + count]]
        assert [column[i] for i in range(SMALL)] == plain


def test_a_count_at_its_limit_goes_no_further_and_the_whole_range_stays_as_it_was() -> None:
    column = Column(4, 1)
    column.fill(2, 1, 255)
    with pytest.raises(OverflowError, match=r"0\.\.255"):
        column.add(0, 4, 1)
    assert [column[i] for i in range(4)] == [0, 0, 255, 0]


@pytest.mark.parametrize("index", [-1, 4, 1 << 40])
def test_a_number_that_is_not_there_is_refused(index: int) -> None:
    with pytest.raises(IndexError):
        Column(4, 1)[index]


def test_an_empty_column_has_no_runs_and_no_counts() -> None:
    column = Column(0, 2)
    assert Column.runs(0, 0, column) == []
    assert column.counts() == {}


def test_a_column_of_sixteen_million_costs_what_was_touched() -> None:
    before = resident()
    column = Column(16 << 20, 2)
    column.fill(5, 1000, 3)
    assert column.counts() == {0: (16 << 20) - 1000, 3: 1000}
    assert Column.runs(0, 16 << 20, column) == [(0, 5, 0), (5, 1000, 3), (1005, (16 << 20) - 1005, 0)]
    assert resident() - before < 8 * MIB


# ------------------------------------------------------------- the trace as columns


class Sample(Event, lane="host"):
    """A row for these tests."""

    hpa: u64
    what: name
    asid: u16
    state: u8


def test_packed_trace_rows_become_columns_without_a_loop() -> None:
    trace = Trace()
    for i in range(100):
        trace.now = 10 * i
        trace.emit(Sample, i << 12, f"name {i % 3}", i % 7, i % 5)
    found = columns(*trace.packed(Sample))
    assert found["hpa"].tolist() == [i << 12 for i in range(100)]
    assert found["t"].tolist() == [10 * i for i in range(100)]
    assert found["asid"].tolist() == [i % 7 for i in range(100)]
    assert [trace.text(number) for number in found["what"][:4]] == ["name 0", "name 1", "name 2", "name 0"]


def test_rows_that_are_cut_short_are_refused() -> None:
    trace = Trace()
    trace.emit(Sample, 1, "x", 2, 3)
    packed, formats = trace.packed(Sample)
    with pytest.raises(ValueError):
        columns(packed[:-1], formats)


def test_no_rows_are_columns_of_nothing() -> None:
    assert {key: len(column) for key, column in columns(*Trace().packed(Sample)).items()}["hpa"] == 0
