"""Bytes and rows as text."""

from __future__ import annotations

from typing import Annotated

import pytest

from sevlab.lab import Text, flip, hexdump, layout, table, verdicts
from sevlab.wire import Wire, u16


class Small(Wire):
    number: u16 = 0  # 0x00
    name: Annotated[bytes, 20] = b""  # 0x02


def test_a_title_stands_above_its_text() -> None:
    assert repr(Text("body", "head")) == "head\n\nbody"
    assert repr(Text("body")) == "body"


def test_a_hexdump_has_sixteen_bytes_a_row_and_dots_for_what_is_no_letter() -> None:
    lines = hexdump(b"hello, cloud\0\x01\xff~" + b"x", 0x1000).text.splitlines()

    assert lines == [
        "00001000  68 65 6c 6c 6f 2c 20 63  6c 6f 75 64 00 01 ff 7e  hello, cloud...~",
        "00001010  78                                                x",
    ]


def test_nothing_to_show_is_said_in_words() -> None:
    assert hexdump(b"").text == "(no bytes)"
    assert table([]).text == "(no rows)"


def test_a_table_puts_numbers_right_and_words_left() -> None:
    assert table([{"name": "a", "n": 5}, {"name": "bcd", "n": 100}]).text.splitlines() == [
        "name    n",
        "────  ───",
        "a       5",
        "bcd   100",
    ]


def test_a_row_without_a_column_of_the_first_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        table([{"a": 1}, {"b": 1}])


def test_a_layout_names_every_field_with_its_place_and_cuts_long_ones() -> None:
    text = repr(layout(Small(0x0102, bytes(range(20))), {"number": "how many"}))

    assert text.splitlines() == [
        "Small, 22 bytes",
        "",
        "offset  size  field   bytes                              what it is",
        "──────  ────  ──────  ─────────────────────────────────  ──────────",
        "0x00       2  number  0201                               how many",
        "0x02      20  name    000102030405060708090a0b0c0d0e0f…",
    ]


def test_a_layout_of_pairs_counts_the_places_itself() -> None:
    lines = repr(layout([("one", b"\1"), ("two", b"\2\3")])).splitlines()

    assert lines[0] == "3 bytes" and lines[-1].split() == ["0x01", "2", "two", "0203"]


def test_verdicts_are_wrapped_under_their_names() -> None:
    lines = verdicts({"short": "no", "long": "word " * 40}).text.splitlines()

    assert lines[:2] == ["short", "    no"]
    assert lines[2] == "long" and all(line.startswith("    word") and len(line) <= 92 for line in lines[3:])


def test_flipping_a_bit_twice_gives_the_bytes_back_and_once_changes_one() -> None:
    assert flip(b"\0\0", 9) == b"\0\2"
    assert flip(flip(b"abc", 17), 17) == b"abc"
    with pytest.raises(IndexError):
        flip(b"", 0)


def test_of_a_long_structure_only_the_fields_asked_for_are_shown_and_numbers_as_such() -> None:
    from sevlab.abi.ghcb import Ghcb

    request = Ghcb(sw_exit_code=0x72, rbx=0xBAD).mark("sw_exit_code")
    lines = repr(layout(request, only=("sw_exit_code", "rbx"), writers={"rbx": "G"})).splitlines()

    assert lines[2].split() == ["offset", "size", "field", "valid", "by", "value"]
    assert [line.split()[2:] for line in lines[4:]] == [["rbx", "○", "G", "0xbad"], ["sw_exit_code", "●", "0x72"]]


def test_a_second_structure_has_a_column_of_its_own() -> None:
    lines = repr(layout(Small(1), beside=Small(2), names=("before", "after"))).splitlines()

    assert lines[2].split()[3:] == ["before", "after"] and lines[4].split()[3:] == ["0100", "0200"]


def test_a_field_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="there is no field colour"):
        layout(Small(), only=("colour",))


def test_who_vouches_and_who_wrote_goes_to_the_picture() -> None:
    pytest.importorskip("sevlab_widgets")
    picture = layout(Small(1), valid={"number": True, "name": False}, writers={"number": "K"}, only=("number",)).widget

    assert [part.name for part in picture.parts] == ["number"]
    assert "written by K; its valid bit is set" in picture.say(picture.parts[0])


def test_bytes_without_a_structure_are_one_field() -> None:
    assert "0x00       3  bytes  616263" in repr(layout(b"abc")) and repr(layout(b"")).startswith("0 bytes")
