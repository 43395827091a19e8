"""Words: which thing a sentence names."""

from __future__ import annotations

import pytest
from sevlab_widgets.words import facts_of, named

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
