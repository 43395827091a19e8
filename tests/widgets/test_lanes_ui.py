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
    parties = card.locator(".sl-chips button").all_inner_texts()
    assert any("KVM" in name for name in parties) and not any("bus" in name for name in parties)  # nobody has looked at the bus
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
    assert {"id", "data", "error", "sev_fd"} <= set(card.locator(".sl-moved").inner_text().split())  # a small Layout
    assert card.bounding_box()["height"] <= 420
    shot(book, "lanes-drawer")
    here = int(book.status().split()[1].rstrip(":"))
    card.locator(".sl-stage").focus()
    book.page.keyboard.press("g")
    book.page.wait_for_function("here => document.querySelector('.sl-where').innerText.startsWith(`entry ${here} of`)", arg=here)
    card.get_by_role("button", name="Back to now").click()
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


LOCKS = """
from sevlab_widgets.lanes import Lanes, Line
def trace(*steps):
    return [Line(i, *step[:2], f"step {i}", "0", lock=step[2] if len(step) > 2 else 0) for i, step in enumerate(steps, 1)]
both = [("a", "", 1), ("b", "", 4), ("a", "K")]
one, two = trace(*both, ("a", "", 2), ("b", "", 1)), trace(*both, ("K", "a"), ("K", "b"))
parties = [("a", "V"), ("b", "P"), ("K", "K")]
side = Lanes(one, against=two, names=("one", "two"), lifelines=parties)
alone = Lanes(one, lifelines=parties)
same = Lanes(one, against=one, lifelines=parties)
display(side, alone, same)
"""


def pixels(book, colour, index):
    """How many pixels of a canvas have this colour exactly, a list by columns of a twelfth of its width."""
    return book.page.evaluate(
        """([index, [r, g, b]]) => {
            const c = document.querySelectorAll('.sl canvas')[index], found = new Array(12).fill(0);
            const d = c.getContext('2d').getImageData(0, 60, c.width, c.height - 60).data;
            for (let i = 0; i < d.length; i += 4)
                if (d[i] === r && d[i + 1] === g && d[i + 2] === b) found[Math.floor(12 * ((i / 4) % c.width) / c.width)]++;
            return found;
        }""",
        [index, list(colour)],
    )


def test_a_held_lock_is_coloured_on_both_sides_and_under_the_cursor(notebook, shot):
    book = notebook(LOCKS, width=1000)
    book.widget(2)
    orange = (0xE6, 0x9F, 0x00)

    alone, side, same = (pixels(book, orange, index) for index in (1, 0, 2))
    assert sum(alone) > 200  # the lifeline of `a`, from its first line to its fourth
    assert sum(side[:6]) > 20 and sum(side[6:]) > 20 and sum(side[6:]) != sum(side[:6])  # given back on the left, kept on the right
    assert sum(same) == sum(alone)
    assert "the kernels differ" not in book.status(2)

    book.page.locator(".sl-stage").nth(1).focus()
    for _ in range(3):
        book.page.keyboard.press("ArrowDown")
    book.settle(200)
    assert sum(pixels(book, orange, 1)) >= 0.8 * sum(alone)
    shot(book, "lanes-locks")
    shot(book, "lanes-locks-alone", 1)


def test_a_new_line_keeps_an_outline_where_motion_is_not_wanted(notebook):
    book = notebook(LAUNCH, width=1000, reduced_motion="reduce")
    card = book.widget()
    ink = """() => { // pixels near the light theme's accent
        const c = document.querySelector('.sl canvas'), d = c.getContext('2d').getImageData(0, 60, c.width, c.height - 60).data;
        const far = (i) => Math.abs(d[i] - 0x19) + Math.abs(d[i + 1] - 0x76) + Math.abs(d[i + 2] - 0xd2);
        let n = 0;
        for (let i = 0; i < d.length; i += 4) if (far(i) < 12) n++;
        return n; }"""
    before = book.page.evaluate(ink)

    book.do("host.process('vm-z')")
    card.locator(".sl-stage").focus()
    book.page.keyboard.press("End")
    book.settle(1600)  # longer than a glow
    assert book.page.evaluate(ink) > before + 500


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


def test_escape_in_the_search_brings_every_line_back(notebook):
    book = notebook(LAUNCH, width=1000)
    card = book.widget()
    book.do(ACT)
    found, search = card.locator("output.sl-found"), card.get_by_label("Search the lines")
    search.fill("no such call")
    found.filter(has_text="none of").wait_for()
    search.press("Escape")
    book.page.wait_for_function("document.querySelector('output.sl-found').textContent === ''")

    assert search.input_value() == ""
    search.press("ArrowDown")
    card.locator(".sl-status", has_text="Entry").wait_for()
