"""Lanes in a real JupyterLab."""

from __future__ import annotations

import pytest

pytestmark = pytest.mark.ui

LAUNCH = """
from sevlab import Host, guest, lab, owner, vmm
host = Host("naples", seed=7)
picture = lab.lanes(host)
picture
"""
ACT = """
session = owner.new_session(host.chain()["pdh"], 1, seed=1, trace=host.trace)
lab.attempt(vmm.launch, host, firmware=guest.firmware_image(), policy=0, session=session)
vm = vmm.launch(host, firmware=guest.firmware_image(), policy=1, session=session)
vm.finish()
"""
BIG = """
from sevlab_widgets.lanes import Lanes, Line
parties = [("owner", "O"), ("qemu", "V"), ("KVM", "K"), ("PSP", "P"), ("engine", "E"), ("guest", "G")]
names = [name for name, _ in parties]
big = Lanes([Line(i, names[i % 5], names[(i + 1) % 5], f"call {i}", "0" if i % 97 else "EBUSY", f"kind {i % 7}", not i % 97,
                  fields={"number": i}, data=bytes(range(48))) for i in range(100_000)], lifelines=parties)
big
"""
BESIDE = """
from sevlab import designs
two = Host("naples", designs.LINUX_6_12, seed=7)
for one in (host, two):
    vm = vmm.launch(one, firmware=guest.firmware_image(), policy=1, session=owner.new_session(one.chain()["pdh"], 1, seed=1))
lab.lanes(host, beside=two)
"""
SCHEDULES = """
from sevlab_widgets.lanes import Lanes, Line, Tile
def steps(schedule):
    return [Line(i, f"call {digit}", "KVM" if i % 3 else "", f"step {i}", "0", lock={1: 1, 5: 2}.get(i, 0))
            for i, digit in enumerate(schedule, 1)]
tiles = [Tile("A", ("done", "EBUSY"), 35, "1111222"), Tile("B", ("EBUSY", "done"), 34, "2221111"),
         Tile("C", ("waits for vm-b", "waits for vm-a"), 1, "1212121")]
picture = Lanes(schedules=tiles,
                on_pick=steps, lifelines=[("call 1", "V"), ("call 2", "V"), ("KVM", "K")], title="schedules")
picture
"""


def test_calls_become_arrows_live_and_are_walked_by_keyboard(notebook, shot):
    book = notebook(LAUNCH, width=1000)
    card = book.widget()
    book.do(ACT)
    book.settle(600)
    assert "2 refused" in book.status()
    card.locator(".sl-stage").focus()
    book.page.keyboard.press("Home")
    first = book.status()
    for _ in range(12):
        book.page.keyboard.press("ArrowDown")
    assert book.status() != first and book.status().startswith("Entry")
    card.get_by_label("Search the lines").fill("launch_start")
    book.settle(300)
    assert card.locator("output.sl-found").inner_text().endswith("of 96")
    book.page.keyboard.press("Enter")
    book.page.keyboard.press("Enter")
    book.settle(400)
    assert "kvm_sev_cmd" in card.locator(".sl-drawer").inner_text()
    shot(book, "lanes-drawer")
    book.page.keyboard.press("Enter")
    card.get_by_label("Search the lines").fill("")
    card.locator(".sl-stage").focus()
    book.page.keyboard.press("End")
    shot(book, "lanes")


def test_a_hundred_thousand_lines_scroll_and_only_the_visible_are_drawn(notebook, shot):
    book = notebook(BIG, width=1000)
    card = book.widget()
    assert "100,000 lines" in book.status()
    frames = book.page.evaluate(
        """async () => {
            const stage = document.querySelector('.sl-stage');
            const times = [];
            for (let i = 0; i < 60; i++) {
                const t = performance.now();
                stage.scrollTop = i * 37_777;
                await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
                times.push(performance.now() - t);
            }
            times.sort((a, b) => a - b);
            return [times[30], times[57]];
        }"""
    )
    assert frames[0] < 60, frames
    card.locator(".sl-stage").focus()
    book.page.keyboard.press("End")
    assert book.status() == "Entry 99999: engine to owner, call 99999: 0."
    card.get_by_role("button", name="Kinds").or_(card.get_by_text("Kinds")).first.click()
    card.get_by_label("kind 3").check()
    book.settle(300)
    assert card.locator("output.sl-found").inner_text() == "14286 of 100000"
    shot(book, "lanes-big")


def test_two_kernels_are_joined_at_their_common_beginning(notebook, shot):
    book = notebook("from sevlab import Host, guest, lab, owner, vmm\nhost = Host('naples', seed=7)", BESIDE, width=1700)
    card = book.widget()
    assert "then the kernels differ" in book.status()
    card.locator(".sl-stage").focus()
    for _ in range(30):
        book.page.keyboard.press("ArrowDown")
    shot(book, "lanes-beside")


def test_a_tile_of_the_schedules_shows_its_steps(notebook, shot, violations):
    book = notebook(SCHEDULES, LAUNCH, width=1000)
    card = book.widget()
    card.get_by_role("button", name="C 1 waits for vm-b").click()
    book.settle(400)
    assert book.do("print(picture.__class__.__name__)").strip() == "Story"
    assert card.locator(".sl-tile[aria-pressed=true]").inner_text().startswith("C")
    shot(book, "lanes-schedules")
    assert violations(book) == []
    book.theme("dark")
    assert violations(book) == []


def test_small_is_a_list(notebook, shot):
    book = notebook(LAUNCH, width=520)
    assert book.widget().get_attribute("data-size") == "S"
    shot(book, "lanes-S")
