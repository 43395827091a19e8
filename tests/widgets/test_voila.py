"""voila with sevlab's own template: widgets live, cards answered, and no request to anybody else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judges
import pytest
from front_end import helper

pytestmark = [pytest.mark.ui, pytest.mark.judge]

CELLS = (
    f"exec(open({str(Path(__file__).with_name('machine.py'))!r}).read())",
    """
from sevlab_widgets import Ask, PageMap
host = Machine(4096)
host.mark(0, 64, 2); host.mark(64, 64, 3, 7); host.mark(4000, 1, 8)
PageMap.of(host)""",
    "Ask('Is the digest the same?', ['yes', 'no'], reveal=lambda: 'no')",
)
PIXELS = """([r, g, b]) => {
    const c = document.querySelector('.sl canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    let n = 0;
    for (let i = 0; i < d.length; i += 4) if (d[i] === r && d[i + 1] === g && d[i + 2] === b) n++;
    return n;
}"""
BLUE, VERMILION = [0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]


@pytest.fixture(scope="module")
def voila(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """voila in front of this Python's kernel, with our template."""
    server = helper("voila_server")
    if not server.PYTHON.is_file():
        judges.absent(f"voila {server.VERSION} is not installed (make judges)")
    with server.Voila(tmp_path_factory.mktemp("voila"), lab.browser) as running:
        yield running


@pytest.fixture(scope="module")
def page(voila: Any) -> Any:
    """A notebook with a map and a card, as voila renders it."""
    return voila.render("live", CELLS)


def test_the_map_is_drawn_and_steps_through_the_journal(page: Any) -> None:
    widget = page.locator(".sl").first
    assert widget.locator(".sl-foot").inner_text().split() == [
        ".", "free", "3,967", "S", "shared", "64", "P", "private", "64", "!", "no", "longer", "reads", "what", "it", "wrote", "1",
    ]  # fmt: skip
    assert page.evaluate(PIXELS, BLUE) > 0 and page.evaluate(PIXELS, VERMILION) > 0

    widget.locator(".sl-stage").focus()
    page.keyboard.press("[")
    page.keyboard.press("[")
    page.wait_for_function("document.querySelector('.sl-past')?.innerText.includes('Entry 1 of 3, read only')")
    page.wait_for_function("!document.querySelector('.sl-foot').innerText.includes('private')")
    assert page.evaluate(PIXELS, VERMILION) == 0

    widget.get_by_role("button", name="Back to now").click()
    page.wait_for_function("document.querySelector('.sl-foot').innerText.includes('private')")
    assert page.evaluate(PIXELS, VERMILION) > 0


def test_a_card_is_answered(page: Any) -> None:
    card = page.locator(".sl").nth(1)
    card.get_by_label("yes", exact=True).check()
    card.get_by_role("button", name="Commit").click()
    card.locator(".sl-reveal").wait_for()

    assert card.locator(".sl-status").inner_text() == "You said: yes. The machine says: no."


def test_neither_page_list_nor_error_asks_anybody_else(voila: Any, page: Any) -> None:
    voila.page("voila/tree/").get_by_text("live.ipynb").first.wait_for()
    voila.page("voila/render/not-there.ipynb").get_by_text("404").first.wait_for()

    assert any("/voila/render/live.ipynb" in url for url in voila.asked)
    assert voila.foreign() == []


def test_voilas_own_template_does_ask_somebody_else(voila: Any, lab: Any, tmp_path: Path) -> None:
    """The reason for ours, and the proof that a foreign request would be seen. None gets through: the browser is told so."""
    with helper("voila_server").Voila(tmp_path, lab.browser, template="lab") as plain:
        plain.page("voila/tree/")

        assert any("cdn.jsdelivr.net" in url for url in plain.foreign())
