"""Layout: fields decoded, changed, covered, compared and edited."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Annotated

import pytest
from sevlab_widgets.layout import Layout, Part, parse, parts_of
from sevlab_widgets.picture import width_of

from sevlab.wire import Wire, u32, u64


class Sample(Wire):
    """A structure of everything."""

    flags: u32 = 0  # 0x00
    pad: u32 = 0  # 0x04
    address: u64 = 0  # 0x08
    name: Annotated[bytes, 16] = b""  # 0x10
    mac: Annotated[bytes, 32] = b""  # 0x20


SVG = "{http://www.w3.org/2000/svg}"
FULL = Sample(flags=5, address=0x4000, name=b"vm-a".ljust(16, b"\0"), mac=bytes(range(32)))


def test_every_field_is_decoded_by_its_kind():
    layout = Layout(FULL)

    assert [layout.value(part) for part in layout.parts] == [
        "0x5",
        "0x0",
        "0x4000 (16,384)",
        "“vm-a”",
        "000102030405060708090a0b0c0d0e0f…",
    ]
    assert layout.title == "Sample, 64 bytes"


def test_a_changed_field_says_what_it_was():
    layout = Layout(FULL)
    layout.show(FULL.replace(flags=9))

    assert layout.says() == "Changed: flags." and "was 0x5" in layout.say(layout.parts[0])


def test_a_second_structure_marks_the_differences():
    layout = Layout(FULL, beside=FULL.replace(address=0), names=("yours", "the machine's"))

    assert layout.says() == "1 of 5 fields differ: address."
    layout.got_press("view-1", "compare")
    assert layout.says() == "5 fields, 64 bytes."


def test_an_empty_structure_says_who_wants_which_fields():
    layout = Layout(layout=Sample, wants=("flags", "name"), when="LAUNCH_START")

    assert layout.says() == "64 bytes, nothing in them yet; LAUNCH_START wants these two fields."
    assert layout.value(layout.parts[0]) == "–" and "-- --" in str(layout.picture(800, "M"))


def test_a_field_says_who_wrote_it_who_vouches_for_it_and_what_covers_it():
    layout = Layout(
        FULL,
        writers={"mac": "P"},
        valid={"flags": False, "mac": True},
        covers=[("the MAC", ("name",))],
        notes={"name": "whose it is"},
    )
    said = {part.name: layout.say(part) for part in layout.parts}

    assert said["mac"].endswith("written by P; its valid bit is set.")
    assert said["flags"].endswith("nobody vouches for it.")
    assert said["name"].endswith("whose it is; under the MAC.")


def test_pairs_of_names_and_bytes_are_a_layout_too():
    layout = Layout([("version", b"\x04\x00"), ("digest", bytes(32))])

    assert [(part.name, part.offset, part.size) for part in layout.parts] == [("version", 0, 2), ("digest", 2, 32)]
    assert layout.size == 34


def test_reserved_fields_are_known_by_their_names():
    assert [part.name for part in parts_of(Sample) if part.reserved] == ["pad"]


def test_arrows_walk_the_fields():
    layout = Layout(FULL)
    for key in ("ArrowDown", "ArrowDown", "End", "ArrowDown", "ArrowUp"):
        layout.got_walk("view-1", key)
    assert layout.selected == "name"
    layout.got_select("view-1", "hex mac")
    assert layout.part.name == "mac"


def test_a_field_is_written_through_the_notebook():
    written = []
    layout = Layout(FULL, write=lambda name, value: written.append((name, value)))
    layout.got_press("view-1", "write", "0x10")
    layout.got_select("view-1", "name")
    layout.got_press("view-1", "write", "00" * 16)

    assert written == [("flags", 16), ("name", bytes(16))]


@pytest.mark.parametrize(
    ("part", "text", "said"),
    [
        (Part("flags", 0, 4, "u32"), "0x100000000", "does not fit"),
        (Part("flags", 0, 4, "u32"), "-1", "does not fit"),
        (Part("flags", 0, 4, "u32"), "len('x')", "is no number"),
        (Part("mac", 0, 2), "zz", "are no bytes"),
        (Part("mac", 0, 2), "00", "has 2 bytes"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(part, text, said):
    with pytest.raises(ValueError, match=said):
        parse(part, text)


def test_a_cover_of_an_unknown_field_is_refused():
    with pytest.raises(ValueError, match="there is no field nonce"):
        Layout(FULL, covers=[("the MAC", ("nonce",))])


def test_a_text_given_is_what_describe_says():
    assert Layout(FULL, text="as checked").describe() == "as checked"


def test_a_large_structure_leaves_dull_rows_out():
    big = Layout([("head", b"\x01" * 16), ("reserved", bytes(4000)), ("tail", b"\x02" * 80)])

    assert float(ET.fromstring(str(big.picture(800, "M"))).get("height")) < 400


@pytest.mark.parametrize(("width", "size"), [(300, "S"), (800, "M"), (1600, "L")])
def test_every_size_is_a_picture(width, size):
    layout = Layout(
        FULL, beside=FULL.replace(flags=1), covers=[("the MAC", ("name", "flags"))], writers={"mac": "P"}, valid={"mac": True}
    )
    ET.fromstring(str(layout.picture(width, size)))


# ------------------------------------------------------------- what is cut, and where


LONG = "made by the owner for this one launch, because without it an old session could be replayed to the firmware"


def ends(picture):
    """Where each text ends, as far as its letters tell."""
    found = {}
    for text in ET.fromstring(str(picture)).iter(f"{SVG}text"):
        style, size = text.get("class"), float(text.get("font-size"))
        wide = len(text.text) * 0.602 * size if "mono" in style else width_of(text.text, size) * 1.08
        if "end" not in style and "middle" not in style:
            found[text.text] = float(text.get("x")) + wide
    return found


@pytest.mark.parametrize(("width", "size"), [(374, "S"), (560, "M"), (700, "M"), (874, "M"), (1474, "L")])
@pytest.mark.parametrize("beside", [None, FULL.replace(flags=6)], ids=["alone", "compared"])
def test_no_text_passes_the_right_edge_and_a_long_note_is_wrapped(width, size, beside):
    layout = Layout(FULL, notes={"mac": LONG, "flags": LONG}, covers=[("HEADER_MAC", ("flags", "address"))], beside=beside)
    found = ends(layout.picture(width, size))

    assert {text: end for text, end in found.items() if end > width + 1} == {}
    assert sum(text in LONG or text.rstrip("…") in LONG for text in found) >= 2
    assert LONG in layout.say(layout.parts[0])


def test_where_there_is_no_room_for_both_the_list_stands_below_the_hex():
    def tops(width):
        [hexed], [listed] = (
            [item for item in ET.fromstring(str(Layout(FULL).picture(width, "M"))).iter(f"{SVG}g") if item.get("data-key") == key]
            for key in ("hex flags", "mac")
        )
        return [float(item.find(f"{SVG}rect").get("y")) for item in (hexed, listed)]

    assert tops(874)[1] < 5 * 19 < tops(600)[1]


def test_on_a_phone_the_bytes_are_there_on_demand():
    layout = Layout(FULL)
    assert 'data-key="hex flags"' not in str(layout.picture(374, "S"))

    layout.choose("show", "hex")
    small = layout.picture(374, "S")
    assert 'data-key="hex flags"' in str(small) and max(ends(small).values()) < 375
    with pytest.raises(ValueError, match="no option"):
        layout.got_choose("", "show", "letters")


def test_every_gap_in_a_long_structure_is_marked_where_it_is():
    layout = Layout([("a", bytes(300)), ("b", b"\1" * 16), ("reserved", bytes(400)), ("c", b"\2" * 16)])
    marks = [float(text.get("y")) for text in ET.fromstring(str(layout.picture(874, "M"))).iter(f"{SVG}text") if "⋮" in text.text]

    assert len(marks) == len(set(marks)) > 1


def test_enter_edits_and_a_name_in_a_sentence_is_a_field():
    layout = Layout(FULL, write=lambda name, value: None)

    assert [act.key for act in layout.acts()] == ["Enter"]
    assert layout.find("the field “address” above") == "address" and layout.find("nothing of it") == "nothing of it"


@pytest.mark.parametrize(("width", "size"), [(300, "S"), (800, "M"), (1100, "L"), (1700, "L")])
def test_a_second_structure_that_is_equal_says_so_in_the_picture(width, size):
    one = Layout([("a", b"12"), ("b", b"3")], beside=b"123", names=("yours", "theirs"))
    assert "theirs: the same 3 bytes." in str(one.picture(width, size))

    one.beside(b"124")
    assert "the same" not in str(one.picture(width, size))


@pytest.mark.parametrize(
    ("other", "says"),
    [(b"\x01\x02\x03\x04", "536d544d"), (b"key1", "“SmTM”"), (bytes(4), "“SmTM”"), (b"longer\x01\x02", "“SmTM”")],
)
def test_bytes_are_text_only_where_all_fields_of_their_size_are(other, says):
    one = Layout([("a", b"SmTM"), ("b", other)])

    assert one.value(one.parts[0]) == says
