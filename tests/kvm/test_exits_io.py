"""Port I/O and MMIO: what user space emulates, and when it is complete."""

from __future__ import annotations

from errno import EINTR

import pytest
from kvm.guests import Guest
from sev_rig import Rig, refuses

from sevlab.abi.kvm import (
    KVM_EXIT_HLT,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_IO,
    KVM_EXIT_MMIO,
    KVM_INTERNAL_ERROR_EMULATION,
    kvm_run_internal,
    kvm_run_io,
    kvm_run_mmio,
)
from sevlab.hw.isa import hlt, inp, load, out, program, store

KINDS = ("plain", "sev")


@program
async def rest() -> None:
    while True:
        await hlt()


# ------------------------------------------------------------------ port I/O


@pytest.mark.parametrize("kind", KINDS)
def test_out_is_user_spaces_and_completes_with_the_next_run(rig: Rig, kind: str) -> None:
    @program
    async def guest_program() -> None:
        await out(0x3F8, 0x4342, 2)
        await hlt()

    guest = Guest(rig, guest_program, kind=kind)

    assert guest.run() == KVM_EXIT_IO
    io = guest.detail(kvm_run_io)
    assert (io.direction, io.size, io.port, io.count) == (1, 2, 0x3F8, 1)
    assert guest.qemu.read(guest.pages[0] + io.data_offset, 2) == b"BC"
    assert guest.run() == KVM_EXIT_HLT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 2, 4])
def test_in_gets_what_user_space_puts_into_the_page(rig: Rig, kind: str, size: int) -> None:
    @program
    async def guest_program(n: int) -> None:
        await store(0x1000, await inp(0x60, n), c=False)
        await hlt()

    guest = Guest(rig, guest_program, size, kind=kind)
    assert guest.run() == KVM_EXIT_IO
    io = guest.detail(kvm_run_io)
    assert (io.direction, io.size, io.port) == (0, size, 0x60)

    guest.qemu.write(guest.pages[0] + io.data_offset, b"\xa1\xb2\xc3\xd4")

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 4) == b"\xa1\xb2\xc3\xd4"[:size].ljust(4, b"\0")


def test_a_narrow_in_keeps_the_rest_of_rax_and_a_wide_one_clears_it(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await inp(0x60, 1)
        await hlt()
        await inp(0x60, 4)
        await hlt()

    guest = Guest(rig, guest_program)
    guest.run()
    guest.vcpu().vmcb.regs.rax = 0x1122_3344_5566_7788
    guest.qemu.write(guest.pages[0] + 0x1000, b"\xff\xff\xff\xff")
    guest.run()
    narrow = guest.regs().rax
    guest.run()
    guest.run()

    assert (narrow, guest.regs().rax) == (0x1122_3344_5566_77FF, 0xFFFF_FFFF)


def test_an_io_exit_that_was_only_looked_at_is_completed_by_an_immediate_exit(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await out(0x80, 1)
        await store(0x1000, b"on", c=False)
        await hlt()

    guest = Guest(rig, guest_program)
    guest.run()
    guest.immediate_exit(True)
    with refuses(EINTR):
        guest.run()
    assert guest.vcpu().vmcb.skip and guest.read(0x1000, 2) == bytes(2)

    guest.immediate_exit(False)

    assert guest.run() == KVM_EXIT_HLT and guest.read(0x1000, 2) == b"on"


# ------------------------------------------------------------------ MMIO


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_without_memory_is_an_mmio_exit(rig: Rig, kind: str) -> None:
    @program
    async def guest_program() -> None:
        await store(0xFEC0_0010, b"abcd", c=False)
        await hlt()

    guest = Guest(rig, guest_program, kind=kind)

    assert guest.run() == KVM_EXIT_MMIO
    mmio = guest.detail(kvm_run_mmio)
    assert (mmio.phys_addr, mmio.data[: mmio.len], mmio.is_write) == (0xFEC0_0010, b"abcd", 1)
    assert guest.run() == KVM_EXIT_HLT


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [1, 8, 9, 20])
def test_a_long_load_comes_in_pieces_of_eight(rig: Rig, kind: str, n: int) -> None:
    @program
    async def guest_program(n: int) -> None:
        await store(0x1000, await load(0xFEC0_0000, n, c=False), c=False)
        await hlt()

    guest, pieces = Guest(rig, guest_program, n, kind=kind), []
    while guest.run() == KVM_EXIT_MMIO:
        mmio = guest.detail(kvm_run_mmio)
        assert not mmio.is_write
        pieces.append((mmio.phys_addr - 0xFEC0_0000, mmio.len))
        guest.qemu.write(guest.pages[0] + 32 + 8, bytes(range(len(pieces) * 16, len(pieces) * 16 + 8)))

    assert pieces == [(at, min(8, n - at)) for at in range(0, n, 8)]
    expected = b"".join(bytes(range(i * 16, i * 16 + size)) for i, (_, size) in enumerate(pieces, 1))
    assert guest.read(0x1000, n) == expected


def test_an_access_that_is_half_memory_and_half_device_is_not_emulated(rig: Rig) -> None:
    @program
    async def guest_program() -> None:
        await store(0xFFFF_EFF8, bytes(16), c=False)

    guest = Guest(rig, guest_program)

    assert guest.run() == KVM_EXIT_MMIO
    assert guest.run() == KVM_EXIT_INTERNAL_ERROR and guest.detail(kvm_run_internal).suberror == KVM_INTERNAL_ERROR_EMULATION


def test_code_without_memory_is_not_emulated(rig: Rig) -> None:
    guest = Guest(rig, rest)
    rig.slot(guest.vm, guest.top, 0, gpa=0xFFFF_F000, slot=1)

    assert guest.run() == KVM_EXIT_INTERNAL_ERROR
    internal = guest.detail(kvm_run_internal)
    assert (internal.suberror, internal.ndata, internal.data[0]) == (KVM_INTERNAL_ERROR_EMULATION, 1, 0xFFFF_FFF0)
