"""The cards of a lab in a real JupyterLab: what they say before and after, by mouse and by keyboard, light and dark.

The whole of each lab, a reader's way, is in test_reader_way.py.

Screenshots are kept in the folder that SEVLAB_SHOTS names, for whoever wants to look.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judges
import pytest

pytestmark = [pytest.mark.browser, pytest.mark.slow]
COUNT = "window.jupyterapp.shell.currentWidget.content.widgets.length"
COLOUR = "([element, what]) => getComputedStyle(element)[what].match(/[0-9]+/g).slice(0, 3).map(Number)"


@pytest.fixture(scope="module")
def book(lab: Any) -> Iterator[Any]:
    """The lab, open in JupyterLab and run."""
    pytest.importorskip("sevlab_widgets", reason="sevlab is not installed here (make setup)")
    stored = json.loads((judges.ROOT / "notebooks/01_launch.ipynb").read_text())
    opened = lab.show("launch", stored, width=1280, height=900).run()
    yield opened
    opened.close()


def card(book: Any, words: str) -> Any:
    """The card whose question holds these words, scrolled into view."""
    book.page.evaluate(
        """async words => { const list = window.jupyterapp.shell.currentWidget.content;
            for (let i = 0; i < list.model.cells.length; i++) { const cell = list.model.cells.get(i);
                if (cell.type === 'code' && cell.sharedModel.source.includes(words)) await list.scrollToItem(i, 'center'); } }""",
        words,
    )
    found = book.page.locator(".sl").filter(has_text=words)
    found.wait_for()
    return found


def shot(book: Any, name: str) -> None:
    """Keep a picture, where somebody asked for pictures."""
    folder = os.environ.get("SEVLAB_SHOTS")
    if folder:
        Path(folder).mkdir(parents=True, exist_ok=True)
        book.page.screenshot(path=str(Path(folder, f"launch-{name}.png")))


def test_an_answer_by_mouse_locks_the_card_and_opens_it(book: Any) -> None:
    one = card(book, "Every signature in this chain fits")
    assert one.locator(".sl-status").inner_text() == "Not answered yet. You may read on; the card keeps your place."

    one.get_by_label("yes", exact=True).check()
    one.get_by_role("button", name="Commit").click()
    one.locator(".sl-reveal").wait_for()

    assert one.locator(".sl-status").inner_text() == "You said: yes. The machine says: no."
    assert one.locator("input[type=radio]:enabled").count() == 0
    shot(book, "mouse")


def test_an_answer_by_keyboard_changes_nothing_in_the_notebook(book: Any) -> None:
    before = book.page.evaluate(COUNT)
    one = card(book, "Which of the four")
    one.locator("input[type=radio]").first.focus()

    for key in ("ArrowDown", "a", "d", "d", "Enter"):
        book.page.keyboard.press(key)
    one.locator(".sl-reveal").wait_for()

    assert one.locator(".sl-status").inner_text() == "You said: the policy. The machine says: one more vCPU."
    assert book.page.evaluate(COUNT) == before
    shot(book, "keys")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_card_is_legible_in_either_theme(book: Any, theme: str) -> None:
    book.theme(theme)
    one = card(book, "What lies in memory at 0x1000")

    ink, paper = (book.page.evaluate(COLOUR, [one.element_handle(), what]) for what in ("color", "backgroundColor"))
    assert abs(sum(ink) - sum(paper)) > 300, (ink, paper)
    shot(book, f"waiting-{theme}")
