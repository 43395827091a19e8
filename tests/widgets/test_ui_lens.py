"""Lens in a real JupyterLab: bytes, pictures, moves, by mouse and by keyboard."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

HOST = """
from sevlab import Host, vmm, lab
from sevlab.lab import tour
from sevlab.lab.views_lens import lens
host = Host(chip="naples", seed=7)
a = vmm.launch(host, program=tour.notepad, args=(b"my pin is 4711!!hello, cloud....",), policy=1, name="vm-a")
b = vmm.launch(host, program=tour.notepad, args=(b"nobody",), policy=1, name="vm-b")
a.run(); b.run()
"""
LENS = HOST + "v = lens(host, a, 0x4000, others=[b]); w = v.widget; v"
ALONE = HOST + "v = lens(host, a, 0x4000, xray=True); w = v.widget; v"
OPEN = HOST + "v = lens(host, a, 0x4000, others=[b], xray=True); w = v.widget; v"
PENGUIN = """
from sevlab_widgets.lens import Eye, Lens
from sevlab.lab.picture import penguin
from sevlab.crypto import aes_ctr
p = penguin(width=64)
data = {"bus": aes_ctr(bytes(16), bytes(16), p)}
eyes = [Eye("guest", lambda h: p, "G", xray=True)]
w = Lens([*eyes, Eye("another engine", lambda h: bytes(b ^ 90 for b in p), "E"),
          Eye("the bus", lambda h: data["bus"], "B", verb="carries")],
         title="a penguin", opened=True)
w.choose("view", "picture"); w
"""


def test_one_address_through_every_eye(notebook, violations, shot):
    book = notebook(OPEN, width=1180)
    widget = book.widget()

    assert widget.locator(".sl-name").inner_text().startswith("gpa 0x4000 → hpa 0x")
    assert book.status().startswith("Block 0 of 256: vm-a reads “my pin is 4711!!”, vm-b reads noise, VMM's pointer reads ")
    assert widget.locator("svg").first.get_attribute("role") == "img"
    assert violations(book) == []
    shot(book, "lens")


def test_an_x_ray_is_closed_until_it_is_opened_and_that_leaves_a_row(notebook, shot, violations):
    book = notebook(LENS)
    widget = book.widget()
    count = "print(sum(row['kind'] == 'XrayTaken' for row in host.trace.rows()))"
    assert book.do(count) == "0\n"
    assert "vm-a is closed" in book.status()
    shot(book, "lens-closed")

    widget.locator(".sl-stage").focus()
    book.page.keyboard.press("Enter")
    book.page.wait_for_function("document.querySelector('.sl-status').innerText.includes('vm-a reads “my pin')")

    assert book.do(count) == "1\n"
    assert violations(book) == []


def test_ciphertext_moves_by_keyboard_and_the_guest_answers_at_once(notebook, violations, shot):
    book = notebook(OPEN)
    widget = book.widget()
    cells = "window.jupyterapp.shell.currentWidget.content.widgets.length"
    before = book.page.evaluate(cells)
    widget.locator(".sl-stage").focus()

    for key in ("h", "c", "ArrowDown", "ArrowDown"):
        book.page.keyboard.press(key)
        book.settle()
    assert book.status().startswith("Copy block 0: arrows choose the other block")
    shot(book, "lens-carry")
    book.page.keyboard.press("Enter")
    book.page.wait_for_function("document.querySelector('.sl-status').innerText.startsWith('Block 2 of 256: vm-a reads noise')")
    book.settle()
    assert book.do(
        "print(w.block, w.changed(2), host.journal[-1].what if hasattr(host.journal, '__getitem__') else '')"
    ).startswith("2 {2}")
    shot(book, "lens-moved")

    field = widget.get_by_label("Put back: as of entry")
    book.page.keyboard.press("p")
    field.fill(book.do("print(host.n - 1)").strip())
    field.press("Enter")
    book.page.wait_for_function("!document.querySelector('.sl-status').innerText.includes('vm-a reads noise')")
    for key in "abddx":
        widget.locator(".sl-stage").focus()
        book.page.keyboard.press(key)
    assert book.page.evaluate(cells) == before
    book.page.wait_for_function("document.querySelector('.sl-status').innerText.startsWith('Swap block')")
    field.fill("eight")
    field.press("Enter")
    widget.locator(".sl-error").wait_for()
    assert "'eight' is no entry: write it as" in widget.locator(".sl-error").inner_text()
    assert violations(book) == []


def test_a_block_is_dragged_onto_another(notebook):
    book = notebook(ALONE)
    widget = book.widget()
    book.settle(600)
    item = widget.locator('[data-key="the bus/1"]')
    box = item.bounding_box()

    book.page.mouse.move(box["x"] + 20, box["y"] + 8)
    book.page.mouse.down()
    book.page.mouse.move(box["x"] + 20, box["y"] + 8 + 3 * box["height"], steps=4)
    book.page.mouse.up()
    book.settle(400)

    assert book.do("bus = w.sights[2].data; print(w.block, bus[16:32] == bus[64:80])") == "4 True\n"


def test_pictures_and_their_difference(notebook, violations, shot):
    book = notebook(PENGUIN, width=1100)
    widget = book.widget()
    book.settle(300)
    shot(book, "lens-picture")
    box = widget.locator("image").nth(2).bounding_box()
    book.page.mouse.click(box["x"] + box["width"] * 0.6, box["y"] + box["height"] * 0.5)
    book.settle()
    assert book.do("print(w.block, w.eye)") == "130 2\n"

    widget.get_by_role("button", name="delta").click()
    book.settle()
    assert book.status().startswith("Nothing is held yet.")
    widget.get_by_role("button", name="Hold").click()
    book.do("d = bytearray(data['bus']); d[1000:1400] = bytes(400); data['bus'] = bytes(d); w.look()")
    book.settle(300)
    assert "the bus 26" in book.status()
    assert violations(book) == []
    shot(book, "lens-delta")


@pytest.mark.parametrize(("window", "size", "highest"), [(470, "S", 300), (1000, "M", 420), (1780, "L", 640)])
def test_three_sizes(notebook, violations, shot, window, size, highest):
    book = notebook(OPEN, width=window)
    widget = book.widget()
    assert widget.get_attribute("data-size") == size
    assert widget.bounding_box()["height"] <= highest
    assert book.page.evaluate("() => { const n = document.querySelector('.sl'); return n.scrollWidth <= n.clientWidth; }")
    assert violations(book) == []
    shot(book, f"lens-{size}", dark=False)


def test_no_page_is_a_sentence(notebook, violations, shot):
    book = notebook("from sevlab_widgets import Lens\nLens()")
    assert book.widget().locator(".sl-empty").inner_text() == "No page chosen. Give Lens a gpa, or click one in PageMap."
    assert violations(book) == []
    shot(book, "lens-empty")
