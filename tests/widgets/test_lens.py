"""Lens: what each eye sees, what is held, and what moves."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from sevlab_widgets.lens import Eye, Lens, in_words
from sevlab_widgets.lens_picture import columns_of
from sevlab_widgets.picture import width_of

TEXT = b"my pin is 4711!!" + bytes(16) + b"hello, cloud...." + bytes(4096 - 48)
NOISE = bytes((i * 73 + 41) % 256 for i in range(4096))


def lens(**keywords):
    eyes = [Eye("vm-a", lambda host: TEXT, "G", xray=True), Eye("the bus", lambda host: NOISE, "B", verb="carries")]
    return Lens(eyes, **{"where": "gpa 0x4000", "opened": True, **keywords})


def test_the_status_line_says_what_every_eye_sees():
    assert lens().describe() == "gpa 0x4000. Block 0 of 256: vm-a reads “my pin is 4711!!”, the bus carries 29 72 bb 04 …"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(16), "zeros"),
        (b"hello, cloud....", "“hello, cloud....”"),
        (bytes(range(128, 144)), "noise"),
        (b"\x01" + bytes(15), "01 00 00 00 …"),
    ],
)
def test_sixteen_bytes_in_words(data, words):
    assert in_words(data) == words


def test_an_x_ray_is_not_looked_through_before_somebody_opens_it():
    looks = []
    closed = Lens([Eye("guest", lambda host: looks.append(1) or TEXT, xray=True)])

    assert looks == [] and closed.sights[0].why == "closed" and "guest is closed" in closed.says()
    closed.got_act("view-1", "guest/0")
    assert closed.sights[0].data == TEXT and looks == [1]


def test_the_eyes_are_asked_again_when_the_host_has_done_something_and_not_after_a_look(machine):
    host, looks = machine(), []
    seen = Lens([Eye("bus", lambda at: looks.append(at) or TEXT)], host=host)
    looks.clear()

    seen.full()
    assert looks == []
    host.mark(1, 1, 1)
    seen.full()
    seen.full()
    assert looks == [host]


def test_what_an_eye_cannot_see_is_a_sentence_and_no_exception():
    def refused(host):
        raise OSError(14, "no page is there")

    blind = Lens([Eye("vm-b", refused), Eye("vm-c", lambda host: None)])

    assert blind.sights[0].why == "[Errno 14] no page is there" and blind.sights[1].data is None
    ET.fromstring(str(blind.picture(800, "M")))


def test_delta_marks_every_block_that_differs_from_the_held_one():
    data = bytearray(NOISE)
    seen = Lens([Eye("bus", lambda host: bytes(data), "B")])
    seen.got_press("view-1", "hold")
    data[100] ^= 1
    data[4095] ^= 1
    seen.look()

    assert seen.changed(0) == {6, 255}
    seen.choose("view", "delta")
    seen.walk("End")
    assert seen.says() == f"Blocks that differ from those held: bus 2. {seen.say(255)}"


def test_delta_without_a_hold_says_how_to_hold():
    seen = lens()
    seen.choose("view", "delta")

    assert seen.says().startswith("Nothing is held yet. Hold (h)")


def test_copy_and_swap_carry_a_block_to_another_one():
    calls = []
    seen = lens(moves={"copy": lambda *args: calls.append(("copy", *args)), "swap": lambda *args: calls.append(("swap", *args))})
    seen.got_press("view-1", "copy")
    seen.got_walk("view-1", "ArrowDown")
    seen.got_walk("view-1", "ArrowDown")
    assert seen.says().startswith("Copy block 0: arrows choose the other block")
    seen.got_act("view-1", seen.selected)
    seen.got_press("view-1", "swap")
    seen.got_walk("view-1", "End")
    seen.got_act("view-1", seen.selected)

    assert calls == [("copy", 0, 32), ("swap", 32, 4080)] and seen.carried is None


def test_pressing_the_same_move_again_puts_the_block_down():
    seen = lens(moves={"copy": lambda *args: pytest.fail("nothing was to be copied")})
    seen.got_press("view-1", "copy")
    seen.got_press("view-1", "copy")

    assert seen.carried is None


def test_in_the_past_no_ciphertext_moves_by_hand_or_by_key(machine):
    host = machine()
    host.mark(0, 1, 1)
    host.mark(1, 1, 1)
    seen = lens(moves={"copy": lambda *args: pytest.fail("it is over")}, host=host)
    assert 'data-drag="y"' in str(seen.picture(900, "M"))

    seen.entry = 1
    seen.got_drop("view-1", "the bus/0", 0, 200)
    seen.got_press("view-1", "copy")

    assert seen.carried is None and "data-drag" not in str(seen.picture(900, "M"))


@pytest.mark.parametrize("text", ["eight", "", "0x", "1 + 1", "__import__('os')"])
def test_an_address_is_parsed_and_never_evaluated(text, sent):
    seen = lens(moves={"remap": lambda hpa: pytest.fail("nothing was to be mapped")})
    messages = sent(seen)
    seen.got_press("view-1", "remap", text)

    assert "is no address" in next(content["say"] for content, _ in messages if content["kind"] == "error")


def test_the_cursor_stays_inside_and_the_window_follows():
    seen = lens()
    for key in ("ArrowUp", "ArrowLeft", "PageUp"):
        seen.got_walk("view-1", key)
    assert (seen.block, seen.eye) == (0, 0)
    seen.got_walk("view-1", "End")
    assert seen.block == 255 and "0xff0" in str(seen.picture(800, "M"))


def test_an_unknown_move_is_refused():
    with pytest.raises(ValueError, match="a lens can copy, swap"):
        lens(moves={"decrypt": print})


def test_no_page_is_a_sentence():
    assert Lens().describe().endswith("No page chosen. Give Lens a gpa, or click one in PageMap.")


def test_the_table_has_every_block():
    heads, rows = lens().table()

    assert heads[:4] == ["block", "offset", "vm-a", "vm-a, text"] and len(rows) == 256 and rows[2][3] == "hello, cloud...."


@pytest.mark.parametrize(("width", "size", "high"), [(300, "S", 150), (800, "M", 280), (1600, "L", 480)])
@pytest.mark.parametrize("view", ["bytes", "picture", "delta"])
def test_every_size_and_view_is_a_picture_that_fits(width, size, high, view):
    seen = lens()
    seen.got_press("view-1", "hold")
    seen.choose("view", view)
    picture = ET.fromstring(str(seen.picture(width, size)))

    assert float(picture.get("height")) <= high and float(picture.get("width")) == width


def gappy(**keywords):
    """An eye that holds a text in its first line of 64 bytes, and nothing else."""
    held = Eye("host line", lambda host: TEXT[:128], "V", verb="holds", dirty=lambda host: [0], gaps=lambda host: [64])
    return Lens([held, Eye("the bus", lambda host: NOISE[:128], "B", verb="carries")], **keywords)


def test_an_eye_that_holds_a_part_says_nothing_of_the_rest():
    lens = gappy()

    assert "host line holds “my pin is 4711!!”" in lens.say(0) and "host line holds nothing there" in lens.say(4)
    assert lens.block_of(0, 3) is not None and lens.block_of(0, 4) is None and lens.block_of(1, 4) == NOISE[64:80]
    assert lens.table()[1][4][2:4] == ["", ""]
    assert str(lens.picture(800, "M")).count(">nothing<") == 4


@pytest.mark.parametrize(("width", "size"), [(720, "M"), (900, "M"), (1160, "L")])
def test_an_eye_s_note_does_not_touch_its_name(width, size):
    eyes = [Eye(name, lambda host: TEXT, "G", True, "C = 1") for name in ("an instruction fetch", "through the key", "it")]
    drawn = ET.fromstring(str(Lens(eyes, opened=True).picture(width, size)))
    texts = [text for text in drawn.iter("{http://www.w3.org/2000/svg}text") if text.text]
    names = {name.name: next((text for text in texts if text.text == name.name), None) for name in eyes}
    notes = [float(text.get("x")) for text in texts if text.text == "C = 1"]

    assert len(notes) == 3 and all(text is not None for text in names.values())
    for name, note in zip(names, notes, strict=True):
        size_of = float(names[name].get("font-size") or 12)
        assert note - float(names[name].get("x")) > width_of(name, size_of) * 1.2


@pytest.mark.parametrize(("width", "eyes", "shown"), [(705, 3, 3), (1100, 4, 4), (1100, 5, 4), (640, 3, 2), (1700, 5, 5)])
def test_as_many_eyes_stand_beside_each_other_as_can_be_read(width, eyes, shown):
    made = Lens([Eye(f"eye {i}", lambda host: NOISE) for i in range(eyes)])

    columns = columns_of(made, width, "M" if width <= 1000 else "L")
    assert columns.count == shown and columns.gutter + columns.count * columns.wide - 0.75 * columns.type < width


@pytest.mark.parametrize(("view", "lines"), [("bytes", 2), ("picture", 1)])
def test_a_closed_eye_says_no_more_than_its_strip_has_room_for(view, lines):
    closed = Lens([Eye("guest", lambda host: TEXT, xray=True), Eye("the bus", lambda host: NOISE[:64])], across=64)
    closed.chosen["view"] = view
    said = str(closed.picture(720, "M"))

    assert said.count(">closed: Enter opens it<") + said.count(">and leaves a row in the trace<") == lines
