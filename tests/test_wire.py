"""Wire: a structure declared once packs, unpacks, and refuses what C would cut in silence."""

from __future__ import annotations

import struct
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.wire import Field, Wire, i32, u8, u16, u32, u64


class Point(Wire):
    """Numbers alone."""

    x: u16 = 0
    y: u16 = 7


class Everything(Wire):
    """Every kind of field there is."""

    byte: u8 = 0
    signed: i32 = 0
    name: Annotated[bytes, 5] = b""
    corner: Point = Point(1, 2)
    words: Annotated[tuple[int, ...], u64, 3] = (0, 0, 0)
    last: u32 = 9


class Longer(Point):
    """A subclass: first the fields it has from above."""

    z: u32 = 0


# ------------------------------------------------------------------------- story


def test_a_structure_travels_as_the_bytes_that_its_annotations_say() -> None:
    point = Point(x=0x1234)
    assert point.pack() == bytes.fromhex("3412 0700")

    point.y = 0xABCD
    again = Point.unpack(b"--" + point.pack(), offset=2)

    assert again == point and again is not point
    assert repr(again) == "Point(x=0x1234, y=0xabcd)"


def test_the_layout_says_where_every_field_lies() -> None:
    assert list(Everything.LAYOUT) == [
        Field("byte", 0, 1, "u8"),
        Field("signed", 1, 4, "i32"),
        Field("name", 5, 5, "bytes"),
        Field("corner", 10, 4, "Point"),
        Field("words", 14, 24, "u64[3]"),
        Field("last", 38, 4, "u32"),
    ]
    assert Everything.SIZE == 42 and Everything.FORMAT.size == 42


def test_defaults_are_those_of_the_declaration_and_no_two_objects_share_them() -> None:
    first, second = Everything(), Everything()
    first.corner.x = 5

    assert second.corner == Point(1, 2)
    assert (second.name, second.words, second.last) == (bytes(5), (0, 0, 0), 9)


def test_load_reads_into_the_very_object_as_a_kernel_copies_back() -> None:
    everything = Everything()
    seen = everything
    everything.load(Everything(byte=3, name=b"abcde", words=(1, 2, 3)).pack())

    assert (seen.byte, seen.name, seen.words) == (3, b"abcde", (1, 2, 3))


def test_replace_makes_a_copy_and_leaves_the_original_alone() -> None:
    point = Point(1, 2)

    assert point.replace(y=3) == Point(1, 3)
    assert point == Point(1, 2)


def test_an_empty_byte_string_stands_for_zeros() -> None:
    assert Everything(name=b"").pack() == Everything(name=bytes(5)).pack()


def test_a_subclass_has_the_fields_above_it_first() -> None:
    assert Longer.NAMES == ("x", "y", "z") and Longer.SIZE == 8
    assert Longer(1, 2, 3).pack() == struct.pack("<HHI", 1, 2, 3)
    assert Longer.unpack(Longer(4).pack()) == Longer(4, 7, 0)


# -------------------------------------------------------------------------- laws

values = st.fixed_dictionaries(
    {
        "byte": st.integers(0, 0xFF),
        "signed": st.integers(-(1 << 31), (1 << 31) - 1),
        "name": st.binary(min_size=5, max_size=5),
        "corner": st.builds(Point, st.integers(0, 0xFFFF), st.integers(0, 0xFFFF)),
        "words": st.tuples(*[st.integers(0, (1 << 64) - 1)] * 3),
        "last": st.integers(0, (1 << 32) - 1),
    }
)


@given(values)
def test_what_was_packed_unpacks_to_the_same_values(fields: dict[str, Any]) -> None:
    wire = Everything(**fields)
    again = Everything.unpack(wire.pack())

    assert {name: getattr(again, name) for name in Everything.NAMES} == fields
    assert again == wire


@given(st.binary(min_size=Everything.SIZE, max_size=Everything.SIZE))
def test_any_bytes_of_the_right_length_unpack_and_pack_to_themselves(data: bytes) -> None:
    assert Everything.unpack(data).pack() == data
    assert Everything.unpack(memoryview(bytearray(data))).pack() == data


@given(st.binary(max_size=Everything.SIZE - 1), st.integers(0, 50))
def test_too_few_bytes_are_refused_at_any_offset(data: bytes, offset: int) -> None:
    with pytest.raises(ValueError, match="Everything takes 42 bytes"):
        Everything.unpack(data, offset)


@given(st.sampled_from(["byte", "signed", "last"]), st.integers(33, 70), st.booleans())
def test_a_number_too_large_for_its_field_is_refused_by_name(name: str, bits: int, negative: bool) -> None:
    wire = Everything(**{name: -(1 << bits) if negative else 1 << bits})

    with pytest.raises(ValueError, match=rf"Everything\.{name}: .* does not fit"):
        wire.pack()


# ---------------------------------------------------------------------- refusals


def test_a_negative_number_does_not_fit_an_unsigned_field() -> None:
    with pytest.raises(ValueError, match=r"Point\.x: -0x1 does not fit a u16"):
        Point(x=-1).pack()


def test_a_value_that_is_no_number_is_named() -> None:
    with pytest.raises(ValueError, match=r"Point\.y: '1' does not fit a u16"):
        Point(y="1").pack()  # type: ignore[arg-type]


def test_the_item_of_an_array_that_does_not_fit_is_named_by_its_field() -> None:
    with pytest.raises(ValueError, match=r"Everything\.words: 0x10000000000000000 does not fit a u64"):
        Everything(words=(0, 1 << 64, 0)).pack()


@pytest.mark.parametrize("length", [1, 4, 6])
def test_a_byte_string_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"name: {length} bytes in a 5-byte field"):
        Everything(name=bytes(length)).pack()


@pytest.mark.parametrize("count", [0, 2, 4])
def test_an_array_of_another_length_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"words: {count} items in an array of 3"):
        Everything(words=(0,) * count).pack()


def test_more_values_than_fields_are_refused() -> None:
    with pytest.raises(TypeError, match="Point has 2 fields, 3 values were given"):
        Point(1, 2, 3)  # type: ignore[call-arg]


def test_a_name_that_is_no_field_is_refused_when_making_and_when_replacing() -> None:
    with pytest.raises(TypeError, match="Point has no field 'z'; its fields are x, y"):
        Point(z=1)  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="Point has no field 'z'"):
        Point().replace(z=1)


def test_a_misspelt_attribute_is_refused_and_not_kept_beside() -> None:
    with pytest.raises(AttributeError):
        Point().z = 1  # type: ignore[attr-defined]


def test_an_annotation_that_is_no_wire_format_is_refused_when_the_class_is_made() -> None:
    with pytest.raises(TypeError, match=r"Wrong\.a: <class 'int'> is no wire format"):
        type("Wrong", (Wire,), {"__annotations__": {"a": int}, "__module__": __name__})


def test_structures_of_different_classes_are_never_equal_and_none_is_hashable() -> None:
    class Twin(Wire):
        x: u16 = 0
        y: u16 = 7

    assert Twin() != Point() and Point() != 7
    with pytest.raises(TypeError):
        hash(Point())
