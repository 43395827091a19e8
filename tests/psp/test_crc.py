"""The check value of an encrypted register page."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sevlab.psp.crc import crc64


def test_the_check_value_of_the_standard_text() -> None:
    """Origin: the catalogue of parametrised CRC algorithms, CRC-64/ECMA-182, check = 6c40df5f0b497347."""
    assert crc64(b"123456789") == 0x6C40DF5F0B497347


@given(st.binary(min_size=1, max_size=64), st.data())
def test_any_one_bit_changed_changes_the_value(text: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(text) - 1))
    changed = bytearray(text)
    changed[bit // 8] ^= 1 << bit % 8

    assert crc64(changed) != crc64(text)


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_a_crc_is_linear_which_is_why_it_is_no_mac(a: bytes, b: bytes) -> None:
    size = max(len(a), len(b))
    a, b = a.ljust(size, b"\0"), b.ljust(size, b"\0")

    assert crc64(bytes(x ^ y for x, y in zip(a, b, strict=True))) == crc64(a) ^ crc64(b)
