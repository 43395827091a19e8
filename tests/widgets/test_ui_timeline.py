"""AsidTimeline in a real JupyterLab."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

DAY = """
from sevlab_widgets import AsidTimeline, PageMap
import traitlets
host = Machine(4096)
for i in range(12):
    host.entry(("ProcessMade", {"pid": i + 1, "process": f"vm-{'abcdefghijkl'[i]}", "cgroup": f"/tenant-{'ab'[i % 2]}"}))
    if i < 10: host.take(6 + i, vm=i + 1, cgroup=f"/tenant-{'ab'[i % 2]}"); host.mark(100 * i, 100, 3, 6 + i)
    if i in (3, 5, 6): host.give(3 + i, vm=i - 2)
host.take(1, vm=20)
host.flush(3)
host.entry(("VmMade", {"vm": 30, "vm_type": 0, "pid": 1}), ("SevCommand", {"vm": 30, "id": 0, "errno": 16, "error": 0}))
chosen = []
line = AsidTimeline.of(host, on_select=chosen.append); line
"""


def test_the_timeline_is_drawn(notebook, violations, shot):
    book = notebook(DAY)
    widget = book.widget()

    assert widget.locator("[data-key]").count() > 15
    assert book.status().startswith("8 in use, 0 waiting for a flush, 7 free. 1 flush.")
    assert violations(book) == []
    shot(book, "timeline")


def test_click_and_arrows_select_a_vm(notebook, shot):
    book = notebook(DAY)
    widget = book.widget()

    widget.locator('[data-key^="VM 3, slot 8, in use"]').click()
    book.settle(300)
    assert book.do("print(line.slot, chosen)") == "8 ['VM 3']\n"
    assert book.status().startswith("Slot 8: vm-c has it, /tenant-a")
    assert "sl-lit" in widget.locator('[data-key^="VM 3, slot 8, in use"]').get_attribute("class")
    shot(book, "timeline-selected")

    book.page.keyboard.press("ArrowDown")
    book.settle(300)
    assert book.do("print(line.slot)") in ("9\n", "10\n")
    book.page.keyboard.press("Home")
    book.settle(300)
    assert book.do("print(line.slot)") == "6\n"


def test_a_picture_drawn_while_the_page_hid_it_has_its_ring_and_its_arrows_in_the_right_place(notebook):
    book = notebook(DAY)
    bar = book.widget().locator('[data-key^="VM 3, slot 8, in use"]')
    bar.click()
    book.settle(300)

    book.page.evaluate("document.querySelector('.sl').style.display = 'none'")  # as another tab does, and a change of theme
    before = book.page.locator(".sl").get_attribute("data-seq")
    book.do("host.flush(0)")
    book.page.wait_for_function("before => document.querySelector('.sl').dataset.seq !== before", arg=before)
    book.page.evaluate("document.querySelector('.sl').style.display = ''")
    book.page.locator(".sl-ring").wait_for()

    ring, shape = book.page.locator(".sl-ring").bounding_box(), bar.locator("rect").bounding_box()
    assert abs(ring["y"] - shape["y"]) < 6 and abs(ring["height"] - shape["height"]) < 9
    book.page.locator(".sl-stage").focus()
    book.page.keyboard.press("ArrowDown")
    assert book.page.locator(".sl-status").inner_text().startswith("Slot 9: ")


def test_a_picture_that_crossed_a_choice_does_not_undo_it(notebook):
    book = notebook(DAY)
    book.widget().locator('[data-key^="VM 3, slot 8, in use"]').click()
    book.settle(300)

    book.do("""
fields, buffers = line.full()
late = {**fields, "kind": "full", "seq": line._seq, "selected": None, "heard": {}}  # it left before the choice came
line.post(late, buffers); line.post({"kind": "selected", "value": None, "by": "", "heard": {}})""")
    book.page.mouse.move(0, 0)
    book.settle(300)
    assert book.status().startswith("Slot 8: vm-c has it")

    book.do("line.selected = None")  # heard of the choice, and says otherwise
    book.settle(300)
    assert book.status().startswith("8 in use")


def test_the_axis_counts_entries_when_asked_by_mouse_or_keyboard(notebook, shot):
    book = notebook(DAY)
    widget = book.widget()

    widget.get_by_role("button", name="entries").focus()
    book.page.keyboard.press("Enter")
    book.page.wait_for_function("document.querySelector('.sl svg').textContent.includes('entry 0')")

    assert widget.get_by_role("button", name="entries").get_attribute("aria-pressed") == "true"
    assert book.page.evaluate("document.activeElement.textContent") == "entries"
    shot(book, "timeline-entries")
    widget.locator(".sl-stage").focus()
    book.page.keyboard.press("a")
    book.page.wait_for_function("document.querySelector('.sl svg').textContent.includes(' ms')")
    assert book.do("print(line.chosen)") == "{'axis': 'virtual time'}\n"


def test_a_slot_can_be_followed_on_the_map(notebook):
    book = notebook(DAY, "m = PageMap.of(host); traitlets.link((line, 'slot'), (m, 'lit')); m")
    widget = book.widget(0)
    book.widget(1)

    widget.locator('[data-key^="VM 3, slot 8, in use"]').click()
    book.settle(400)

    assert book.do("print(m.lit)") == "8\n"


def test_the_past_is_a_line_that_the_scrubber_moves(notebook, violations, shot):
    book = notebook(DAY)
    widget = book.widget()

    widget.locator(".sl-stage").focus()
    for _ in range(12):
        book.page.keyboard.press("[")
    widget.locator(".sl-veil").first.wait_for()
    book.settle(300)

    assert violations(book) == []
    shot(book, "timeline-past")


def test_a_bar_can_be_dragged_and_nudged_where_the_notebook_listens(notebook):
    book = notebook("""
from sevlab_widgets import AsidTimeline
from sevlab_widgets.slots import Slots, When
starts = {"a": 3, "b": 5}
def plan():
    slots = Slots(5, [("SEV", 1, 5)])
    for i, (name, start) in enumerate(starts.items(), 1):
        slots.take(i, name, When(0, start)); slots.give_back(i, When(0, start + 6))
    slots.flush(When(0, 20))
    return slots
def move(name, start):
    starts[name] = start
    line.show(plan())
line = AsidTimeline(plan(), title="a day", on_move=move); line.choose("axis", "entries"); line""")
    widget = book.widget()
    bar = widget.locator('[data-drag="x"]').first
    box = bar.bounding_box()
    tick = box["width"] / 6

    book.page.mouse.move(box["x"] + 20, box["y"] + 5)
    book.page.mouse.down()
    book.page.mouse.move(box["x"] + 20 + 4 * tick, box["y"] + 5, steps=4)
    book.page.mouse.up()
    book.settle(400)
    assert book.do("print(starts)") == "{'a': 7, 'b': 5}\n"

    book.page.keyboard.press("Home")
    book.page.keyboard.press("Shift+ArrowRight")
    book.settle(400)
    assert book.do("print(starts)") == "{'a': 8, 'b': 5}\n"


def test_the_empty_timeline_says_whose_the_slots_are(notebook, violations, shot):
    book = notebook("from sevlab_widgets import AsidTimeline\nAsidTimeline.of(Machine())")
    widget = book.widget()

    assert (
        widget.locator(".sl-empty").inner_text()
        == "15 slots, none handed out. Slots 1 to 5 are for SEV-ES guests, 6 to 15 for SEV guests."
    )
    assert violations(book) == []
    shot(book, "timeline-empty")
