"""Words: which thing a sentence names."""

from __future__ import annotations

import pytest
from sevlab_widgets import AsidTimeline, Lanes, Lens, PageMap, Topology
from sevlab_widgets.words import facts_of, named, notes_of

KEYS = ["guest/RUNNING", "guest/RUNNING/SEND_START", "wrap_tk", "slot 6", "slot 60"]


@pytest.mark.parametrize(
    ("words", "key"),
    [
        ("guest/RUNNING", "guest/RUNNING"), ("the state running.", "guest/RUNNING"), ("“wrap_tk” in the list", "wrap_tk"),
        ("slot 60, waiting", "slot 60"), ("SEND_START of a RUNNING guest", "guest/RUNNING/SEND_START"),
    ],
)  # fmt: skip
def test_the_key_is_the_longest_that_stands_in_the_words(words, key):
    assert named(words, KEYS) == key


@pytest.mark.parametrize("words", ["", "slots 6", "a wrap_tk_2", "guest", "slot"])
def test_part_of_a_word_names_nothing(words):
    assert named(words, KEYS) is None and named(words, KEYS, "itself") == "itself"


def test_of_two_things_of_one_name_it_is_the_first():
    assert named("ACTIVATE", ["slot/clean/ACTIVATE", "guest/inactive/ACTIVATE"]) == "slot/clean/ACTIVATE"


def test_of_a_host_that_says_nothing_there_are_no_facts():
    assert facts_of(object()) == ()


PICTURES = {
    "a map": PageMap.of,
    "a timeline": AsidTimeline.of,
    "a lens": lambda host, **more: Lens(host=host, **more),
    "a topology": lambda host, **more: Topology(host=host, **more),
    "a trace": lambda host, **more: Lanes.of(host, lambda rows: [], **more),
}


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_taken_along_says_that_no_such_machine_was_and_that_it_is_the_past(machine, name):
    host = machine()
    for page in range(4):
        host.mark(page, 1, 1)
    picture = PICTURES[name](host, imaginary="an engine without a tweak.")
    assert "This machine never existed: an engine without a tweak." in picture.svg() and "read only" not in picture.svg()

    picture.entry = 2
    assert "Entry 2 of 4, read only" in picture.svg()
    assert "never existed" not in PICTURES[name](host).svg()


def test_of_a_machine_that_was_and_is_now_nothing_need_be_said():
    assert notes_of(PageMap([1, 2, 3])) == []
