"""The same few acts in every front end: the newest JupyterLab, comms on subshells, JupyterLab 4.4.

One of each kind of message goes to the kernel and has its effect there and on the page: select,
seek, press, enter with a delta that comes back, ready after a reload, and the commit of a card.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import judges
import pytest
from front_end import helper

pytestmark = [pytest.mark.ui, pytest.mark.judge]

OLD = "4.4.10"
OLD_PYTHON = judges.JUDGES / f"jupyterlab-{OLD}" / "bin" / "python"
CELLS = (
    f"exec(open({str(Path(__file__).with_name('machine.py'))!r}).read())",
    """
from sevlab_widgets import Ask, AsidTimeline, PageMap
host = Machine(4096)
host.take(6, vm=1); host.mark(0, 64, 2); host.take(7, vm=2); host.mark(64, 64, 3, 7)
m = PageMap.of(host, on_enter=lambda page: host.mark(page, 1, 8))
m""",
    "line = AsidTimeline.of(host); line",
    """
from sevlab_widgets.layout import Layout
from sevlab.abi.session import PacketHeader
yours = PacketHeader(iv=bytes(16), mac=bytes(32))
w = Layout(yours, beside=yours.replace(iv=bytes(range(16))), names=("yours", "the host's")); w""",
    "card = Ask('Is the digest the same?', ['yes', 'no'], reveal=lambda: 'no'); card",
)
MAP, LINE, LAYOUT, CARD = range(4)
VERMILION = [0xD5, 0x5E, 0x00]
WHERE = "text => document.querySelector('.sl-where').innerText === text"
SAVE_AREAS = "shown => document.querySelector('.sl-foot').innerText.includes('save area') === shown"
PAINTED = """([r, g, b]) => {
    const c = document.querySelector('.sl canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
    for (let i = 0; i < d.length; i += 4) if (d[i] === r && d[i + 1] === g && d[i + 2] === b) return true;
    return false;
}"""


@pytest.fixture(scope="module")
def old_lab(lab: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """JupyterLab 4.4, from an environment of its own, in front of this Python's kernel."""
    if not OLD_PYTHON.is_file():
        judges.absent(f"jupyterlab {OLD} is not installed (make judges)")
    with helper("lab_server").Lab(tmp_path_factory.mktemp("old"), python=OLD_PYTHON, browser=lab.browser) as running:
        yield running


@pytest.fixture(scope="module", params=["lab", "subshells", "old_lab"], ids=["newest", "on-subshells", OLD])
def book(request: pytest.FixtureRequest) -> Iterator[Any]:
    """One notebook with a map, a timeline, a layout and a card, run in each front end."""
    opened = request.getfixturevalue(request.param).open(f"front-end-{request.param}", CELLS).run()
    opened.expected = OLD if request.param == "old_lab" else ""
    for index in (MAP, LINE, LAYOUT, CARD):
        opened.widget(index)
    yield opened
    opened.close()


def test_it_is_the_front_end_that_it_is_taken_for(book: Any) -> None:
    version = book.js("() => app.version")

    if book.expected:
        assert version == book.expected
    else:
        assert tuple(map(int, version.split(".")[:2])) > (4, 4)


def test_every_widget_stands_in_its_frame_and_none_complains(book: Any) -> None:
    assert book.page.locator(".sl-name").all_inner_texts()[:2] == ["machine memory", "key slots"]
    assert all(book.page.locator(".sl-status").all_inner_texts())
    assert book.page.locator(".sl-error:visible").count() == 0


def test_an_arrow_selects_a_page_and_the_kernel_knows(book: Any) -> None:
    book.widget(MAP).locator(".sl-stage").focus()
    book.page.keyboard.press("Home")
    for _ in range(3):
        book.page.keyboard.press("ArrowRight")
    book.page.wait_for_function("document.querySelector('.sl-status').innerText.startsWith('Page 0x3 at 0x3000')")

    assert _settled(book, "m.selected", "3")


def test_enter_reaches_the_kernel_and_one_page_comes_back_as_pixels(book: Any) -> None:
    entries = int(book.do("print(host.n)"))
    assert not book.page.evaluate(PAINTED, VERMILION)
    book.widget(MAP).locator(".sl-stage").focus()
    book.page.keyboard.press("Enter")

    book.page.wait_for_function(PAINTED, arg=VERMILION)
    assert "!" in book.page.locator(".sl-foot").first.inner_text()
    assert _settled(book, "host.n", str(entries + 1))


def test_a_slot_picked_by_mouse_is_the_kernels_selection(book: Any) -> None:
    book.widget(LINE).locator('[data-key^="VM 2, slot 7"]').first.click()

    assert _settled(book, "line.slot", "7")


def test_a_step_back_is_drawn_by_the_kernel_and_now_is_a_click_away(book: Any) -> None:
    widget = book.widget(MAP)
    entries = int(book.do("host.mark(200, 9, 5); print(host.n)"))
    book.page.wait_for_function(SAVE_AREAS, arg=True)
    widget.locator(".sl-stage").focus()
    book.page.keyboard.press("[")
    book.page.wait_for_function(WHERE, arg=f"entry {entries - 1} of {entries}")
    book.page.wait_for_function(SAVE_AREAS, arg=False)
    assert _settled(book, "m.entry", str(entries - 1))

    widget.get_by_role("button", name="Back to now").click()
    book.page.wait_for_function(SAVE_AREAS, arg=True)
    assert _settled(book, "m.entry", "None")


def test_a_pressed_switch_changes_the_picture(book: Any) -> None:
    widget = book.widget(LAYOUT)
    before = widget.locator("svg[role=img]").inner_html()
    widget.get_by_role("button", name="Differences").click()

    book.page.wait_for_function(
        "before => document.querySelectorAll('.sl')[2].querySelector('svg[role=img]').innerHTML !== before", arg=before
    )


def test_a_committed_answer_is_revealed_and_kept(book: Any) -> None:
    card = book.widget(CARD)
    card.get_by_label("yes", exact=True).check()
    card.get_by_role("button", name="Commit").click()
    card.locator(".sl-reveal").wait_for()

    assert book.status(CARD) == "You said: yes. The machine says: no."
    assert book.do("print(card.answer)") == "yes\n"


def test_a_reloaded_page_fills_itself_again(book: Any) -> None:
    book.save()
    book.do("host.mark(0, 4096, 3)")
    book.load()

    book.widget(MAP)
    book.page.wait_for_function("document.querySelector('.sl-foot').innerText.split(/\\s+/).join(' ') === 'P private 4,096'")
    # A page that was loaded anew stands at its top, and JupyterLab makes no cell that is far below. Once made, the card
    # may be hidden again while the cells above it grow: what counts is that it has been filled.
    book.js(
        """async ([cell, card]) => {
            const list = app.shell.currentWidget.content;
            while (!(document.querySelectorAll('.sl')[card]?.dataset.seq >= 0)) {
                await list.scrollToItem(cell, 'center');
                await new Promise((drawn) => setTimeout(drawn, 50));
            }
        }""",
        [len(CELLS) - 1, CARD],
    )
    said = book.page.locator(".sl").nth(CARD).locator(".sl-status").text_content()
    assert said == book.do("print(card.says())").strip()


def test_nobody_outside_was_asked(book: Any) -> None:
    assert any("/kernels/" in url for url in book.lab.asked)
    assert book.lab.foreign() == []


def _settled(book: Any, expression: str, value: str) -> bool:
    """Whether the kernel comes to say this of an expression: a message may still be on its way."""
    for _ in range(50):
        if book.do(f"print({expression})").strip() == value:
            return True
        book.page.wait_for_timeout(40)
    return False
