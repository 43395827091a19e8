"""Ask in a real JupyterLab: by mouse and by keyboard, light and dark, in three sizes."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

PREDICTION = """
from sevlab_widgets import Ask
from sevlab_widgets.ask import Shown
looked = []
def look():
    looked.append(1)
    return Shown("yes", "0x1000  8f 02 5c d1\\n0x2000  8f 02 5c d1", "The digest knows order, not places.")
question = "The same bytes in the same order, at other addresses. Is the digest the same?"
card = Ask(question, ["yes", "no", "only on Naples"], reveal=look)
card
"""
NUMBER = """
from sevlab_widgets import Ask
card = Ask("How many bytes does the MAC cover?", unit="bytes", reveal=lambda: 56)
card
"""
CHECK = """
from sevlab import lab
lab.check("launch.digest", b"x" * 32)
"""
COUNT = "window.jupyterapp.shell.currentWidget.content.widgets.length"


def test_commit_locks_the_answer_and_only_then_the_machine_is_looked_at(notebook, shot):
    book = notebook(PREDICTION, width=1000)
    card = book.widget()
    assert book.status() == "Not answered yet. You may read on; the card keeps your place."
    assert "The digest knows" not in card.inner_html() and book.do("print(len(looked))").strip() == "0"
    shot(book, "ask-waiting")

    card.get_by_text("Commit").click()
    assert book.status() == "Choose an answer first, then commit it."
    card.get_by_label("no", exact=True).check()
    card.get_by_placeholder("optional").fill("addresses go in")
    card.get_by_role("button", name="Commit").click()
    card.locator(".sl-reveal").wait_for()

    assert book.status() == "You said: no. The machine says: yes."
    assert "The digest knows order, not places." in card.inner_text() and "addresses go in" in card.inner_text()
    assert card.locator("input[type=radio]:enabled").count() == 0
    assert book.do("print(card.answer, card.why, len(looked))").strip() == "no addresses go in 1"
    shot(book, "ask-answered")


def test_by_keyboard_alone_nothing_reaches_the_notebook(notebook):
    book = notebook(NUMBER)
    card = book.widget()
    before = book.page.evaluate(COUNT)
    card.locator("input[name=answer]").focus()

    book.page.keyboard.type("0x38")
    for key in ("Tab", "a", "b", "d", "d", "Enter"):
        book.page.keyboard.press(key)
    card.locator(".sl-reveal").wait_for()

    assert book.status() == "You said: 0x38. The machine says: 56."
    assert "as you said" in card.inner_text() and book.page.evaluate(COUNT) == before
    assert book.page.evaluate("document.activeElement.className") == "sl-reveal"
    for key in ("a", "b", "d", "d", "x"):
        book.page.keyboard.press(key)
    assert book.page.evaluate(COUNT) == before


def test_a_click_beside_the_controls_leaves_the_keys_in_the_card(notebook):
    book = notebook(PREDICTION)
    card = book.widget()
    source = "window.jupyterapp.shell.currentWidget.content.activeCell.model.sharedModel.source"
    before = book.page.evaluate(COUNT), book.page.evaluate(source)
    card.locator(".sl-question").click()
    for key in ("Enter", "a", "d", "d", "x"):
        book.page.keyboard.press(key)
    assert book.status() == "Choose an answer first, then commit it."

    card.get_by_label("no", exact=True).check()
    card.locator(".sl-question").click()
    book.page.keyboard.press("Enter")
    card.locator(".sl-reveal").wait_for()
    for key in ("a", "d", "d", "Enter", "x"):
        book.page.keyboard.press(key)

    assert (book.page.evaluate(COUNT), book.page.evaluate(source)) == before
    assert book.page.evaluate("window.jupyterapp.shell.currentWidget.content.mode") == "command"


def test_after_a_reload_the_card_still_knows_what_was_said(notebook):
    book = notebook(NUMBER)
    book.widget().locator("input[name=answer]").fill("52")
    book.page.keyboard.press("Enter")
    book.page.locator(".sl-reveal").wait_for()
    book.page.evaluate("async () => { await window.jupyterapp.commands.execute('docmanager:save'); }")

    book.load()
    book.widget()

    assert book.status() == "You said: 52. The machine says: 56."
    assert book.page.locator("input[name=answer]").is_disabled()


def test_a_wrong_answer_gets_its_table_hints_one_at_a_time_then_the_solution(notebook, shot):
    book = notebook(CHECK, width=1000)
    card = book.widget()

    assert book.status() == "launch.digest: not yet. 1 of 1 rows differs. 0 of 4 passed."
    assert card.locator(".sl-differs").count() == 1
    shot(book, "ask-check")
    card.get_by_role("button", name="Hint 1 of 2").press("Enter")
    card.get_by_role("button", name="Hint 2 of 2").click()
    for _ in range(4):
        card.get_by_role("button", name="Solution, line").click()
        book.settle(120)
    assert "answer = running.digest()" in card.locator(".sl-solution").inner_text()
    shot(book, "ask-solution")


@pytest.mark.parametrize(("size", "width"), [("S", 480), ("L", 1700)])
def test_three_sizes(notebook, shot, size, width):
    book = notebook(PREDICTION, width=width)
    card = book.widget()
    assert card.get_attribute("data-size") == size
    if size == "L":
        card.get_by_label("Hide my answer").check()
    card.get_by_label("no", exact=True).check()
    card.get_by_role("button", name="Commit").click()
    card.locator(".sl-reveal").wait_for()
    if size == "L":
        assert "You said: no" not in book.status() and card.locator(".sl-you").inner_text() == "(hidden)"
    shot(book, f"ask-{size}", dark=False)


def test_axe_finds_nothing(notebook, violations):
    book = notebook(PREDICTION, NUMBER, CHECK, "lab.exercise('launch.zero')")
    for index in range(4):
        book.widget(index)
    book.widget(0).get_by_label("yes", exact=True).check()
    book.widget(0).get_by_role("button", name="Commit").click()
    book.page.locator(".sl-reveal").first.wait_for()
    book.widget(2).get_by_role("button", name="Hint 1").click()
    book.settle()

    assert violations(book) == []
    book.theme("dark")
    assert violations(book) == []


def test_before_a_hall_the_answer_is_hidden_until_the_votes_are_in(notebook, shot):
    book = notebook(PREDICTION, width=1700)
    card = book.widget()
    look = """(at) => {
        const s = getComputedStyle(document.querySelectorAll(".sl-answer")[at]);
        return [s.borderColor, s.fontWeight, s.boxShadow];
    }"""
    hide = card.get_by_label("Hide my answer")
    hide.check()
    card.get_by_label("no", exact=True).check()
    assert book.page.evaluate(look, 0) == book.page.evaluate(look, 1)

    card.get_by_role("button", name="Commit").click()
    card.locator(".sl-reveal").wait_for()
    assert book.status() == "You said: (hidden). The machine says: yes."
    assert card.locator(".sl-you").inner_text() == "(hidden)" and card.locator(".sl-verdict").count() == 0
    shot(book, "ask-hidden")

    hide.uncheck()
    assert book.status() == "You said: no. The machine says: yes."
    assert card.locator(".sl-you").inner_text() == "no" and "not what you said" in card.inner_text()


def test_the_link_selects_in_the_widget_above_and_brings_it_before_the_reader(notebook):
    book = notebook(
        "from sevlab_widgets import Layout\nw = Layout([('nonce', bytes(16)), ('mac', bytes(32))]); w",
        "from sevlab import lab\nr = lab.check('launch.digest', b'x' * 32, look=w); r",
    )
    book.do("r.verdict = r.verdict._replace(look='the field mac'); r._widget.mark()")
    book.widget(1).get_by_role("button", name="the field mac").click()
    book.page.wait_for_function("document.querySelectorAll('.sl-stage')[0] === document.activeElement")

    assert book.do("print(w.selected)") == "mac\n"
    assert book.status(0).startswith("mac: 32 bytes")


def test_without_a_widget_to_look_at_the_words_are_no_link(notebook):
    card = notebook(CHECK).widget()

    assert "look at:" in card.inner_text() and card.locator(".sl-link").count() == 0
