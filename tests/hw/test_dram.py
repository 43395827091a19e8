"""DRAM: raw bytes at physical addresses, and nowhere else."""

from __future__ import annotations

import pytest

from sevlab.hw.dram import Dram

SIZE = 0x10000


def test_memory_is_zero_and_keeps_what_is_written() -> None:
    dram = Dram(SIZE)
    assert dram.read(0, SIZE) == bytes(SIZE)
    dram.write(0x1FFD, b"across a page")
    assert dram.read(0x1FFD, 13) == b"across a page"
    assert dram.read(0x1FFC, 1) == b"\0"
    assert len(dram) == dram.size == SIZE


def test_a_view_is_the_memory_itself() -> None:
    dram = Dram(SIZE)
    view = dram.view(0x2000, 0x100)
    view[:5] = b"hello"
    assert dram.read(0x2000, 5) == b"hello"
    dram.write(0x20FF, b"!")
    assert view[0xFF] == ord("!")
    assert len(view) == 0x100


def test_what_was_read_does_not_change_with_the_memory() -> None:
    dram = Dram(SIZE)
    before = dram.read(0, 4)
    dram.write(0, b"new!")
    assert before == bytes(4)


@pytest.mark.parametrize("data", [b"bytes", bytearray(b"bytes"), memoryview(b"bytes")])
def test_any_kind_of_bytes_can_be_written(data: bytes) -> None:
    dram = Dram(SIZE)
    dram.write(SIZE - 5, data)
    assert dram.read(SIZE - 5, 5) == b"bytes"


def test_zeroing_clears_a_range() -> None:
    dram = Dram(1 << 20)
    dram.write(0, b"\xff" * (1 << 20))
    dram.zero(0x1000, 0x80000)
    dram.zero(0, 3)
    assert dram.read(0, 0x1000) == bytes(3) + b"\xff" * 0xFFD
    assert dram.read(0x1000, 0x80000) == bytes(0x80000)
    assert dram.read(0x81000, 16) == b"\xff" * 16


def test_the_last_byte_is_inside_and_an_empty_range_may_stand_at_the_end() -> None:
    dram = Dram(SIZE)
    dram.write(SIZE - 1, b"z")
    assert dram.read(SIZE - 1, 1) == b"z"
    assert dram.read(SIZE, 0) == b""
    dram.write(SIZE, b"")


@pytest.mark.parametrize(("hpa", "n"), [(SIZE, 1), (SIZE - 1, 2), (-1, 1), (-1, 2), (0, SIZE + 1), (1 << 60, 1)])
def test_a_range_outside_is_refused_in_one_clear_sentence(hpa: int, n: int) -> None:
    dram = Dram(SIZE)
    calls = (
        lambda: dram.read(hpa, n),
        lambda: dram.write(hpa, bytes(n)),
        lambda: dram.view(hpa, n),
        lambda: dram.zero(hpa, n),
        lambda: dram.check(hpa, n),
    )
    for call in calls:
        with pytest.raises(ValueError, match="are not inside the 0x10000 bytes of DRAM"):
            call()
    assert dram.read(0, SIZE) == bytes(SIZE)


@pytest.mark.parametrize("hpa", [0, 5, SIZE])
def test_a_negative_length_is_refused(hpa: int) -> None:
    dram = Dram(SIZE)
    for call in (dram.read, dram.view, dram.zero):
        with pytest.raises(ValueError, match="not inside"):
            call(hpa, -1)


@pytest.mark.parametrize("size", [0, -4096, 1, 4095, 4097])
def test_a_size_that_is_no_whole_number_of_pages_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match="whole pages"):
        Dram(size)


def test_the_spare_room_behind_the_memory_cannot_be_reached() -> None:
    dram = Dram(SIZE)
    with pytest.raises(ValueError):
        dram.view(SIZE - 8, 16)
