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
    assert len([group for group in picture.iter(f"{SVG}g") if group.get("data-key")]) == 4


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
