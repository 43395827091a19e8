"""KeyTree: what falls with a key, whose eyes, and the walk along the signatures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.keytree import HOLDS, USES, Bond, Key, KeyTree

COLUMNS = ("maker", "owner")
KEYS = [
    Key("root", "maker"),
    Key("chip", "maker", who={"owner": USES}),
    Key("session", "owner", "slot 3", {"owner": HOLDS}, "made for one guest"),
]
BONDS = [
    Bond("root", "root", "signs", True),
    Bond("root", "chip", "signs", False, "another key signed it"),
    Bond("chip", "session", "wraps"),
]


def tree(**keywords):
    return KeyTree(COLUMNS, KEYS, BONDS, parties=("owner", "host"), **keywords)


def test_what_falls_with_a_key_is_all_that_follows_from_it():
    assert tree().leak("root") == {"chip", "session"} and tree().leak("session") == set()


def test_a_key_in_a_sentence_through_somebodys_eyes():
    seen = tree()
    assert seen.say(KEYS[2]) == "session (slot 3), owner: made for one guest. Nothing falls with it."
    seen.choose("seen", "owner")
    assert "; the owner holds it." in seen.say(KEYS[2])
    seen.choose("seen", "host")
    assert "the host has never met it" in seen.say(KEYS[0])


def test_the_first_signature_that_does_not_fit_is_the_status():
    assert tree().says() == "root signs chip: it does not fit: another key signed it."


def test_a_signature_nobody_checked_says_so():
    assert tree().say_bond(Bond("root", "chip", "signs")) == "root signs chip: not checked by this verifier."


def test_verify_walks_one_signature_at_a_time():
    walked = tree()
    walked.got_press("view-1", "verify")
    assert walked.says() == "1 of 2: root signs itself: it fits." and walked.selected == "root → root"
    assert walked.say_bond(BONDS[1]) == "root signs chip: not yet verified."
    walked.got_press("view-1", "verify")
    assert walked.says().startswith("2 of 2: root signs chip: it does not fit")
    walked.got_press("view-1", "all")
    assert walked.step is None


def test_no_platform_is_the_shapes_without_values():
    empty = KeyTree(COLUMNS)

    assert empty.says() == "No platform yet." and "maker" in str(empty.picture(800, "M"))


def test_what_is_no_column_and_no_bond_is_refused():
    with pytest.raises(ValueError, match="moon is in no column"):
        KeyTree(COLUMNS, [Key("moon", "sky")])
    with pytest.raises(ValueError, match="none eats"):
        KeyTree(COLUMNS, KEYS, [Bond("root", "chip", "eats")])


@pytest.mark.parametrize(("width", "size"), [(300, "S"), (800, "M"), (1600, "L")])
@pytest.mark.parametrize("seen", ["everybody", "owner", "host"])
def test_every_size_is_a_picture(width, size, seen):
    drawn = tree(path=("root", "chip", "session"), beside=(KEYS, [BONDS[0]]))
    drawn.choose("seen", seen)
    drawn.got_select("view-1", "root")
    ET.fromstring(str(drawn.picture(width, size)))
