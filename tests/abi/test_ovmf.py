"""The table at the end of a firmware image: Debian's real one, ours, and any bytes at all."""

from __future__ import annotations

import struct
from hashlib import sha256
from pathlib import Path

import judges
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi import ovmf as abi
from sevlab.abi.guid import guid
from sevlab.abi.ovmf import Area, Ovmf, Section, build_table, describe, hash_area, parse, reset_block, secret_area, with_table

VECTOR = bytes(range(32))  # stands for the reset vector
ENTRIES = [reset_block(0x0080B004), secret_area(0x810000, 0xC00), hash_area(0x810C00, 0x400)]


def image(table: bytes, size: int = 4096) -> bytes:
    return (table + VECTOR).rjust(size, b"\xf4")


def everything(ovmf: Ovmf) -> None:
    """Ask for all there is."""
    assert ovmf.gpa + ovmf.size == 1 << 32
    describe(ovmf)
    for ask in ("reset_block", "secret_area", "hash_area", "metadata"):
        try:
            getattr(ovmf, ask)
        except ValueError as error:
            assert str(error)


# -------------------------------------------------------------- vectors: Debian's images


def test_debians_ovmf_says_what_the_specification_says_it_says(ovmf: bytes) -> None:
    """firmware.md 5.3, ovmf 2022.11-6+deb12u2: reset block, two areas of size zero, five sections."""
    assert sha256(ovmf).hexdigest() == judges.OVMF_SHA256
    found = parse(ovmf)

    assert found.size == 2 << 20 and found.gpa == 0xFFE00000
    assert found.reset_block == 0x0080B004
    assert found.secret_area == found.hash_area == (0, 0)
    assert found.metadata == [
        Section(0x800000, 0x9000, 1),
        Section(0x80A000, 0x3000, 1),
        Section(0x80D000, 0x1000, 2),
        Section(0x80E000, 0x1000, 3),
        Section(0x80F000, 0x11000, 1),
    ]


def test_debians_4m_image_starts_aps_elsewhere_and_has_no_snp_metadata() -> None:
    path = Path("/usr/share/OVMF/OVMF_CODE_4M.fd")
    if not path.is_file():
        judges.absent(f"{path} is not installed (Debian: ovmf)")
    found = parse(path.read_bytes())

    assert sha256(found.image).hexdigest().startswith("b157d97b")
    assert found.reset_block == 0x00808004 and found.metadata is None


def test_every_name_in_debians_table_is_one_we_have_a_word_for(ovmf: bytes) -> None:
    assert {name for name, _ in describe(parse(ovmf))} <= set(abi.GUID_NAMES.values())


# ---------------------------------------------------------------------------------- ours


def test_a_table_that_was_built_is_read_back() -> None:
    found = parse(image(build_table(ENTRIES)))

    assert found.reset_block == 0x0080B004
    assert found.secret_area == Area(0x810000, 0xC00) and found.hash_area == Area(0x810C00, 0x400)
    assert found.metadata is None and len(found.table) == 3


def test_a_table_put_into_an_image_leaves_size_and_reset_vector_alone() -> None:
    before = image(b"", 65536)
    after = with_table(before, ENTRIES)

    assert len(after) == len(before) and after[-32:] == before[-32:]
    assert after[-48:-32] == guid("96b582de-1fb2-45f7-baea-a366c55a082d")
    assert parse(after).reset_block == 0x0080B004


def test_metadata_are_found_from_the_end_of_the_image() -> None:
    sections = struct.pack("<4s3I", b"ASEV", 40, 1, 2) + struct.pack("<6I", 0x800000, 0x9000, 1, 0x80D000, 0x1000, 2)
    tail = build_table([(abi.SEV_METADATA_GUID, struct.pack("<I", 0x400))])
    data = bytearray(image(tail))
    data[-0x400 : -0x400 + len(sections)] = sections

    assert parse(data).metadata == [Section(0x800000, 0x9000, 1), Section(0x80D000, 0x1000, 2)]


def test_of_two_entries_with_one_name_the_later_counts_as_qemu_meets_it_first() -> None:
    assert parse(image(build_table([reset_block(1), reset_block(2)]))).reset_block == 2


def test_an_old_image_has_its_reset_block_where_the_footer_would_be() -> None:
    """firmware.md 5.3, legacy fallback: four bytes of address, the length, the GUID."""
    old = struct.pack("<IH", 0x00801234, 22) + abi.SEV_ES_RESET_BLOCK_GUID

    found = parse(image(old))
    assert found.reset_block == 0x00801234 and found.secret_area is None


@given(st.dictionaries(st.binary(min_size=16, max_size=16), st.binary(max_size=40), max_size=6), st.integers(0, 500))
def test_any_table_that_was_built_is_read_back_whole(entries: dict[bytes, bytes], front: int) -> None:
    table = build_table(entries.items())

    assert parse(bytes(front) + table + VECTOR).table == entries


# ------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("size", [0, 1, 32, 48, 49, 50, 4096])
def test_an_image_without_a_table_says_nothing_and_is_no_error(size: int) -> None:
    found = parse(bytes(size))

    assert found.table == {}
    assert found.reset_block is found.secret_area is found.hash_area is found.metadata is None


@pytest.mark.parametrize("length", [0, 17, 4096, 0xFFFF])
def test_a_footer_whose_length_points_outside_the_image_is_refused(length: int) -> None:
    footer = struct.pack("<H", length) + abi.TABLE_FOOTER_GUID

    with pytest.raises(ValueError, match=f"says it has {length} bytes"):
        parse(image(footer))


@pytest.mark.parametrize("length", [0, 17, 23, 0xFFFF])
def test_the_walk_ends_at_an_entry_whose_length_makes_no_sense(length: int) -> None:
    good, bad = build_table([secret_area(1, 2)])[:-18], bytes(4) + struct.pack("<H", length) + abi.SEV_ES_RESET_BLOCK_GUID
    length_of_all = len(good) + len(bad) + 18
    footer = struct.pack("<H", length_of_all if length != 23 else len(bad) + 18) + abi.TABLE_FOOTER_GUID

    assert parse(image(bad + good + footer if length != 23 else bad + footer)).reset_block is None


@pytest.mark.parametrize(
    ("entry", "ask"),
    [
        ((abi.SEV_ES_RESET_BLOCK_GUID, b"\1\2\3"), "reset_block"),
        ((abi.SEV_SECRET_GUID, bytes(7)), "secret_area"),
        ((abi.SEV_HASH_TABLE_GUID, b""), "hash_area"),
        ((abi.SEV_METADATA_GUID, b"\0"), "metadata"),
    ],
)
def test_an_entry_that_is_too_short_hurts_only_who_asks_for_it(entry: tuple[bytes, bytes], ask: str) -> None:
    found = parse(image(build_table([entry])))

    with pytest.raises(ValueError, match=r"bytes, \d are needed"):
        getattr(found, ask)
    assert not any(getattr(found, other) for other in ("reset_block", "secret_area", "hash_area", "metadata") if other != ask)


@pytest.mark.parametrize(
    ("offset", "header"),
    [
        (0x400, b"VESA" + struct.pack("<3I", 16, 1, 0)),
        (0x400, b"ASEV" + struct.pack("<3I", 16, 2, 0)),
        (0x400, b"ASEV" + struct.pack("<3I", 16, 1, 1)),
        (0x400, b"ASEV" + struct.pack("<3I", 0xFFFFFFFF, 1, 0x10000000)),
        (0x1001, b""),
        (0xFFFFFFFF, b""),
        (0, b""),
        (8, b""),
    ],
)
def test_metadata_that_are_not_there_or_too_many_are_refused(offset: int, header: bytes) -> None:
    data = bytearray(image(build_table([(abi.SEV_METADATA_GUID, struct.pack("<I", offset))])))
    if header:
        data[-offset : -offset + len(header)] = header

    with pytest.raises(ValueError, match="SEV metadata"):
        _ = parse(data).metadata


@pytest.mark.parametrize("entry", [(bytes(15), b""), (bytes(16), bytes(0x10000)), (b"", b"data")])
def test_an_entry_that_no_table_can_hold_is_refused(entry: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match="an entry has a GUID of 16 bytes"):
        build_table([entry])


def test_a_table_above_64_kib_is_refused_and_so_is_an_image_too_small() -> None:
    with pytest.raises(ValueError, match="a table has at most 65535 bytes"):
        build_table([(bytes(16), bytes(0x8000))] * 2)
    with pytest.raises(ValueError, match="no room for a table of 92"):
        with_table(bytes(100), ENTRIES)


@given(st.binary(max_size=300))
def test_any_bytes_are_an_image_or_a_value_error(data: bytes) -> None:
    whole = struct.pack("<H", len(data) + 18) + abi.TABLE_FOOTER_GUID
    for tail in (data, data + whole, data + abi.TABLE_FOOTER_GUID, data + abi.SEV_ES_RESET_BLOCK_GUID):
        try:
            found = parse(tail + VECTOR)
        except ValueError as error:
            assert "table says it has" in str(error)
        else:
            everything(found)


@given(st.integers(0, 4095), st.binary(min_size=1, max_size=64))
def test_a_good_image_with_bytes_overwritten_is_read_or_refused_and_never_a_crash(at: int, garbage: bytes) -> None:
    tail = build_table([*ENTRIES, (abi.SEV_METADATA_GUID, struct.pack("<I", 0x400))])
    data = bytearray(image(tail))
    data[-0x400 : -0x400 + 16] = struct.pack("<4s3I", b"ASEV", 16, 1, 0)
    data[at : at + len(garbage)] = garbage
    try:
        everything(parse(data[:4096]))
    except ValueError as error:
        assert "table says it has" in str(error)
