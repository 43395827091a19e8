"""Ask and Checked: what they say, what they lock, and what goes over the wire before it should."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets import Ask, Checked
from sevlab_widgets.ask import WAITING, Sheet, Shown

YES = Shown("yes", "8f 02 5c d1", "Order counts, not places.")


def card(answers=("yes", "no"), reveal=lambda: YES, **more):
    return Ask("Is it the same?", answers, reveal=reveal, **more)


def test_without_a_front_end_everything_is_said_at_once():
    assert repr(card()) == "Predict: Is it the same?\n  yes / no\nThe machine says: yes\n8f 02 5c d1\nOrder counts, not places."


def test_before_the_commit_nothing_of_the_reveal_is_on_the_wire_and_the_machine_was_not_looked_at(sent):
    looked = []
    ask = card(reveal=lambda: looked.append(1) or YES)
    messages = sent(ask)

    data, _ = ask._repr_mimebundle_()

    assert data["text/plain"] == f"Predict: Is it the same?\n{WAITING}"
    assert "Order counts" not in json.dumps([fields for fields, _ in messages]) and looked == []


def test_a_static_card_has_it_all(monkeypatch):
    monkeypatch.setenv("SEVLAB_STATIC", "1")

    data, _ = card()._repr_mimebundle_()
    assert set(data) == {"text/plain"} and "The machine says: yes" in data["text/plain"]


def test_commit_locks_and_looks_once(sent):
    looked, told = [], []
    ask = card(reveal=lambda: looked.append(1) or YES, on_commit=told.append)
    sent(ask)

    ask.got_commit("view-1", "no", "a feeling")
    ask.got_commit("view-2", "yes")

    assert (ask.answer, ask.why, ask.agrees, looked, told) == ("no", "a feeling", False, [1], ["no"])
    assert ask.says() == "You said: no. The machine says: yes." and "You said: no, because a feeling" in ask.describe()
    assert ask.table() == (["what", "you", "the machine"], [["Is it the same?", "no", "yes"]])


def test_a_card_is_no_file_to_take_along_for_its_picture_would_say_what_is_revealed():
    assert card().chrome()["files"] is False


@pytest.mark.parametrize("answer", ["", "  ", "perhaps"])
def test_what_was_not_offered_is_no_answer(sent, answer):
    ask = card()
    messages = sent(ask)
    ask._receive(None, {"kind": "commit", "view": "view-1", "answer": answer}, [])

    assert ask.answer is None and messages[-1][0]["kind"] == "error"


def test_a_reveal_that_raises_leaves_the_answer_locked_and_can_be_asked_again(sent):
    fails = [OSError(5, "the machine is busy")]

    def reveal():
        if fails:
            raise fails.pop()
        return YES

    ask = card(reveal=reveal)
    messages = sent(ask)
    ask.got_commit("view-1", "no")

    assert ask.answer == "no" and ask.says() == "You said: no. The machine could not be asked."
    assert any("The reveal raised OSError" in fields.get("say", "") for fields, _ in messages)
    ask.got_again("view-1")
    assert ask.says() == "You said: no. The machine says: yes."


@pytest.mark.parametrize(
    ("said", "machine", "agrees"),
    [
        ("56", 56, True),
        ("0x38", 56, True),
        ("1,024", 1024, True),
        ("52", 56, False),
        (" Noise ", "noise", True),
        ("__import__('os')", 0, False),
    ],
)
def test_numbers_are_read_never_evaluated(sent, said, machine, agrees):
    ask = card((), lambda: machine, unit="bytes")
    sent(ask)
    ask.got_commit("view-1", said)

    assert ask.agrees is agrees and "(in bytes)" in ask.describe()


def test_a_picture_for_a_page_without_a_front_end_is_well_formed():
    assert "Is it the same?" in "".join(ET.fromstring(card().svg()).itertext())


# ------------------------------------------------------------- a checked exercise


def sheet(**changes):
    base = {
        "id": "launch.digest", "title": "Predict the digest", "outcome": "not yet", "sign": "≠",
        "says": "Look at the order.", "minutes": 3,
        "rows": [("digest", "aa", "bb", False), ("size", "32", "32", True)], "hints_all": 2, "solution_all": 3,
        "dots": [("launch.digest", "not yet", "≠"), ("launch.zero", "passed", "✓")], "text": "the whole card",
    }  # fmt: skip
    return Sheet(**{**base, **changes})


def test_a_checked_card_says_outcome_rows_and_how_many_passed(sent):
    made = Checked(sheet)
    [frame, full] = [fields for fields, _ in sent(made)]

    assert full["card"]["say"] == "launch.digest: not yet. 1 of 2 rows differs. 1 of 2 passed."
    assert frame["facts"] == ["launch.digest", "usually 3 minutes"] and "text" not in full["card"]
    assert made.describe() == "the whole card" and made.table()[1] == [["digest", "aa", "bb", "differs"], ["size", "32", "32", ""]]


def test_hints_lines_and_the_link_are_calls_into_the_lesson(sent):
    asked = []
    made = Checked(
        sheet, on_hint=lambda: asked.append("hint"), on_line=lambda: asked.append("line"), on_look=lambda: asked.append("look")
    )
    sent(made)

    for act in (made.got_hint, made.got_line, made.got_look):
        act("view-1")
    assert asked == ["hint", "line", "look"]


def test_a_hint_that_raises_is_a_sentence_in_the_card(sent):
    made = Checked(sheet, on_hint=lambda: 1 // 0)
    messages = sent(made)
    made.got_hint("view-1")

    assert any(fields.get("say", "").startswith("The hint raised ZeroDivisionError") for fields, _ in messages)
