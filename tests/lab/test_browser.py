"""The lab in a real JupyterLab: run from top to bottom, its questions answered by mouse and by keyboard.

Screenshots are kept in the folder that SEVLAB_SHOTS names, for whoever wants to look.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import judges
import pytest

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    # The server's log is closed by whoever collects the garbage; it is no business of the lab's.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
COUNT = "window.jupyterapp.shell.currentWidget.content.widgets.length"
COLOUR = "([element, what]) => getComputedStyle(element)[what].match(/[0-9]+/g).slice(0, 3).map(Number)"
ERRORS = """() => { const cells = window.jupyterapp.shell.currentWidget.content.model.cells, bad = [];
    for (let i = 0; i < cells.length; i++) { const cell = cells.get(i); if (cell.type !== 'code') continue;
        for (let j = 0; j < cell.outputs.length; j++) if (cell.outputs.get(j).type === 'error') bad.push(cell.id); }
    return bad; }"""


def _rig() -> ModuleType:
    """The server and browser that the widgets' tests use."""
    path = judges.ROOT / "tests/widgets/lab_server.py"
    spec = importlib.util.spec_from_file_location("lab_server", path)
    assert spec and spec.loader
    rig = sys.modules.setdefault("lab_server", importlib.util.module_from_spec(spec))
    if not hasattr(rig, "Lab"):
        spec.loader.exec_module(rig)
    return rig


@pytest.fixture(scope="module", params=[False, True], ids=["light", "dark"])
def book(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The lab, open in JupyterLab and run."""
    rig = _rig()
    rig.require()
    pytest.importorskip("sevlab_widgets", reason="sevlab is not installed here (make setup)")
    notebook = json.loads((judges.ROOT / "notebooks/01_launch.ipynb").read_text())
    notebook["metadata"] = rig.notebook([])["metadata"]
    with rig.Lab(tmp_path_factory.mktemp("lab"), dark=request.param) as lab:
        (lab.folder / "work/launch.ipynb").write_text(json.dumps(notebook))
        page = lab.browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
        page.on("request", lambda asked: lab.asked.append(asked.url))
        opened = rig.Book(lab, page, "launch").load().run()
        opened.theme = "dark" if request.param else "light"
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
        book.page.screenshot(path=str(Path(folder, f"launch-{book.theme}-{name}.png")))


def test_the_lab_runs_from_top_to_bottom_and_asks_nobody_outside(book: Any) -> None:
    assert book.page.evaluate(ERRORS) == []
    assert book.lab.foreign() == []


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


def test_a_card_is_legible_in_either_theme(book: Any) -> None:
    one = card(book, "What lies in memory at 0x1000")

    ink, paper = (book.page.evaluate(COLOUR, [one.element_handle(), what]) for what in ("color", "backgroundColor"))
    assert abs(sum(ink) - sum(paper)) > 300, (ink, paper)
    shot(book, "waiting")
