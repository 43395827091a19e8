"""GUIDs in memory are mixed-endian; the standard library's uuid is the judge."""

from __future__ import annotations

import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi.guid import guid, guid_text


@given(st.uuids())
def test_a_guid_lies_in_memory_as_uuid_says_and_comes_back(value: uuid.UUID) -> None:
    assert guid(str(value)) == value.bytes_le
    assert guid_text(value.bytes_le) == str(value)


@pytest.mark.parametrize(
    "text", ["", "1e74f542", "1e74f542-71dd-4d66-963e-ef4287ff173", "1e74f54271dd4d66963eef4287ff173b", "x" * 36, " " * 36]
)
def test_what_is_no_guid_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no GUID"):
        guid(text)


def test_letters_that_are_no_hex_digits_are_refused() -> None:
    with pytest.raises(ValueError, match="is no GUID"):
        guid("ge74f542-71dd-4d66-963e-ef4287ff173b")


@pytest.mark.parametrize("length", [0, 15, 17])
def test_bytes_of_another_length_are_refused(length: int) -> None:
    with pytest.raises(ValueError, match=f"takes 16 bytes, {length} are there"):
        guid_text(bytes(length))
