"""Svg: well-formed, escaped, the same live and in a file."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sevlab_widgets import Drawing
from sevlab_widgets.drawing import Choice
from sevlab_widgets.picture import Svg, fit, width_of, wrap

TEXT = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=30)


@given(TEXT, TEXT, TEXT)
def test_any_text_is_escaped_everywhere(title, key, say):
    svg = Svg(100, 50)
    with svg.item(key, say=say):
        svg.text(1, 2, title)

    for text in (str(svg), svg.file(title, [say])):
        ET.fromstring(text)


def test_what_is_inside_an_item_is_its_own():
    svg = Svg(10, 10)
    with svg.item("a", say="This is a.", act=True, drag="x"):
        svg.rect(0, 0, 5, 5, "box")

    [group] = [one for one in ET.fromstring(str(svg)).iter() if one.get("data-key")]
    assert (group.get("data-say"), group.get("data-act"), group.get("data-drag")) == ("This is a.", "1", "x")
    assert len(list(group)) == 1


def test_an_xray_frame_and_a_defect_s_tag_say_what_they_are():
    svg = Svg(200, 100)
    svg.xray(0, 0, 100, 40)
    svg.tag(0, 80, "as shipped, see J26")

    texts = [text.text for text in ET.fromstring(str(svg)).iter("{http://www.w3.org/2000/svg}text")]
    assert texts == ["x-ray", "as shipped, see J26"]


@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40), st.floats(0, 300))
def test_a_fitted_text_fits(text, room):
    shown = fit(text, room)

    assert width_of(shown) <= room + 1e-9
    assert shown in ("", text) or (shown.endswith("…") and text.startswith(shown[:-1].rstrip()))


def test_a_negative_size_is_drawn_as_none():
    svg = Svg(10, 10)
    svg.rect(5, 5, -3, -1)

    assert 'width="0" height="0"' in str(svg)


class Switch(Drawing):
    choices = (Choice("unit", "Unit", ("pages", "bytes")),)

    def picture(self, width, size):
        svg = Svg(width, 30)
        with svg.item("box", say=f"One box, {self.chosen['unit']}, {size}."):
            svg.rect(0, 0, width / 2, 20, "box")
        return svg

    def act(self, key):
        raise PermissionError("not yours")


def test_each_width_in_use_gets_a_picture_of_its_own(sent):
    switch = Switch(title="switch")
    sent(switch, width=500)
    switch.got_ready("view-2", 360, "S")

    fields, buffers = switch.full()

    assert fields["widths"] == [360, 500] and len(buffers) == 2


def test_a_choice_changes_the_picture_and_the_frame(sent):
    switch = Switch(title="switch")
    messages = sent(switch)
    messages.clear()

    switch.got_choose("view-1", "unit", "bytes")

    assert [content["kind"] for content, _ in messages] == ["frame", "delta"]
    assert messages[0][0]["choices"] == [["unit", "Unit", ("pages", "bytes"), "bytes"]]


def test_an_act_that_fails_is_said_in_the_widget(sent):
    switch = Switch(title="switch")
    messages = sent(switch)

    switch._receive(switch, {"kind": "act", "view": "view-1", "key": "box"}, [])

    assert messages[-1][0]["say"].endswith("raised PermissionError: not yours.")


@pytest.mark.parametrize("size", ["S", "M", "L"])
def test_a_drawing_has_one_size_for_each_view(sent, size):
    switch = Switch(title="switch")
    sent(switch, width=640, size=size)

    assert switch.sizes() == [(640, size)]


def test_a_long_text_is_wrapped_and_cut_only_after_the_last_line():
    text = "one two three four five six seven eight nine ten eleven twelve"

    assert " ".join(wrap(text, 150, 12, 9)) == text and max(width_of(line) for line in wrap(text, 150, 12, 9)) <= 150
    assert len(wrap(text, 150)) == 2 and wrap(text, 150)[1].endswith("…") and wrap("", 150) == []
    assert wrap("Donaudampfschiffahrtsgesellschaft", 60)[0].endswith("…")


@pytest.mark.parametrize("text", ["\x00\x1b[31m", "\ufffe", "\ud800", "]]>", "a\tb"])
def test_a_text_that_xml_has_no_letters_for_is_a_picture_all_the_same(text):
    svg = Svg(100, 20)
    with svg.item(text, say=text):
        svg.text(0, 12, text)

    drawn = ET.fromstring(svg.file(text, [text]).encode())
    item = next(one for one in drawn.iter() if "data-key" in one.attrib)
    assert len(item.attrib["data-say"]) == len(text) and drawn.find("{*}title") is not None
