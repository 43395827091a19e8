"""Folding: regions behind one another, and a PageMap of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets import PageMap
from sevlab_widgets.folding import Folding

SLOTS = [(0, 8, "slot 0"), (0xFFFF0, 4, "slot 1")]
ROWS = [(0, 8, 1, 0, 0), (0xFFFEE, 4, 3, 6, 1)]  # the last one begins before its slot


def look(regions=SLOTS, rows=ROWS):
    return lambda host: (0x100000, rows, regions)


def test_what_lies_between_two_regions_is_not_on_the_map():
    pages = PageMap(look=look(), folded=True)

    assert pages.count == 12 and pages.regions == [(0, 8, "slot 0"), (8, 4, "slot 1")]
    assert pages.counts() == {"free": 2, "host": 8, "private": 2, "pinned": 2}
    assert pages.page(9) == "Page 0xffff1 at 0xffff1000: P private, owner 6, pinned, slot 1."
    assert [row[:4] for row in pages.table()[1]][1] == ["0xffff0", 2, "0xffff0000", "P"]


def test_unfolded_every_page_up_to_the_last_is_there():
    assert PageMap(look=look()).count == 0x100000


def test_enter_tells_the_number_of_the_page_not_its_place(sent):
    entered = []
    pages = PageMap(look=look(), folded=True, on_enter=entered.append)
    messages = sent(pages)

    pages.got_enter("view-1", 9)
    assert entered == [0xFFFF1]
    assert messages[-1][0]["kind"] == "full" and messages[-1][0]["places"] == [(0, 0), (8, 0xFFFF0)]


def test_a_region_that_goes_takes_its_pages_along(machine, sent):
    host, found = machine(), [SLOTS, SLOTS[:1]]
    pages = PageMap(host=host, look=lambda at: (0x100000, ROWS, found[0]), folded=True)
    sent(pages)
    found.pop(0)
    host.entry(("SlotSet", {}))

    pages.changes()
    assert pages.count == 8 and pages.page(7).startswith("Page 0x7 at 0x7000:")


def test_a_memory_without_regions_has_nothing_to_draw():
    pages = PageMap(look=look([]), folded=True)

    assert pages.count == 1 and pages.counts() == {"free": 1, "pinned": 0}


def test_a_run_in_no_region_is_left_out():
    assert Folding(SLOTS).inside([(9, 100, 3, 0, 0)]) == []


@pytest.mark.parametrize("place", [-1])
def test_before_the_first_place_there_is_no_page(place):
    with pytest.raises(StopIteration):
        Folding(SLOTS).number(place)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 20)), min_size=1, max_size=6))
def test_every_place_has_a_page_of_its_own_and_runs_find_it(gaps):
    regions, at = [], 0
    for gap, pages in gaps:
        regions.append((at + gap, pages, ""))
        at += gap + pages
    folding = Folding(regions)

    numbers = [folding.number(place) for place in range(folding.count)]
    assert numbers == [page for first, pages, _ in regions for page in range(first, first + pages)]
    assert [folding.inside([(page, 1, 3, 0, 0)]) for page in numbers] == [[(place, 1, 3, 0, 0)] for place in range(len(numbers))]
