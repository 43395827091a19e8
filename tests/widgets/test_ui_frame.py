"""The frame in a real JupyterLab: time, keys, sizes, themes, reloads, floods."""

from __future__ import annotations

import json

import pytest

pytestmark = pytest.mark.ui

HOST = """
from sevlab_widgets import PageMap, AsidTimeline
host = Machine(4096)
for i in range(6):
    host.mark(64 * i, 64, 1 + i)
"""
MAP = HOST + "m = PageMap.of(host); m"


def cells(book):
    return book.page.locator(".jp-Notebook .jp-Cell").count()


def test_a_widget_is_drawn_with_its_title_status_and_controls(notebook, violations, shot):
    book = notebook(MAP)
    widget = book.widget()

    assert widget.locator(".sl-name").inner_text() == "machine memory"
    assert widget.locator(".sl-facts").inner_text() == "naples · linux-6.1 · seed 7"
    assert widget.locator(".sl-where").inner_text() == "entry 6 of 6"
    assert book.status().startswith("Page")
    assert violations(book) == []
    shot(book, "frame")


def test_walking_back_turns_the_frame_grey_and_one_button_returns(notebook, violations, shot):
    book = notebook(MAP)
    widget = book.widget()
    widget.locator(".sl-stage").focus()

    for _ in range(3):
        book.page.keyboard.press("[")
    book.page.wait_for_function("document.querySelector('.sl-past')?.innerText.includes('Entry 3 of 6, read only')")
    book.settle()
    assert book.do("print(m.entry, m.counts())") == "3 {'free': 3904, 'host': 64, 'shared': 64, 'private': 64, 'pinned': 0}\n"
    assert violations(book) == []
    shot(book, "frame-past")

    book.page.keyboard.press("]")
    book.page.wait_for_function("document.querySelector('.sl-past').innerText.includes('Entry 4 of 6')")
    widget.get_by_role("button", name="Back to now").click()
    book.page.wait_for_function("document.querySelector('.sl-where').innerText === 'entry 6 of 6'")
    book.settle()
    assert book.do("print(m.entry)") == "None\n"
    assert not widget.locator(".sl-past").is_visible()


def test_the_controls_step_run_reset_and_scrub(notebook):
    book = notebook(MAP)
    widget = book.widget()
    where = "text => document.querySelector('.sl-where').innerText === text"

    widget.get_by_role("button", name="Reset").click()
    book.page.wait_for_function(where, arg="entry 0 of 6")
    widget.get_by_role("button", name="Step", exact=True).click()
    book.page.wait_for_function(where, arg="entry 1 of 6")
    widget.get_by_role("button", name="Run to now").click()
    book.page.wait_for_function(where, arg="entry 6 of 6")
    widget.get_by_role("slider", name="Journal entry").focus()
    book.page.keyboard.press("ArrowLeft")
    book.page.wait_for_function(where, arg="entry 5 of 6")
    book.settle()
    assert book.do("print(m.entry)") == "5\n"


def test_reset_and_the_scrubber_end_where_the_host_was_made(notebook):
    made = "from types import SimpleNamespace\nhost.gate = SimpleNamespace(made=4, host=0)\n"
    book = notebook(HOST + made + "m = PageMap.of(host); m")
    widget = book.widget()
    where = "text => document.querySelector('.sl-where').innerText === text"

    widget.get_by_role("button", name="Reset").click()
    book.page.wait_for_function(where, arg="entry 4 of 6")
    widget.get_by_role("button", name="Step back").click()
    book.settle()
    assert book.page.evaluate(where, "entry 4 of 6") and book.do("print(m.entry)") == "4\n"
    assert widget.get_by_role("slider", name="Journal entry").get_attribute("min") == "4"
    assert not widget.locator(".sl-error").is_visible()


def test_no_key_reaches_the_notebook_and_escape_leaves(notebook):
    book = notebook(MAP)
    stage = book.widget().locator(".sl-stage")
    before = cells(book)

    stage.click(position={"x": 200, "y": 60})
    for key in "abdxmycv":
        book.page.keyboard.press(key)
    book.page.keyboard.press("d")
    book.page.keyboard.press("d")
    assert cells(book) == before
    assert book.page.evaluate("document.activeElement.className") == "sl-stage"

    book.page.keyboard.press("Escape")
    assert book.page.evaluate("document.activeElement.closest('.sl') === null")


def test_table_keys_and_files_are_a_key_away(notebook, violations, shot):
    book = notebook(MAP)
    widget = book.widget()
    widget.locator(".sl-stage").focus()

    book.page.keyboard.press("t")
    widget.locator("table").wait_for()
    assert widget.locator("tbody tr").count() == 7
    assert widget.locator("tbody tr").nth(1).inner_text().split("\t") == ["0x40", "64", "0x40000", "S", "shared", "", ""]
    assert violations(book) == []
    shot(book, "frame-table")
    book.page.keyboard.press("t")
    widget.locator("canvas").wait_for()
    book.page.keyboard.press("?")
    assert "Esc" in widget.locator(".sl-keys").inner_text()
    assert violations(book) == []
    shot(book, "frame-keys")
    book.page.keyboard.press("Escape")
    assert not widget.locator(".sl-keys").is_visible()

    for what, beginning in (("CSV", b"first page,pages"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        widget.locator("summary", has_text="Export").click()
        with book.page.expect_download() as download:
            widget.get_by_role("button", name=what, exact=True).click()
        assert download.value.suggested_filename == f"machine-memory.{what.lower()}"
        assert download.value.path().read_bytes().startswith(beginning)


def test_without_a_host_table_and_files_stand_below_the_keys(notebook, violations, shot):
    book = notebook("from sevlab_widgets import Layout\nw = Layout([('iv', bytes(range(16))), ('mac', bytes(32))]); w")
    widget = book.widget()
    widget.hover()
    assert not widget.locator(".sl-controls").is_visible() and not widget.locator(".sl-take").is_visible()

    widget.get_by_role("button", name="Keys").click()
    assert violations(book) == []
    shot(book, "frame-bare-keys")
    for what, beginning in (("CSV", b"offset,size,field"), ("SVG", b"<svg"), ("PNG", b"\x89PNG")):
        with book.page.expect_download() as download:
            widget.get_by_role("button", name=what, exact=True).click()
        assert download.value.suggested_filename == f"48-bytes.{what.lower()}"
        assert download.value.path().read_bytes().startswith(beginning)
    widget.get_by_role("button", name="Table", exact=True).click()
    widget.locator("tbody tr").nth(1).wait_for()
    assert widget.locator("tbody tr").count() == 2


def test_an_error_is_a_sentence_with_folded_details(notebook, violations, shot):
    book = notebook(HOST + "m = PageMap.of(host, on_enter=lambda page: int('no number')); m")
    widget = book.widget()
    widget.locator(".sl-stage").focus()

    book.page.keyboard.press("Enter")
    alert = widget.locator(".sl-error")
    alert.wait_for()
    assert alert.locator("p").inner_text() == "Enter raised ValueError: invalid literal for int() with base 10: 'no number'."
    assert not alert.locator("pre").is_visible()
    alert.locator("summary").click()
    assert "Traceback" in alert.locator("pre").inner_text()
    assert violations(book) == []
    shot(book, "frame-error")
    alert.get_by_role("button", name="Close").click()
    assert not alert.is_visible()


@pytest.mark.parametrize(("window", "size", "highest"), [(470, "S", 300), (1000, "M", 420), (1700, "L", 640)])
def test_a_widget_has_the_size_of_its_own_width(notebook, violations, shot, window, size, highest):
    book = notebook(MAP, HOST + "AsidTimeline.of(host)", width=window)
    for index in (0, 1):
        widget = book.widget(index)
        assert widget.get_attribute("data-size") == size
        box = widget.bounding_box()
        assert box["height"] <= highest
        assert book.page.evaluate("() => { const n = document.querySelector('.sl'); return n.scrollWidth <= n.clientWidth; }")
    assert violations(book) == []
    shot(book, f"frame-{size}", dark=False)


@pytest.mark.parametrize("window", [330, 380])
def test_in_a_narrow_window_the_way_back_keeps_its_words_inside_its_button(notebook, window):
    book = notebook(MAP, width=window)
    widget = book.widget()
    widget.locator(".sl-stage").focus()
    book.page.keyboard.press("[")
    back = widget.get_by_role("button", name="Back to now")
    back.wait_for()

    words = "b => { const r = document.createRange(); r.selectNodeContents(b); return r.getBoundingClientRect().right; }"
    box, card = back.bounding_box(), widget.bounding_box()
    assert back.evaluate(words) < box["x"] + box["width"] < card["x"] + card["width"]


def test_a_name_without_a_space_stays_in_its_card(notebook):
    long = "'x' * 300"
    lanes = f"Lanes([Line(1, {long}, 'b', 'call')], lifelines=[({long}, 'V'), ('b', 'K')])"
    book = notebook(f"{HOST}PageMap(count=64, title={long})", f"from sevlab_widgets.lanes import Lanes, Line\n{lanes}")

    for number in range(2):
        assert book.widget(number).evaluate("w => w.scrollWidth - w.clientWidth") <= 1


def test_a_widget_that_is_out_of_sight_when_it_is_made_is_drawn_at_its_width_when_it_comes_into_sight(notebook):
    book = notebook(HOST + "m = AsidTimeline.of(host); m", run=False)
    book.page.evaluate("document.head.insertAdjacentHTML('beforeend', '<style id=fold>.jp-Cell-outputArea{display:none}</style>')")
    book.run()
    book.page.wait_for_selector(".sl", state="attached")
    book.settle(600)
    assert book.do("print([width for width, size in m._views.values()])") == "[]\n"  # nobody asks for a picture of no width

    book.page.evaluate("document.querySelector('#fold').remove()")
    book.widget()
    book.page.wait_for_function("(document.querySelector('.sl-board > svg')?.getBoundingClientRect().width ?? 0) > 300")
    book.settle(300)
    [width] = json.loads(book.do("print([width for width, size in m._views.values()])"))
    assert width == book.page.evaluate("document.querySelector('.sl-stage').clientWidth")


def test_a_hand_on_the_scrubber_is_not_answered_one_by_one(notebook):
    slow = "import time\nseen, old = [], m.draw_at\n"
    slow += "def draw_at(n): seen.append(n); time.sleep(0.15); old(n)\nm.draw_at = draw_at; m"
    book = notebook(HOST + "for i in range(60): host.mark(i, 1, 2)\nm = PageMap.of(host)\n" + slow)
    slider = book.widget().get_by_role("slider", name="Journal entry")
    slider.focus()
    for _ in range(40):
        book.page.keyboard.press("ArrowLeft")
    book.page.wait_for_function("document.querySelector('.sl-where').innerText === 'entry 26 of 66'")
    book.page.wait_for_function("document.querySelector('.sl-past').innerText.includes('Entry 26 of 66')")
    book.settle(1200)

    said = json.loads(book.do("print(seen)"))
    assert said[-1] == 26 and len(said) < 20
    assert book.page.locator(".sl-where").inner_text() == "entry 26 of 66"


def test_a_reloaded_browser_tab_fills_itself_again(notebook):
    book = notebook(MAP)
    book.widget()
    book.save()
    book.do("host.mark(0, 4096, 3)")

    book.load()
    book.widget()

    assert book.page.locator(".sl-foot").inner_text().split() == ["P", "private", "4,096"]


def test_a_widget_whose_cell_is_still_running_is_drawn_and_moves(notebook):
    """Comms on the main thread: "ready" waits for the cell. The frames come without being asked."""
    book = notebook(
        HOST + "m = PageMap.of(host); display(m)\nimport time\nfor i in range(40):\n    time.sleep(0.1); host.mark(2000 + i, 1, 8)",
        run=False,
    )
    book.run(wait=False)

    book.widget()
    book.page.wait_for_function("document.querySelector('.sl-where')?.innerText !== 'entry 6 of 6'")
    busy = book.js("() => context().sessionContext.session.kernel.status")
    at = int(book.page.locator(".sl-where").inner_text().split()[1])

    assert busy == "busy" and 6 < at < 46
    book.page.wait_for_function("document.querySelector('.sl-where').innerText === 'entry 46 of 46'")


def test_three_thousand_changes_in_a_loop_lose_nothing_and_trip_no_limit(notebook):
    book = notebook(HOST + "m = PageMap.of(host); m")
    book.widget()

    said = book.do("for i in range(3000):\n    host.mark(i + 1000, 1, 1 + i % 8)\nprint('the loop said this')")
    book.page.wait_for_function("document.querySelector('.sl-where').innerText === 'entry 3006 of 3006'")
    book.settle(300)

    assert said == "the loop said this\n"
    assert "rate exceeded" not in book.page.locator(".jp-Notebook").inner_text()
    counts = json.loads(book.do("import json; print(json.dumps({k: v for k, v in m.counts().items() if v}))"))
    shown = {
        line.split("\n")[1]: int(line.split("\n")[2].replace(",", ""))
        for line in book.page.locator(".sl-foot > :visible").all_inner_texts()
    }
    assert shown == counts


def test_a_lost_message_is_noticed_and_made_good(notebook):
    book = notebook(HOST + "m = PageMap.of(host); m")
    book.widget()

    book.do("keep, m.send = m.send, lambda *a, **k: None\nhost.mark(4000, 96, 8)\nimport time; time.sleep(0.1)\nm.send = keep")
    book.page.wait_for_function("document.querySelector('.sl-foot').innerText.includes('96')", timeout=8000)


def test_with_reduced_motion_what_changed_keeps_its_outline(notebook):
    book = notebook("from sevlab_widgets import PageMap\nm = PageMap([3] * 64); m", reduced_motion="reduce")
    book.widget()
    ink = """() => {
        const c = document.querySelector('canvas'), d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
        let n = 0;
        for (let i = 0; i < d.length; i += 4) if (d[i] < 40 && d[i + 1] < 40 && d[i + 2] < 40 && d[i + 3] > 200) n++;
        return n;
    }"""
    before = book.page.evaluate(ink)

    book.do("m.set(20, state=3)")
    book.settle(2000)

    assert book.page.evaluate(ink) > before + 60


def test_the_dark_theme_is_followed_at_once(notebook):
    book = notebook(HOST + "m = AsidTimeline.of(host); m", HOST + "PageMap.of(host)")
    book.widget(0)
    book.widget(1)
    ground = "i => getComputedStyle(document.querySelectorAll('.sl')[i]).backgroundColor"
    pixel = """() => {
        const c = document.querySelector('canvas');
        return [...c.getContext('2d').getImageData(c.width - 60, c.height - 20, 1, 1).data];
    }"""
    light = [book.page.evaluate(ground, 0), book.page.evaluate(pixel)]

    book.theme("dark")
    dark = [book.page.evaluate(ground, 0), book.page.evaluate(pixel)]
    book.theme("light")

    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert [book.page.evaluate(ground, 0), book.page.evaluate(pixel)] == light


# ------------------------------------------------------------- comms on threads of their own


def test_on_subshells_callbacks_run_while_a_cell_runs(notebook, subshells):
    seen = "import threading, time\nseen, running = [], False\n"
    seen += "def enter(page): seen.append((running, threading.current_thread().name != 'MainThread'))\n"
    book = notebook(HOST + seen + "m = PageMap.of(host, on_enter=enter); m", on=subshells)
    book.widget().locator(".sl-stage").focus()

    book.do("running = True\nfor i in range(50):\n    time.sleep(0.1); host.mark(1000 + i, 1, 8)\nrunning = False", wait=False)
    book.settle(500)
    for _ in range(3):
        book.page.keyboard.press("Enter")
        book.page.keyboard.press("[")
        book.settle(200)
    book.page.wait_for_function("document.querySelector('.sl-past')?.innerText.includes('read only')")
    book.settle(5500)

    told = book.do(
        "print(len(seen), all(during and elsewhere for during, elsewhere in seen), host.n, m.entry, len(host.trace.watchers))"
    )
    assert told.split()[:3] == ["3", "True", "56"] and told.split()[4] == "1"
    assert int(told.split()[3]) < 56


def test_on_subshells_three_thousand_changes_lose_nothing(notebook, subshells):
    book = notebook(HOST + "m = PageMap.of(host); m", on=subshells)
    book.widget()

    said = book.do("for i in range(3000):\n    host.mark(i + 1000, 1, 1 + i % 8)\nprint('done')")
    book.page.wait_for_function("document.querySelector('.sl-where').innerText === 'entry 3006 of 3006'")

    assert said == "done\n"
