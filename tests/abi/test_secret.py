"""The table of launch secrets: sevctl's bytes, and tables that are damaged."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi.guid import guid
from sevlab.abi.secret import LUKS_KEY_GUID, SECRET_TABLE_GUID, SecretHeader, build_secret, parse_secret

# firmware.md 4.12 (c): the plaintext in sevctl's test of `secret build`.
SEVCTL = bytes.fromhex(
    "42f5741edd71664d963eef4287ff173b3a000000e5696873f084734992ec06879ce3da0b26000000"
    "4d592d4c554b532d50415353504852415345000000000000"
)
PASSPHRASE = b"MY-LUKS-PASSPHRASE"


def test_the_table_is_the_one_that_sevctl_makes() -> None:
    assert build_secret([(LUKS_KEY_GUID, PASSPHRASE)]) == SEVCTL
    assert build_secret({"736869e5-84f0-4973-92ec-06879ce3da0b": PASSPHRASE}) == SEVCTL
    assert parse_secret(SEVCTL) == [(LUKS_KEY_GUID, PASSPHRASE)]


def test_libvirts_full_extra_block_of_padding_does_no_harm() -> None:
    """firmware.md 4.11: virt-qemu-sev-validate adds sixteen bytes to a table that is aligned already."""
    assert parse_secret(SEVCTL + bytes(16)) == [(LUKS_KEY_GUID, PASSPHRASE)]


def test_a_table_without_entries_is_a_header_and_padding() -> None:
    assert build_secret([]) == SECRET_TABLE_GUID + b"\x14\0\0\0" + bytes(12)
    assert parse_secret(build_secret([])) == []


@given(st.lists(st.tuples(st.binary(min_size=16, max_size=16), st.binary(max_size=40)), max_size=5))
def test_what_was_built_parses_to_its_entries_in_order(entries: list[tuple[bytes, bytes]]) -> None:
    table = build_secret(entries)

    assert len(table) % 16 == 0
    assert parse_secret(table) == entries


def with_lengths(total: int, entry: int) -> bytes:
    return SecretHeader(SECRET_TABLE_GUID, total).pack() + SecretHeader(LUKS_KEY_GUID, entry).pack() + SEVCTL[40:]


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (b"", "SecretHeader takes 20 bytes, 0 are there"),
        (SEVCTL[:19], "SecretHeader takes 20 bytes, 19 are there"),
        (bytes(64), "its GUID is not there"),
        (with_lengths(19, 38), "says it has 19 bytes"),
        (with_lengths(65, 38), "says it has 65 bytes, 64 are there"),
        (with_lengths(0xFFFFFFFF, 38), "says it has 4294967295 bytes"),
        (with_lengths(58, 19), "says 19 bytes, 38 are left"),
        (with_lengths(58, 39), "says 39 bytes, 38 are left"),
        (with_lengths(58, 0), "says 0 bytes, 38 are left"),
        (with_lengths(58, 0xFFFFFFFF), "says 4294967295 bytes"),
        (with_lengths(58, 30), "ends inside an entry, 8 bytes before its end"),
    ],
)
def test_a_damaged_table_is_refused_with_what_is_wrong(table: bytes, verdict: str) -> None:
    with pytest.raises(ValueError, match=verdict):
        parse_secret(table)


@pytest.mark.parametrize("which", [b"", bytes(15), bytes(17), "not-a-guid"])
def test_an_entry_needs_a_guid(which: bytes | str) -> None:
    with pytest.raises(ValueError, match="GUID"):
        build_secret([(which, b"data")])


@given(st.binary(max_size=100), st.integers(0, 63), st.integers(0, 255))
def test_any_bytes_are_a_table_or_a_value_error(data: bytes, at: int, value: int) -> None:
    for table in (data, guid("1e74f542-71dd-4d66-963e-ef4287ff173b") + data, SEVCTL[:at] + bytes([value]) + SEVCTL[at + 1 :]):
        try:
            parse_secret(table)
        except ValueError:
            continue
