"""Ladder: what it says, how two designs are joined, and what the reader's guess gets."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets import Ladder
from sevlab_widgets.ladder import Column, Rung, join

SVG = "{http://www.w3.org/2000/svg}"
A, B, C, D = (
    Rung(words, code, by="kernel", letter="K", source=f"f: {words}")
    for words, code in (("a", "EBADF"), ("b", "EINVAL"), ("c", "EBUSY"), ("d", "EINTR"))
)


def made(*states, **more):
    rungs = [rung._replace(state=state) for rung, state in zip((A, B, C, D), states, strict=False)]
    return Ladder([Column("linux-6.1", rungs)], call="MOVE", **more)


def drawn(ladder, width=760, size="M"):
    return ET.fromstring(str(ladder.picture(width, size)))


def test_before_a_call_the_rungs_are_named():
    assert made("open", "open").says() == "No call yet. These are the rungs of MOVE, top first."


def test_a_refusal_says_which_rung_and_what_else_was_wrong():
    ladder = made("passed", "refused", "also", "unasked")

    assert ladder.says() == "Rung 2 of 4 refused: b; EINVAL. 1 more is also wrong, never asked."
    assert ladder.sentence(0, 2) == "Rung 3: EBUSY if c, asked by the kernel; also wrong, never asked."
    assert "\n  Rung 4: EINTR if d, asked by the kernel; never asked." in ladder.describe()


def test_a_call_that_passed_says_so():
    assert made("passed", "passed").says() == "Every rung passed."


def test_equal_rungs_are_joined_and_the_rest_leaves_gaps():
    assert join([A, B, C], [C, A, D]) == [(None, 0), (0, 1), (1, None), (2, None), (None, 2)]


@pytest.mark.parametrize("size", ["S", "M", "L"])
@pytest.mark.parametrize("width", [300, 760, 1500])
def test_nothing_is_drawn_outside_the_picture(width, size):
    two = Ladder(
        [Column("one", [A._replace(state="passed"), B._replace(state="refused", fw="POLICY_FAILURE")]), Column("two", [B, C])],
        call="MOVE",
    )
    picture = drawn(two, width, size)

    high = float(picture.get("height"))
    for rect in picture.iter(f"{SVG}rect"):
        x, y, w, h = (float(rect.get(name) or 0) for name in ("x", "y", "width", "height"))
        assert x >= 0 and x + w <= width + 1 and y >= 0 and y + h <= high + 1
    assert len([group for group in picture.iter(f"{SVG}g") if group.get("data-key")]) == (2 if size == "S" else 4)


def test_small_shows_numbers_and_codes_and_only_the_refused_rung_in_words():
    texts = [text.text for text in drawn(made("passed", "refused", "unasked"), 380, "S").iter(f"{SVG}text")]

    assert "b" in texts and "a" not in texts and "c" not in texts and "EBADF" in texts


def test_enter_shows_the_source_and_hides_it_again(sent):
    opened = []
    ladder = made("passed", "refused", on_source=opened.append)
    sent(ladder)
    ladder.got_act("view-1", "0/1")
    assert "Source: f: b." in ladder.sentence(0, 1) and opened[0].words == "b"
    ladder.got_act("view-1", "0/1")
    assert "Source" not in ladder.sentence(0, 1)


def test_a_guess_is_compared_with_the_answer(sent):
    wrongs = []

    def call(wrong):
        wrongs.append(wrong)
        return [Column("", [A._replace(state="passed"), B._replace(state="refused" if 1 in wrong else "passed")])]

    ladder = made("open", "open", on_call=call)
    sent(ladder)
    ladder.got_call("view-1", [1], "EBUSY")
    assert ladder.says().startswith("You guessed EBUSY, the answer is EINVAL. Rung 2 of 2 refused")
    ladder.got_call("view-1", [], "0")
    assert ladder.says() == "You guessed 0, and so it is. Every rung passed." and wrongs == [frozenset({1}), frozenset()]


def test_only_what_an_author_can_break_has_a_switch(sent):
    wrongs = []
    ladder = made("open", "open", "open", on_call=lambda wrong: wrongs.append(wrong) or ladder.columns, breakable=[0, 2])
    messages = sent(ladder)

    assert [row[:2] for row in ladder.full()[0]["switches"]] == [[0, "1 a"], [2, "3 c"]]
    ladder._receive(ladder, {"kind": "call", "view": "view-1", "wrong": [1], "guess": "0"}, [])
    assert messages[-1][0]["kind"] == "error" and "rung 2 cannot be made wrong" in messages[-1][0]["say"]
    ladder.got_call("view-1", [2], "0")
    assert wrongs == [frozenset({2})]


def test_without_a_call_there_is_nothing_to_break():
    assert made("open", breakable=[0]).full()[0]["switches"] == []


def test_large_has_a_column_for_where_the_facts_come_from_and_medium_opens_them():
    ladder = made("passed", "refused")

    large = [text.text for text in drawn(ladder, 1500, "L").iter(f"{SVG}text")]
    medium = [text.text for text in drawn(ladder, 760, "M").iter(f"{SVG}text")]
    assert "where the fact comes from" in large and "f: b" in large and "f: b" not in medium
    ladder.got_act("view-1", "0/1")
    assert "f: b" in [text.text for text in drawn(ladder, 760, "M").iter(f"{SVG}text")]
    assert [text.text for text in drawn(ladder, 1500, "L").iter(f"{SVG}text")].count("f: b") == 1


def test_a_call_that_raises_is_a_sentence_in_the_widget(sent):
    ladder = made("open", on_call=lambda wrong: 1 // 0)
    messages = sent(ladder)
    ladder.got_call("view-1", [0], "EBADF")

    assert any("The call raised ZeroDivisionError" in fields.get("say", "") for fields, _ in messages)


@pytest.mark.parametrize("columns", [[], [Column("", [])] * 3])
def test_one_column_or_two(columns):
    with pytest.raises(ValueError, match="one column or two"):
        Ladder(columns)


def test_a_state_that_is_none_is_refused():
    with pytest.raises(ValueError, match="not 'maybe'"):
        Ladder([Column("", [A._replace(state="maybe")])])


def test_the_table_has_every_rung():
    heads, rows = made("passed", "refused").table()

    assert heads[:3] == ["design", "rung", "asked by"] and rows[1][3:7] == ["b", "EINVAL", "", "refused"]


@pytest.mark.parametrize(("width", "size"), [(380, "S"), (600, "M"), (1300, "L")])
def test_a_rung_that_may_end_in_several_ways_names_them_all(width, size):
    many = A._replace(code="EINVAL, EBUSY, EINTR")
    two = Ladder([Column("one", [many]), Column("two", [many])], call="MOVE")

    texts = " ".join(text.text or "" for text in drawn(two, width, size).iter(f"{SVG}text"))
    assert texts.replace("EINVAL, EBUSY, EINTR", "x").count("x") + texts.count("EINTR") >= 2 and "…" not in texts


# ------------------------------------------------------------- two designs where there is room for one


def two():
    return Ladder([Column("linux-6.1", [A, B]), Column("posted", [A, C, D])], call="MOVE")


def test_on_a_phone_one_of_two_designs_is_drawn_and_the_other_chosen():
    ladder = two()
    keys = [item.get("data-key") for item in drawn(ladder, 380, "S").iter() if item.get("data-key")]
    assert keys == ["0/0", "0/1"]

    ladder.choose("design", "posted")
    keys = [item.get("data-key") for item in drawn(ladder, 380, "S").iter() if item.get("data-key")]
    assert keys == ["1/0", "1/1", "1/2"]


@pytest.mark.parametrize("size", ["M", "L"])
def test_where_there_is_room_both_designs_are_drawn_whatever_was_chosen(size):
    ladder = two()
    ladder.choose("design", "posted")

    keys = {item.get("data-key") for item in drawn(ladder, 1300, size).iter() if item.get("data-key")}
    assert keys == {"0/0", "0/1", "1/0", "1/1", "1/2"}


def test_of_one_design_there_is_nothing_to_choose():
    assert made("open").choices == () and made("open").one is None
    with pytest.raises(StopIteration):
        made("open").got_choose("", "design", "linux-6.1")


def test_a_walk_begins_at_the_rung_that_refused():
    assert made("passed", "refused", "unasked").chrome()["start"] == "0/1"
    assert made("open", "open").chrome()["start"] == ""


@pytest.mark.parametrize("columns", [[], [Column("a", [Rung("r", "E", "odd")])], [Column("a", [])] * 3])
def test_what_cannot_be_drawn_is_not_shown_and_the_picture_stays(columns):
    ladder = Ladder([Column("6.1", [Rung("no VM", "EINVAL")])])
    with pytest.raises(ValueError, match=r"a (ladder|rung)"):
        ladder.show(columns)
    assert ladder.columns[0].name == "6.1" and "no VM" in ladder.svg()
