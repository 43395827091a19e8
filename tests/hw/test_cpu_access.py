"""Loads and stores: what lies on the bus, which key, and what has no memory behind it."""

from __future__ import annotations

import pytest
from hw.processor import ASID, Board
from hw.programs import SECRET, hello

from sevlab.hw import vmcb as codes
from sevlab.hw.isa import hlt, load, program, store
from sevlab.hw.pages import FIRMWARE, PRIVATE, SHARED
from sevlab.hw.vmcb import EXIT_HLT, EXIT_NPF


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize("c", [True, False, None])
@pytest.mark.parametrize(("gpa", "n"), [(0x5000, 1), (0x5001, 15), (0x500F, 2), (0x5FF8, 16), (0x5800, 0x2345)])
def test_what_is_stored_is_loaded_again(board: Board, gpa: int, n: int, c: bool | None) -> None:
    text = bytes(i * 7 & 0xFF for i in range(n))

    @program
    async def guest() -> None:
        await store(gpa, text, c=c)
        await store(0x2000, b"same" if await load(gpa, n, c=c) == text else b"diff", c=False)
        await hlt()

    assert board.run(board.guest(guest)) == EXIT_HLT
    assert board.bus(0x2000, 4) == b"same"
    assert (board.bus(gpa, n) == text) is (c is False)


def test_no_c_bit_given_means_private_when_there_are_no_page_tables(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0x5000, SECRET)
        await store(0x2000, await load(0x5000, 16, c=True), c=False)
        await hlt()

    board.run(board.guest(guest))

    assert board.bus(0x2000, 16) == SECRET != board.bus(0x5000, 16)


def test_a_shared_load_of_a_private_page_gives_what_the_bus_carries(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0x5000, SECRET, c=True)
        await store(0x2000, await load(0x5000, 16, c=False), c=False)
        await hlt()

    board.run(board.guest(guest))

    assert board.bus(0x2000, 16) == board.bus(0x5000, 16) != SECRET


def test_an_access_that_crosses_into_a_page_elsewhere_follows_it(board: Board) -> None:
    board.npt.remap(0x6000, 0x70000)

    @program
    async def guest() -> None:
        await store(0x5FF8, SECRET, c=False)
        await hlt()

    board.run(board.guest(guest))

    assert board.soc.dram.read(0x5FF8, 8) + board.soc.dram.read(0x70000, 8) == SECRET


@pytest.mark.parametrize(
    ("write", "info"), [(False, codes.NPF_GUEST_PAGE), (True, codes.NPF_GUEST_PAGE | codes.NPF_WRITE)], ids=["load", "store"]
)
def test_an_address_with_no_memory_behind_it_leaves_the_guest(board: Board, write: bool, info: int) -> None:
    @program
    async def guest() -> None:
        await (store(0x4000_0000, b"abcd") if write else load(0x4000_0000, 4))

    vmcb = board.guest(guest)

    assert board.run(vmcb) == EXIT_NPF and (vmcb.exit_info_1, vmcb.exit_info_2) == (info, 0x4000_0000)
    assert board.run(vmcb) == EXIT_NPF, "the instruction stands where it stood"


def test_a_store_that_runs_into_a_hole_writes_nothing(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0xFF000, bytes([7]) * 0x1800, c=False)

    assert board.run(board.guest(guest)) == EXIT_NPF
    assert board.bus(0xFF000, 0x1000) == bytes(0x1000)


def test_memory_that_appears_later_is_simply_there(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0x4000_0000, SECRET, c=False)
        await hlt()

    vmcb = board.guest(guest)
    assert board.run(vmcb) == EXIT_NPF

    board.npt.remap(0x4000_0000, 0x60000)

    assert board.run(vmcb) == EXIT_HLT and board.soc.dram.read(0x60000, 16) == SECRET


def test_pages_are_what_the_last_store_made_of_them(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0x5000, b"x", c=True)
        await hlt()
        await store(0x5000, b"x", c=False)
        await hlt()
        await store(0x5FFF, b"xy", c=True)
        await hlt()

    vmcb, pages = board.guest(guest), board.soc.pages
    seen = []
    for _ in range(3):
        board.run(vmcb)
        vmcb.skip = True
        seen.append([(pages.state(pfn), pages.asid(pfn)) for pfn in (5, 6)])

    assert [row[0] for row in seen] == [(PRIVATE, ASID), (SHARED, 0), (PRIVATE, ASID)]
    assert seen[2][1] == (PRIVATE, ASID)


def test_a_second_store_of_the_same_kind_marks_nothing_and_a_guest_without_sev_nothing_at_all(board: Board) -> None:
    @program
    async def guest() -> None:
        for _ in range(5):
            await store(0x5000, b"x", c=True)
        await hlt()

    board.run(board.guest(guest))
    marked = len([row for row in board.trace.rows() if row["kind"] == "PagesMarked"])
    board.run(board.guest(guest, asid=0))

    assert marked == 1 == len([row for row in board.trace.rows() if row["kind"] == "PagesMarked"])


def test_the_firmwares_pages_keep_their_state(board: Board) -> None:
    board.soc.pages.mark(1, 1, FIRMWARE)

    board.run(board.guest(hello))

    assert board.soc.pages.state(1) == FIRMWARE
