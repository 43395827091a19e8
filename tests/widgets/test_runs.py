"""Runs, their bytes, and the law that no page is lost when a map shrinks."""

from __future__ import annotations

import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets import runs
from sevlab_widgets.palette import PAGES

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)), max_size=12)


def columns_of(states: list[int], seed: int = 0) -> runs.Columns:
    """Columns with these states, and owners and pins that follow from them."""
    state = np.array(states, np.uint8)
    return state, (state.astype(np.uint16) * 7 + seed) % 5, state.astype(np.uint16) // 3


def test_one_changed_page_is_thirteen_bytes_and_so_are_fifty_thousand_alike():
    columns = runs.blank(1 << 20)
    columns[0][70_000:120_000] = 3

    assert len(runs.pack(runs.runs(columns, [(5, 1)]))) == 13
    assert len(runs.pack(runs.runs(columns, [(70_000, 50_000)]))) == 13


def test_a_run_ends_where_any_of_the_three_columns_changes():
    columns = runs.blank(9)
    columns[0][2:] = 1
    columns[1][4:] = 6
    columns[2][7:] = 1

    first, length, owner, pins, state = (column.tolist() for column in runs.runs(columns, [(0, 9)]))

    assert (first, length) == ([0, 2, 4, 7], [2, 2, 3, 2])
    assert (state, owner, pins) == ([0, 1, 1, 1], [0, 0, 6, 6], [0, 0, 0, 1])


def test_no_range_and_an_empty_range_are_no_runs():
    assert runs.pack(runs.runs(runs.blank(4), [])) == b""
    assert runs.pack(runs.runs(runs.blank(4), [(2, 0)])) == b""


@given(RANGES)
def test_merged_ranges_name_the_same_pages_once_and_in_order(ranges):
    merged = runs.merge(ranges)

    pages = [page for first, count in merged for page in range(first, first + count)]
    assert pages == sorted({page for first, count in ranges for page in range(first, first + count)})
    assert all(a + n < b for (a, n), (b, _) in pairwise(merged))


@given(st.lists(st.integers(0, 8), min_size=80, max_size=80), RANGES)
def test_what_travels_rebuilds_exactly_the_pages_that_changed(states, ranges):
    columns, merged = columns_of(states), runs.merge(ranges)

    other = runs.blank(80)
    for first, length, owner, pins, state in zip(
        *(column.tolist() for column in runs.unpack(runs.pack(runs.runs(columns, merged)))), strict=True
    ):
        for column, value in zip(other, (state, owner, pins), strict=True):
            assert not column[first : first + length].any()  # no page comes twice
            column[first : first + length] = value

    touched = np.zeros(80, bool)
    for first, count in merged:
        touched[first : first + count] = True
    for mine, theirs in zip(columns, other, strict=True):
        assert (theirs == np.where(touched, mine, 0)).all()


@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.lists(st.integers(0, 3), min_size=40, max_size=40))
def test_differences_cover_what_differs_and_nothing_else(one, other):
    a, b = columns_of(one), columns_of(other)

    found = {page for first, count in runs.differences(a, b) for page in range(first, first + count)}

    assert found == {page for page in range(40) if any(x[page] != y[page] for x, y in zip(a, b, strict=True))}


@given(st.binary(max_size=2000))
def test_squeezed_bytes_are_never_longer_and_come_back(data):
    small, z = runs.squeeze(data)

    assert len(small) <= len(data)
    assert (zlib.decompress(small) if z else small) == data


# ------------------------------------------------------------- severity


def ranks_of(severities: list[int]) -> list[int]:
    """What PageMap makes of the severities: a number of its own for each code, ties in the order of the codes."""
    order = sorted(range(len(severities)), key=lambda code: (severities[code], code))
    return [order.index(code) for code in range(len(severities))]


def naive(states: list[int], ranks: list[int], cells: int) -> list[int]:
    """The law in its plainest form: of each group the code with the highest rank."""
    return [max(states[at : at + cells], key=lambda code: ranks[code]) for at in range(0, len(states), cells)]


@given(st.lists(st.integers(0, 8), min_size=1, max_size=200), st.integers(1, 70), st.permutations(list(range(9))))
def test_a_cell_shows_the_most_severe_of_its_pages(states, cells, severities):
    ranks = ranks_of(list(severities))

    assert runs.reduce(np.array(states, np.uint8), ranks, cells).tolist() == naive(states, ranks, cells)


@given(st.integers(0, (1 << 16) - 1), st.integers(0, 12))
def test_one_stale_page_among_65536_decides_its_cell_at_every_zoom(page, zoom):
    ranks = ranks_of([kind.severity for kind in PAGES])
    states = np.full(1 << 16, 3, np.uint8)
    states[page] = 8

    cells = runs.reduce(states, ranks, 1 << zoom)

    assert np.flatnonzero(cells == 8).tolist() == [page >> zoom]


def test_a_short_last_cell_is_judged_by_the_pages_it_has():
    assert runs.reduce(np.array([0, 0, 0, 0, 3], np.uint8), ranks_of([kind.severity for kind in PAGES]), 4).tolist() == [0, 3]


@pytest.mark.parametrize("cells", [1, 256])
def test_the_least_severe_state_wins_only_where_nothing_else_is(cells):
    ranks = ranks_of([5, 0, 3])

    assert runs.reduce(np.full(cells, 1, np.uint8), ranks, cells).tolist() == [1]
