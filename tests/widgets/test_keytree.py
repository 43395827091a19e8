"""KeyTree: what falls with a key, whose eyes, and the walk along the signatures."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.keytree import HOLDS, USES, Bond, Key, KeyTree
from sevlab_widgets.picture import width_of

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
    assert seen.say(KEYS[2]) == "session (slot 3), owner: made for one guest. No other key falls with it."
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


# ------------------------------------------------------------- two trees, and what was not checked


def test_where_one_tree_has_room_the_other_is_a_choice_and_says_its_own():
    forged = [Bond("root", "chip", "signs", True), BONDS[2]]
    made = tree(beside=(KEYS, forged))
    both = "real: 1 of 2 signatures fit. forged: 1 of 1 signatures fit."
    assert made.says() == f"{both} root signs chip: it does not fit: another key signed it."

    made.choose("tree", "forged")
    assert made.says() == both and made.signatures == forged[:1]
    assert str(made.picture(800, "M")).count("data-key") == 5


def test_without_a_second_tree_there_is_nothing_to_choose():
    with pytest.raises(StopIteration):
        tree().got_choose("", "tree", "forged")


def test_a_walk_along_one_tree_does_not_go_on_in_the_other():
    made = tree(beside=(KEYS, BONDS))
    made.press("verify", "")
    made.choose("tree", "forged")

    assert made.step is None


def test_a_cross_carries_its_reason_and_what_nobody_checked_is_no_failure():
    assert "root → chip: another key signed it" in texts(tree().picture(900, "M"))
    unchecked = KeyTree(COLUMNS, KEYS, [bond._replace(ok=None) for bond in BONDS])
    assert unchecked.says() == "3 keys, 2 signatures, none of them checked."
    assert "does not fit" not in unchecked.describe()


def texts(picture):
    return [text.text for text in ET.fromstring(str(picture)).iter("{http://www.w3.org/2000/svg}text")]


def test_a_half_pill_is_a_path_that_a_browser_can_read():
    made = tree()
    made.choose("seen", "owner")
    paths = [path.get("d") for path in ET.fromstring(str(made.picture(800, "M"))).iter("{http://www.w3.org/2000/svg}path")]
    [half] = [path for path in paths if "A" in path]

    radii, flags = half.partition("A")[2].split()[:2], half.partition("A")[2].split()[2:5]
    assert flags == ["0", "0", "0"] and radii[0] == radii[1]


def test_of_a_single_key_the_picture_says_who_has_what_of_it():
    made = KeyTree(("memory",), [Key("VEK", "memory", who={"PSP": HOLDS, "guest": USES})], parties=("PSP", "guest", "owner"))
    found = texts(made.picture(800, "M"))

    assert [found[found.index(f"{has}:") + 1] for has in (HOLDS, USES, "has never met it")] == ["PSP", "guest", "owner"]
    assert "knows that it exists:" not in found and "PSP" not in texts(tree().picture(800, "M"))


def test_a_key_alone_has_nothing_that_could_fall_with_it():
    assert KeyTree(("memory",), [Key("VEK", "memory")]).says() == "VEK, memory."


def test_a_walk_comes_to_the_same_signature_of_both_trees():
    made = tree(beside=(KEYS, [bond._replace(ok=False, reason="a stranger's") for bond in BONDS]))
    made.press("verify", "")

    assert all(made.verified(bonds[0]) and not made.verified(bonds[1]) for bonds in (made.bonds, made.other[1]))
    assert "root → chip: another key signed it" not in texts(made.picture(1600, "L"))


@pytest.mark.parametrize("width", [1050, 1600])
def test_reasons_stand_below_their_own_tree_and_not_over_one_another(width):
    long = "the one was not signed by the other: it is another maker's, or the other is not this platform's"
    bad = [bond._replace(ok=False, reason=long) for bond in BONDS if bond.how == "signs"]
    found = ET.fromstring(str(tree(beside=(KEYS, bad)).picture(width, "L"))).iter("{http://www.w3.org/2000/svg}text")
    texts = [(float(text.get("x")), float(text.get("y")), text.text) for text in found]
    first = min(y for _, y, words in texts if words.startswith("root →"))
    right = [(y, words) for x, y, words in texts if y >= first and x > width / 2]

    assert len(right) >= 2 and len({y for y, words in right if len(words) > 1}) == sum(len(words) > 1 for _, words in right)
    assert all(width_of(words, 12.5) < width / 2 - 20 for _, words in right)


def test_on_a_phone_a_column_stands_for_all_its_keys():
    drawn = str(tree(path=("root", "chip", "owner")).picture(300, "S"))

    assert "owner: session." in drawn and "no platform yet" not in drawn


def test_where_both_trees_are_drawn_no_two_things_have_one_key():
    made = tree(beside=(KEYS, BONDS))
    keys = [item.get("data-key") for item in ET.fromstring(str(made.picture(1600, "L"))).iter() if item.get("data-key")]

    assert len(keys) == len(set(keys)) == 2 * (len(KEYS) + len(BONDS))


def test_what_falls_is_shaded_in_the_tree_in_which_a_key_was_selected():
    made = tree(beside=(KEYS, BONDS))
    shaded = []
    for selected in ("root", "root beside"):
        made.got_select("view-1", selected)
        found = ET.fromstring(str(made.picture(1600, "L"))).iter("{http://www.w3.org/2000/svg}rect")
        shaded.append([float(rect.get("x")) < 800 for rect in found if "hatch" in rect.get("class", "")])

    assert shaded == [[True, True], [False, False]]


def test_a_tree_without_columns_is_refused():
    with pytest.raises(ValueError, match="at least one column"):
        KeyTree(())
