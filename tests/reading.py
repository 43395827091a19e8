"""A reader in front of a lab: commits predictions, uses widgets, answers an exercise, by mouse and by keyboard.

    reading = Reading(book)              # a notebook that is open and was run
    for cell in reading.live_cells(): ...
    card = reading.cell("ask-order").locator(".sl")
    reading.commit(card, by="mouse")
"""

from __future__ import annotations

import re
from typing import Any

CARDS = ("Ask", "Checked")
KEYS = ("ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp", "Home", "End")
SAID = re.compile(r"You said: (.+)\. The machine says: (.+)\.", re.DOTALL)

CELLS = """() => app.shell.currentWidget.content.widgets.filter((w) => w.model.type === 'code').map((w) => {
    const outputs = [...Array(w.model.outputs.length).keys()].map((i) => w.model.outputs.get(i));
    return { id: w.model.id, source: w.model.sharedModel.source,
             raised: outputs.filter((o) => o.type === 'error').map((o) => o.toJSON().evalue).join(),
             live: outputs.some((o) => 'application/vnd.jupyter.widget-view+json' in (o.data ?? {})) };
})"""
GO = """async (id) => {
    const list = app.shell.currentWidget.content, i = list.widgets.findIndex((w) => w.model.id === id);
    list.activeCellIndex = i;
    await list.scrollToItem(i, 'center');
    list.widgets[i].node.dataset.cell = id;
}"""
WRITE = """([id, source]) => {
    const list = app.shell.currentWidget.content, cell = list.widgets.find((w) => w.model.id === id);
    cell.model.sharedModel.setSource(source);
}"""


class Reading:
    """One reader and one open notebook."""

    def __init__(self, book: Any) -> None:
        self.book = book
        self.page = book.page

    # ------------------------------------------------- cells

    def cells(self) -> list[dict[str, Any]]:
        """The code cells: their id, source, what they raised ("" for nothing) and whether something live stands under them."""
        return list(self.book.js(CELLS))

    def live_cells(self) -> list[str]:
        """The ids of the cells under which a widget stands."""
        return [cell["id"] for cell in self.cells() if cell["live"]]

    def count(self) -> int:
        """How many cells the notebook has."""
        return int(self.book.js("() => app.shell.currentWidget.content.model.cells.length"))

    def cell(self, id: str) -> Any:
        """A cell, scrolled into view."""
        self.book.js(GO, id)
        return self.page.locator(f'[data-cell="{id}"]')

    def drawn(self, id: str) -> list[Any]:
        """The widgets of a cell, once each has drawn something."""
        cell = self.cell(id)
        cell.locator(".sl").first.wait_for()
        found = cell.locator(".sl")
        self.page.wait_for_function(
            "id => [...document.querySelectorAll(`[data-cell='${id}'] .sl`)].every((w) => (w.dataset.seq ?? '-1') !== '-1')",
            arg=id,
        )
        return [found.nth(i) for i in range(found.count())]

    def run(self, id: str, source: str | None = None) -> Any:
        """Run one cell by Shift+Enter, with another text if one is given; the cell."""
        if source is not None:
            self.book.js(WRITE, [id, source])
        cell = self.cell(id)
        self.book.js("() => { app.shell.currentWidget.content.node.focus(); app.shell.currentWidget.content.mode = 'command'; }")
        self.page.keyboard.press("Shift+Enter")
        return cell

    # ------------------------------------------------- cards

    def commit(self, card: Any, by: str) -> str:
        """Give the card an answer, the last by "mouse" or the second by "keys", or a number; what its status line says then."""
        choices = card.locator("input[type=radio]")
        if not choices.count():
            card.locator("input[name=answer]").click()
            self.page.keyboard.type("1")
            said = "1"
        elif by == "mouse":
            said = choices.last.input_value()
            card.locator(".sl-answer").last.click()
        else:
            said = choices.nth(1).input_value()
            choices.first.focus()
            self.page.keyboard.press("ArrowDown")
        if by == "mouse":
            card.get_by_role("button", name="Commit").click()
        else:
            self.page.keyboard.press("Enter")
        card.locator(".sl-reveal").wait_for()
        status = str(card.locator(".sl-status").inner_text())
        found = SAID.fullmatch(status)
        assert found and found[1] == said, status
        assert card.locator("input[type=radio]:enabled, input[name=answer]:enabled").count() == 0
        return status

    # ------------------------------------------------- widgets

    def one_thing_at_most(self, widget: Any) -> bool:
        """Whether the picture has nowhere to go: it is empty, or a drawing of one item."""
        empty = widget.locator(".sl-empty").is_visible()
        return bool(empty or (not widget.locator("canvas").count() and widget.locator("[data-key]").count() < 2))

    def walk(self, widget: Any) -> bool:
        """Move the selection with arrow keys, until the status line is another one; False where it never is."""
        status = widget.locator(".sl-status")
        before = status.inner_text()
        widget.locator(".sl-stage").focus()
        for key in KEYS:
            self.page.keyboard.press(key)
            for _ in range(10):
                if status.inner_text() not in ("", before):
                    return True
                self.page.wait_for_timeout(30)
        return False

    def step_back(self, widget: Any) -> bool:
        """One journal entry back by `[`, and "Back to now"; False where the widget has no time, or none but now."""
        if not widget.locator(".sl-controls").is_visible():
            return False
        first, last = (widget.get_by_label("Journal entry").get_attribute(end) for end in ("min", "max"))
        if first == last:
            return False
        past = widget.locator(".sl-past")
        widget.locator(".sl-stage").focus()
        self.page.keyboard.press("[")
        past.filter(has_text="read only").wait_for()
        past.get_by_role("button", name="Back to now").click()
        past.wait_for(state="hidden")
        return True
