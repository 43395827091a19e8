"""The table of kernel hashes: QEMU's bytes, and tables that are damaged."""

from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi.hashes import HashEntry, kernel_hashes, parse_hashes

# firmware.md 5.4: the table that sev-snp-measure and QEMU make of these three.
KERNEL, INITRD, APPEND = b"kernel-image-bytes", b"initrd-bytes", "console=ttyS0"
TABLE = bytes.fromhex(
    "06d63894224fc94cb479a793d411fd21a800d82dd09720bd944caa78e7714d36ab2a3200f18aae9b3c09e55bc3047ad361e2442d7c53372470b2958fb83293"
    "209a784f7131f7ba442f3ad74b9af141e29169781d3200ca17bed8bc4079637fa3d2a691a5174d7a4f6b9787b196222b7b18062755c99a3794e74dd2ab7f42"
    "b835d5b172d2045b32005ac2acb04754f42100509c99e489d9cf32c1fd07e0989a567ea0abad3e1f5cfb0000000000000000"
)


def test_the_table_is_the_one_that_real_tools_make() -> None:
    assert kernel_hashes(KERNEL, INITRD, APPEND) == TABLE
    assert kernel_hashes(KERNEL, INITRD, APPEND.encode()) == TABLE


def test_firmware_and_table_hash_to_the_digest_that_libvirt_accepts(ovmf: bytes) -> None:
    """firmware.md 4.12 (f), the row with kernel hashes."""
    assert sha256(ovmf + TABLE).hexdigest() == "da3f4a7f7dc99b4ab54dca5442042f8a6385154b2b2a0ddf384fe6d6254296e8"


def test_an_empty_line_is_one_zero_byte_and_no_initrd_is_an_empty_one() -> None:
    hashes = parse_hashes(kernel_hashes(KERNEL))

    assert hashes.cmdline == sha256(b"\0").digest() and hashes.initrd == sha256(b"").digest()
    assert kernel_hashes(KERNEL, None, "") == kernel_hashes(KERNEL, b"", b"")


@given(st.binary(max_size=50), st.binary(max_size=50), st.text(max_size=20))
def test_what_was_built_parses_to_its_hashes(kernel: bytes, initrd: bytes, append: str) -> None:
    table = kernel_hashes(kernel, initrd, append)

    assert len(table) == 176
    assert parse_hashes(table) == (sha256(append.encode() + b"\0").digest(), sha256(initrd).digest(), sha256(kernel).digest())
    assert parse_hashes(table + b"whatever follows") == parse_hashes(table)


def test_a_missing_entry_is_none_and_the_order_does_not_matter() -> None:
    head, cmdline, kernel = TABLE[:18], TABLE[18:68], TABLE[118:168]
    short = head[:16] + (18 + 100).to_bytes(2, "little") + kernel + cmdline
    hashes = parse_hashes(short)

    assert hashes.initrd is None and hashes.kernel == kernel[18:] and hashes.cmdline == cmdline[18:]


@pytest.mark.parametrize(
    ("table", "verdict"),
    [
        (b"", "its GUID is not there"),
        (bytes(176), "its GUID is not there"),
        (TABLE[:17], "its GUID is not there"),
        (TABLE[:100], "says it has 168 bytes, 100 are there"),
        (TABLE[:16] + b"\x11\0" + TABLE[18:], "says it has 17 bytes"),
        (TABLE[:16] + b"\xff\xff" + TABLE[18:], "says it has 65535 bytes"),
        (TABLE[:16] + b"\xb0\0" + TABLE[18:], "ends inside an entry, 8 bytes before its end"),
        (TABLE[:34] + b"\x31\0" + TABLE[36:], "says 49 bytes, an entry has 50"),
        (TABLE[:34] + b"\0\0" + TABLE[36:], "says 0 bytes, an entry has 50"),
    ],
)
def test_a_damaged_table_is_refused_with_what_is_wrong(table: bytes, verdict: str) -> None:
    with pytest.raises(ValueError, match=verdict):
        parse_hashes(table)


@given(st.binary(max_size=200), st.integers(0, 175), st.integers(0, 255))
def test_any_bytes_are_a_table_or_a_value_error(data: bytes, at: int, value: int) -> None:
    for table in (data, TABLE[:16] + data, TABLE[:at] + bytes([value]) + TABLE[at + 1 :]):
        try:
            parse_hashes(table)
        except ValueError:
            continue


def test_an_entry_has_fifty_bytes() -> None:
    assert HashEntry.SIZE == HashEntry().len == 50
