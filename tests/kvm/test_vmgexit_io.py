"""Ports and devices through the GHCB: scratch areas, strings in pieces, accesses that the next KVM_RUN completes."""

from __future__ import annotations

from collections.abc import Callable
from errno import EFAULT, EINVAL

import pytest
from kvm.vmgexits import GHCB, SCRATCH, Asks, request
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_RUN,
    kvm_run_io,
    kvm_run_mmio,
)
from sevlab.kvm import designs

SCRATCH_AREA, INPUT = 3, 5

STRING_OUT = 0x3F8 << 16 | 1 << 4 | 4 | 8
STRING_IN = STRING_OUT | 1


@pytest.mark.parametrize(
    "scratch, count",
    [(0, 1), ((1 << 64) - 8, 16), (GHCB, 1), (GHCB + 0x7FF, 1), (GHCB + 0xFF0, 1), (GHCB + 0x800, 2033), (SCRATCH, 0x10001)],
)
def test_a_scratch_area_that_is_none_is_answered(rig: Rig, scratch: int, count: int) -> None:
    assert Asks(rig, request(0x7B, STRING_OUT, count, sw_scratch=scratch)).ask() == (2, SCRATCH_AREA)


@pytest.mark.parametrize("scratch, count", [(GHCB + 0x800, 2032), (GHCB + 0xFEF, 1), (SCRATCH, 0x10000), (SCRATCH + 0xFFF, 2)])
def test_a_scratch_area_up_to_its_borders_is_taken(rig: Rig, scratch: int, count: int) -> None:
    assert Asks(rig, request(0x7B, STRING_OUT, count, sw_scratch=scratch)).run() == KVM_EXIT_IO


def test_a_scratch_area_without_memory_ends_the_run(rig: Rig) -> None:
    with refuses(EFAULT):
        Asks(rig, request(0x7B, STRING_OUT, 1, sw_scratch=0x7000_0000)).run()


@pytest.mark.parametrize("scratch, answer", [(SCRATCH, (2, SCRATCH_AREA)), (GHCB + 0x800, None)])
def test_version_2_wants_the_scratch_area_inside_the_page(
    make_rig: Callable[..., Rig], scratch: int, answer: tuple[int, int] | None
) -> None:
    guest = Asks(make_rig(designs.LINUX_6_12), request(0x7B, STRING_OUT, 1, sw_scratch=scratch))
    rig_sev = guest.rig.file(guest.vm).sev
    rig_sev.ghcb_version = 2

    if answer is None:
        assert guest.run() == KVM_EXIT_IO
    else:
        assert guest.ask() == answer


@pytest.mark.parametrize("count", [1 << 31, 1 << 63])
def test_a_string_longer_than_an_integer_ends_the_run(rig: Rig, count: int) -> None:
    with refuses(EINVAL):
        Asks(rig, request(0x7B, STRING_OUT, count, sw_scratch=SCRATCH)).run()


def test_a_string_whose_bytes_overflow_ends_the_run(rig: Rig) -> None:
    with refuses(EINVAL):
        Asks(rig, request(0x7B, 0x3F8 << 16 | 4 << 4 | 4, 1 << 30, sw_scratch=SCRATCH)).run()


@pytest.mark.parametrize("info", [0x3F8 << 16, 0x3F8 << 16 | 1, 0x3F8 << 16 | 4, 0x3F8 << 16 | 5])
def test_a_port_access_of_no_size_is_nothing(rig: Rig, info: int) -> None:
    assert Asks(rig, request(0x7B, info, 1, rax=0, sw_scratch=SCRATCH)).ask() == (0, 0)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_string_comes_a_page_at_a_time(rig: Rig, size: int) -> None:
    total = 0x1800 // size
    guest = Asks(rig, request(0x7B, 0x3F8 << 16 | size << 4 | 4 | 8, total, sw_scratch=SCRATCH))
    guest.qemu.write(guest.memory + SCRATCH, bytes(range(256)) * 24)

    seen = b""
    for expected in (0x1000 // size, 0x800 // size):
        assert guest.run() == KVM_EXIT_IO
        io = guest.detail(kvm_run_io)
        assert (io.direction, io.size, io.port, io.count) == (1, size, 0x3F8, expected)
        seen += guest.qemu.read(guest.pages[0] + io.data_offset, io.count * io.size)
    assert guest.ask() == (0, 0) and seen == bytes(range(256)) * 24


def test_what_a_port_gives_reaches_the_scratch_area_when_the_guest_goes_on(rig: Rig) -> None:
    guest = Asks(rig, request(0x7B, STRING_IN, 4, sw_scratch=SCRATCH))
    assert guest.run() == KVM_EXIT_IO
    guest.qemu.write(guest.pages[0] + 0x1000, b"abcd")

    assert guest.read(SCRATCH, 4) == bytes(4)
    assert guest.ask() == (0, 0) and guest.read(SCRATCH, 4) == b"abcd"


def test_a_plain_out_shows_only_what_the_instruction_writes(rig: Rig) -> None:
    guest = Asks(rig, request(0x7B, 0x3F8 << 16 | 2 << 4, rax=0x12345678))

    assert guest.run() == KVM_EXIT_IO
    assert guest.qemu.read(guest.pages[0] + 0x1000, 2) == b"\x78\x56" and guest.ask() == (0, 0)


def test_a_plain_in_is_completed_by_the_next_run(rig: Rig) -> None:
    guest = Asks(rig, request(0x7B, 0x60 << 16 | 4 << 4 | 1))
    assert guest.run() == KVM_EXIT_IO
    guest.qemu.write(guest.pages[0] + 0x1000, b"\1\2\3\4")

    assert guest.ask() == (0, 0) and guest.answer.rax == 0x04030201


@pytest.mark.parametrize("n", [1, 8, 9, 20])
def test_a_device_is_read_in_pieces_of_eight(rig: Rig, n: int) -> None:
    guest = Asks(rig, request(0x8000_0001, 0xFED0_0000, n, sw_scratch=GHCB + 0x800))
    done = 0
    while done < n:
        assert guest.run() == KVM_EXIT_MMIO
        mmio = guest.detail(kvm_run_mmio)
        assert (mmio.phys_addr, mmio.len, mmio.is_write) == (0xFED0_0000 + done, min(8, n - done), 0)
        guest.qemu.write(guest.pages[0] + 40, bytes(range(done, done + 8)))
        done += mmio.len

    assert guest.ask() == (0, 0) and guest.read(GHCB + 0x800, n) == bytes(range(n))


def test_a_device_is_written_from_the_scratch_area(rig: Rig) -> None:
    pieces = ((0x800, b"ABCDEFGHIJ"), *request(0x8000_0002, 0xFED0_0000, 10, sw_scratch=GHCB + 0x800))
    guest = Asks(rig, pieces)

    assert guest.run() == KVM_EXIT_MMIO and guest.detail(kvm_run_mmio).data == b"ABCDEFGH"
    assert guest.run() == KVM_EXIT_MMIO and guest.detail(kvm_run_mmio).data == b"IJ" + bytes(6)
    assert guest.ask() == (0, 0)


@pytest.mark.parametrize("n, answer", [(0, (0, 0)), (9, (2, INPUT))])
def test_version_2_bounds_an_access_to_a_device(make_rig: Callable[..., Rig], n: int, answer: tuple[int, int]) -> None:
    guest = Asks(make_rig(designs.LINUX_6_12), request(0x8000_0001, 0xFED0_0000, n, sw_scratch=GHCB + 0x800))
    guest.rig.file(guest.vm).sev.ghcb_version = 2

    assert guest.ask() == answer


def test_the_page_is_the_guests_alone_only_when_it_goes_on(rig: Rig) -> None:
    guest = Asks(rig, request(0x7B, 0x3F8 << 16 | 1 << 4, rax=0x41))
    guest.run()

    assert guest.vcpu().ghcb is not None and not guest.answer.is_valid("rax")
    guest.ioctl(KVM_RUN)
    assert guest.vcpu().ghcb is None and guest.answer.is_valid("rax")
