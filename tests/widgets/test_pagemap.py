"""PageMap: what it says, what it refuses, what it leaves behind where no front end runs."""

from __future__ import annotations

import io

import numpy as np
import pytest
from sevlab_widgets import Kind, PageMap

MILLION = 1 << 20


@pytest.mark.parametrize(
    "make",
    [
        lambda: PageMap(),
        lambda: PageMap([]),
        lambda: PageMap([0, 9]),
        lambda: PageMap([0], kinds=[Kind("x", "x", "#000000", 0)] * 16),
        lambda: PageMap(count=4).set(3, 2, state=1),
        lambda: PageMap(count=4).set(-1, 2, state=1),
        lambda: PageMap(count=4).set(0, 0, state=1),
        lambda: PageMap(count=4).set(0, 1, state=9),
        lambda: PageMap(count=4).show([0, 0]),
        lambda: PageMap([1], owner=-1),
        lambda: PageMap([1], pins=[1 << 16]),
    ],
    ids=[
        "no pages",
        "an empty list",
        "no such state",
        "sixteen kinds",
        "beyond the end",
        "before the beginning",
        "no page",
        "state 9",
        "another size",
        "an owner below 0",
        "more pins than there can be",
    ],
)
def test_what_is_no_map_is_refused(make):
    with pytest.raises(ValueError):
        make()


def test_a_refused_change_leaves_the_map_as_it_was():
    pages = PageMap(count=4)

    with pytest.raises(ValueError):
        pages.set(2, 5, state=3)

    assert pages.counts() == {"free": 4, "pinned": 0}


# ------------------------------------------------------------- in words


def test_the_map_says_what_it_shows():
    pages = PageMap([0, 1, 3, 3, 8], owner=[0, 0, 6, 6, 6], pins=[0, 0, 1, 2, 0], title="guest memory", facts=("vm-a",))

    assert (
        pages.describe()
        == "guest memory · vm-a: 5 pages (20 KiB). . free 1, h host 1, P private 2, ! no longer reads what it wrote 1; pinned 2."
    )


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        (0, "Page 0x100 at 0x100000: . free."),
        (1, "Page 0x101 at 0x101000: P private, slot vm-a, pinned, slot 0."),
        (2, "Page 0x102 at 0x102000: P private, slot 7, pinned 3 times."),
    ],
)
def test_a_page_is_one_sentence(page, sentence):
    pages = PageMap(
        [0, 3, 3], owner=[0, 6, 7], pins=[0, 1, 3], first=0x100, regions=[(1, 1, "slot 0")], owners={6: "vm-a"}, word="slot"
    )

    assert pages.page(page) == sentence


def test_the_selected_page_is_part_of_the_description():
    pages = PageMap([0, 3])
    pages.selected = 1

    assert pages.describe().endswith("Page 0x1 at 0x1000: P private.")


def test_the_table_has_a_row_for_each_run():
    heads, rows = PageMap([0, 0, 3, 3, 3, 1], owner=[0, 0, 6, 6, 6, 0], pins=[0, 0, 1, 1, 1, 0], word="slot").table()

    assert heads == ["first page", "pages", "address", "letter", "state", "slot", "pins"]
    assert rows == [
        ["0x0", 2, "0x0", ".", "free", "", ""],
        ["0x2", 3, "0x2000", "P", "private", 6, 1],
        ["0x5", 1, "0x5000", "h", "host", "", ""],
    ]


def test_an_empty_map_says_which_act_fills_it(machine):
    assert PageMap.of(machine(4 * MILLION)).empty == "16 GiB, nothing touched. The first memory slot draws itself here."
    assert PageMap([0, 3]).empty == ""


def test_enter_is_the_notebook_s_business_and_its_errors_are_ours(sent):
    asked = []
    pages = PageMap(count=8, on_enter=lambda page: asked.append(page) or 1 // 0)
    messages = sent(pages)

    pages.got_enter("view-1", 5)

    assert asked == [5]
    assert messages[-1][0]["say"].startswith("Enter raised ZeroDivisionError")


# ------------------------------------------------------------- without a front end


def test_a_live_widget_leaves_a_small_picture_however_large_the_map():
    states = np.random.default_rng(1).integers(0, 9, MILLION).astype("u1")

    data, metadata = PageMap(states)._repr_mimebundle_()

    assert len(data["image/png"]) <= 4096
    assert metadata["image/png"]["alt"] == data["text/plain"]


def test_the_static_picture_is_the_map_itself(monkeypatch):
    monkeypatch.setenv("SEVLAB_STATIC", "1")
    states = np.full(MILLION, 3, "u1")
    states[654_321] = 8

    data, _ = PageMap(states)._repr_mimebundle_()

    assert set(data) == {"text/plain", "image/png"}
    assert b"\xd5\x5e\x00" in data["image/png"]  # the palette has vermilion ...
    image = pytest.importorskip("matplotlib.image")  # ... and so has one cell
    pixels = (image.imread(io.BytesIO(data["image/png"]), format="png")[..., :3] * 255).round().astype(int)
    assert (pixels == (0xD5, 0x5E, 0x00)).all(axis=2).sum() == 25


def test_the_exported_picture_stands_alone():
    svg = PageMap([0, 1, 2, 3], title="four <pages>").svg()

    assert svg.startswith("<svg") and "four &lt;pages&gt;" in svg
    assert 'href="data:image/png' in svg and "http" not in svg.replace("http://www.w3.org/2000/svg", "")
