"""Colours that stay apart, letters that are never missing."""

from __future__ import annotations

import pytest
from sevlab_widgets.palette import PAGES, PARTIES, contrast, ink, rgb

from sevlab.hw import pages


def test_page_kinds_stand_in_the_order_of_the_machine_s_codes():
    words = {"vmsa": "save area", "ghcb": "GHCB", "moved": "moved away", "stale": "no longer reads what it wrote"}

    assert [kind.name for kind in PAGES] == [words.get(name, name) for name in pages.NAMES]


@pytest.mark.parametrize("things", [PAGES, tuple(PARTIES.values())], ids=["pages", "parties"])
def test_each_has_a_letter_and_a_colour_of_its_own(things):
    assert len({one.letter for one in things}) == len({one.colour for one in things}) == len(things)
    assert all(len(one.letter) == 1 for one in things)


def test_severities_are_distinct_so_that_a_cell_has_one_answer():
    assert len({kind.severity for kind in PAGES}) == len(PAGES)


@pytest.mark.parametrize("one", [*PAGES, *PARTIES.values()], ids=lambda one: one.name)
def test_a_letter_can_be_read_on_its_colour(one):
    assert contrast(ink(one.colour), one.colour) >= 4.5


def test_contrast_is_the_one_that_the_guidelines_define():
    """WCAG 2.1's own example: #777 on white is 4.48, just short of 4.5."""
    assert round(contrast("#777777", "#ffffff"), 2) == 4.48
    assert contrast("#000000", "#ffffff") == pytest.approx(21)


@pytest.mark.parametrize("text", ["red", "#fff", "0072b2", "#0072b2ff", ""])
def test_what_is_no_colour_is_refused(text):
    with pytest.raises(ValueError):
        rgb(text)
