"""The card: what it says, what it hides, and what it does not let a lab's author get wrong."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from sevlab.lab import Answer, Prediction, predict
from sevlab.lab.style import CARD

VOID = {"input", "br", "meta", "img"}


class Balance(HTMLParser):
    """Whether every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def card(**changes: object) -> Prediction:
    reveal = changes.pop("reveal", lambda: Answer("no", "a1 b2", "A nonce is fresh."))
    return predict("Is it the same?", changes.pop("answers", ["yes", "no"]), reveal=reveal)  # type: ignore[arg-type]


def test_without_a_browser_the_card_says_question_answers_evidence_and_reason_at_once() -> None:
    assert repr(card()) == "Predict: Is it the same?\n  yes / no\nThe machine says: no\na1 b2\nA nonce is fresh."


def test_an_open_question_has_no_answers_to_choose_from() -> None:
    assert repr(card(answers=[], reveal=lambda: 42)) == "Predict: Is it the same?\nThe machine says: 42"


def test_the_machine_may_say_a_word_and_nothing_more() -> None:
    assert card(reveal=lambda: "yes").describe().endswith("The machine says: yes")


def test_the_machine_is_looked_at_once() -> None:
    looks: list[int] = []
    one = card(reveal=lambda: looks.append(1) or "yes")

    assert (repr(one), one._repr_html_(), looks)[2] == [1]


@pytest.mark.parametrize("answers", [["yes"], list("abcdef")])
def test_one_answer_or_six_are_no_question(answers: list[str]) -> None:
    with pytest.raises(ValueError, match="2 to 5 answers or none"):
        card(answers=answers)


def test_a_machine_that_says_what_was_not_offered_is_the_authors_mistake() -> None:
    with pytest.raises(ValueError, match="the machine says 'perhaps', and the answers offered are 'yes', 'no'"):
        card(reveal=lambda: "perhaps")


def test_a_reveal_that_raises_raises_in_the_cell() -> None:
    with pytest.raises(ZeroDivisionError):
        card(reveal=lambda: 1 // 0)


def test_a_long_sentence_is_folded_and_a_row_of_a_table_is_not() -> None:
    row = "a" * 60 + "  " + "b" * 60
    one = card(reveal=lambda: Answer("no", f"{'word ' * 30}\n\n{row}"))

    *prose, empty, last = one.evidence.splitlines()
    assert len(prose) == 2 and all(len(line) <= 78 for line in prose) and (empty, last) == ("", row)


# ------------------------------------------------------------- in a browser


def test_the_page_is_well_formed_and_runs_no_script() -> None:
    parser = Balance()
    parser.feed(card()._repr_html_())

    assert parser.open == []
    assert not {"script", "a", "img"} & {tag for tag, _ in parser.seen}
    assert not [name for _, attrs in parser.seen for name in attrs if name.startswith("on")]


def test_text_is_text_even_when_it_looks_like_markup() -> None:
    page = predict("<b>?", ["<i>", "&"], reveal=lambda: Answer("&", "<script>", "<u>"))._repr_html_()

    assert "<script>" not in page and "<i>" not in page and "<u>" not in page and "&lt;script&gt;" in page


def test_every_answer_can_be_reached_by_keyboard_and_keeps_its_keys_from_jupyterlab() -> None:
    parser = Balance()
    parser.feed(card()._repr_html_())
    inputs = [attrs for tag, attrs in parser.seen if tag == "input"]

    assert len(inputs) == 2 and all(attrs["type"] == "checkbox" for attrs in inputs)
    assert all(attrs["data-lm-suppress-shortcuts"] == "true" for attrs in inputs)


def test_the_answer_is_hidden_until_something_is_chosen() -> None:
    assert ".sevlab-card .reveal,.sevlab-card .you{display:none}" in CARD
    assert ".sevlab-card:has(:checked) .reveal{display:block}" in CARD
    assert "@supports not selector(:has(a)){.sevlab-card .reveal{display:block}}" in CARD


def test_two_questions_do_not_share_a_group_and_one_question_always_has_the_same() -> None:
    def group(question: str) -> str:
        return re.findall(r'name="([^"]+)"', predict(question, reveal=lambda: 1)._repr_html_())[0]

    assert group("a") == group("a") != group("b")


def test_every_colour_follows_the_theme() -> None:
    assert not re.findall(r"(?:color|background):#", CARD)
