"""CRC-64: the plain form, and the one for pages that are mostly zero."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlab.hw.crc import crc64, sparse_crc64


def test_the_check_value_of_the_catalogue_of_crcs() -> None:
    """CRC-64/ECMA-182 of "123456789", from Greg Cook's catalogue of parametrised CRC algorithms."""
    assert crc64(b"123456789") == 0x6C40DF5F0B497347


@settings(deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.integers(0, 503), st.integers(0, 2**64 - 1)), max_size=12))
def test_the_sparse_form_is_the_plain_one(words: list[tuple[int, int]]) -> None:
    page = bytearray(504 * 8)
    for at, word in words:
        page[8 * at : 8 * at + 8] = word.to_bytes(8, "big")

    assert sparse_crc64(page) == crc64(page)


@pytest.mark.parametrize("length", [1, 7, 9])
def test_the_sparse_form_takes_whole_words_only(length: int) -> None:
    with pytest.raises(ValueError, match="no whole words"):
        sparse_crc64(bytes(length))


def test_it_is_linear_so_it_is_no_signature() -> None:
    a, b = bytes(range(64)), bytes(range(64, 128))

    assert crc64(bytes(x ^ y for x, y in zip(a, b, strict=True))) == crc64(a) ^ crc64(b)
