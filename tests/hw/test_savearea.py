"""The sealed save area: what the bus sees of registers, what a host that writes there is caught at, and what it is not."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import ASID, OTHER_KEY, PAGE, TMR, Board
from hypothesis import given, settings
from hypothesis import strategies as st

from sevlab.abi.vmsa import Vmsa
from sevlab.hw.isa import Program, cpuid, hlt, load, pause, program, store, vmgexit
from sevlab.hw.savearea import CRC_COVERS, seal
from sevlab.hw.vmcb import EXIT_HLT, EXIT_INTR, EXIT_INVALID, EXIT_SHUTDOWN, EXIT_VMGEXIT, Vmcb

HPA = 0x300000
BLOCK = TMR + (HPA >> 12) % 64 * 64
RAX, RIP = 0x1F8, 0x178


@pytest.fixture
def board() -> Board:
    return Board()


@program
async def counts() -> None:
    """Load a number that the host knows, and stop: the number is in RAX."""
    n = 0
    while True:
        await load(0x1000 + n % 4, 1, c=False)
        await hlt()
        n += 1


@program
async def tells() -> None:
    """Say at 0x1000 which round this is."""
    n = 0
    while True:
        n += 1
        await store(0x1000, bytes([n]), c=False)
        await hlt()


def clear(board: Board, vmcb: Vmcb) -> Vmsa:
    """The save area as the guest's key shows it."""
    return Vmsa.unpack(board.soc.engine.read(ASID, vmcb.vmsa_hpa, PAGE))


def raw(board: Board) -> bytes:
    return board.soc.dram.read(HPA, PAGE)


# ------------------------------------------------------------------ what is in it


def test_at_an_exit_the_registers_are_in_the_page(board: Board) -> None:
    @program
    async def asks() -> None:
        await store(0x2345, b"\x11\x22", c=False)
        await hlt()

    vmcb = board.es(asks)
    assert board.run(vmcb) == EXIT_HLT

    save = clear(board, vmcb)
    assert (save.rax, save.rdi) == (0x2211, 0x2345) and save.efer == 0x1000
    assert save.cs.base + save.rip & -PAGE == 0xFFFF_F000


def test_the_control_block_never_holds_them(board: Board) -> None:
    vmcb = board.es(counts)
    before = vmcb.regs.pack()
    board.soc.dram.write(board.hpa(0x1000), b"\x77")
    board.run(vmcb)

    assert clear(board, vmcb).rax == 0x77 and vmcb.regs.pack() == before


def test_only_blocks_whose_registers_changed_change_on_the_bus(board: Board) -> None:
    board.soc.dram.write(board.hpa(0x1000), b"\1\2\1\1")
    vmcb = board.es(counts)
    pages = []
    for _ in range(4):
        board.run(vmcb)
        pages.append(raw(board))

    def changed(a: bytes, b: bytes) -> set[int]:
        return {at for at in range(0, PAGE, 16) if a[at : at + 16] != b[at : at + 16]}

    assert changed(pages[0], pages[1]) == {RAX & -16, 0x330}  # RAX, and RSI with the address
    assert pages[0][RAX & -16 :][:16] == pages[2][RAX & -16 :][:16]  # the same number: the same ciphertext
    assert changed(pages[2], pages[3]) == {0x330}


def test_the_same_registers_of_another_processor_are_other_bytes(board: Board) -> None:
    one, two = board.es(counts), board.es(counts, vmsa_hpa=HPA + PAGE)
    board.run(one)
    board.run(two)

    assert clear(board, one).rax == clear(board, two).rax
    assert board.soc.dram.read(HPA + 0x1F0, 16) != board.soc.dram.read(HPA + PAGE + 0x1F0, 16)


def test_a_handler_of_vc_puts_back_the_registers_that_are_not_its_answer(board: Board) -> None:
    async def handle(instruction: tuple[Any, ...]) -> Any:
        await store(0x2000, b"12345678", c=False)
        await vmgexit()
        return (1, 2, 3, 4)

    async def guest() -> None:
        await store(0x1111, b"\5", c=False)
        await cpuid(0x77)
        await hlt()

    vmcb = board.es(Program(guest, vc=handle))
    assert board.run(vmcb) == EXIT_VMGEXIT
    inside = clear(board, vmcb)
    assert board.run(vmcb) == EXIT_HLT
    after = clear(board, vmcb)

    assert (inside.rdi, inside.rax) == (0x2000, int.from_bytes(b"12345678", "little")) and inside.rsp < after.rsp
    assert (after.rax, after.rbx, after.rcx, after.rdx, after.rdi) == (1, 2, 3, 4, 0x1111)


# ------------------------------------------------------------------ written lazily


def test_the_page_is_written_when_somebody_looks(board: Board) -> None:
    vmcb = board.es(counts)
    before = raw(board)
    board.run(vmcb)

    assert bytes(board.soc.dram.memory.view[HPA : HPA + PAGE]) == before  # nobody has looked yet
    assert raw(board) != before


def test_who_keeps_a_view_sees_every_exit(board: Board) -> None:
    vmcb = board.es(counts)
    board.run(vmcb)
    view = board.soc.dram.view(HPA, PAGE)
    before = bytes(view)
    board.run(vmcb)

    assert bytes(view) != before


def test_what_is_owed_is_written_under_the_key_of_its_time(board: Board) -> None:
    vmcb = board.es(counts)
    board.run(vmcb)
    twin = Board()
    twin.run(twin.es(counts))

    board.soc.engine.install(ASID, OTHER_KEY)

    assert raw(board) == raw(twin)
    assert board.run(vmcb) == EXIT_INVALID


SCRIPT = st.lists(
    st.one_of(st.tuples(st.just(0), st.integers(0, 255)), st.tuples(st.integers(1, 5), st.just(0))), min_size=1, max_size=12
)


@program
async def follows(script: tuple[tuple[int, int], ...]) -> None:
    for kind, value in script:
        if kind == 0:
            await store(0x2000 + value, bytes([value]) * (value % 12), c=False)
        elif kind == 1:
            await load(0x2000, 8, c=False)
        elif kind == 2:
            await load(0x2000, 3)
        elif kind == 3:
            await pause()
        elif kind == 4:
            await vmgexit()
        else:
            await hlt()
    while True:
        await hlt()


@settings(deadline=None, derandomize=True, max_examples=60)
@given(SCRIPT, st.sets(st.integers(0, 12)), st.integers(1, 4))
def test_a_page_written_lazily_is_the_page_written_at_every_exit(script: Any, looks: set[int], budget: int) -> None:
    eager, lazy = Board(), Board()
    one, two = eager.es(follows, tuple(script)), lazy.es(follows, tuple(script))
    for step in range(12):
        codes = eager.run(one, budget), lazy.run(two, budget)
        seen = raw(eager), eager.soc.dram.read(BLOCK, 8)

        assert codes[0] == codes[1]
        if step in looks:
            assert (raw(lazy), lazy.soc.dram.read(BLOCK, 8)) == seen
    assert bytes(eager.soc.dram.read(0, 8 << 20)) == bytes(lazy.soc.dram.read(0, 8 << 20))


# ------------------------------------------------------------------ what is noticed


@pytest.mark.parametrize("at", [*range(0, CRC_COVERS, 0x150), 0x388, CRC_COVERS - 1])
def test_a_byte_written_into_the_page_keeps_the_guest_from_running(board: Board, at: int) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    board.soc.dram.write(HPA + at, bytes([raw(board)[at] ^ 0x80]))

    assert board.run(vmcb) == EXIT_INVALID and "was changed since" in vmcb.why


def test_an_old_page_is_noticed(board: Board) -> None:
    vmcb = board.es(counts)
    board.run(vmcb)
    old = raw(board)
    board.run(vmcb)
    board.soc.dram.write(HPA, old)

    assert board.run(vmcb) == EXIT_INVALID


def test_an_old_page_of_equal_registers_is_not_old(board: Board) -> None:
    @program
    async def stays() -> None:
        while True:
            await hlt()

    vmcb = board.es(stays)
    board.run(vmcb)
    old = raw(board)
    board.run(vmcb)

    assert raw(board) == old and board.run(vmcb) == EXIT_HLT


def test_the_page_of_another_processor_is_noticed(board: Board) -> None:
    one, two = board.es(tells), board.es(tells, vmsa_hpa=HPA + PAGE)
    board.run(one)
    board.run(two)
    board.soc.dram.write(HPA, board.soc.dram.read(HPA + PAGE, PAGE))

    assert board.run(one) == EXIT_INVALID and board.run(two) == EXIT_HLT


def test_a_changed_check_value_is_noticed(board: Board) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    board.soc.dram.write(BLOCK, bytes(8))

    assert board.run(vmcb) == EXIT_INVALID


@pytest.mark.parametrize("block", [0, 8 << 20, (8 << 20) - 4])
def test_a_page_that_no_firmware_sealed_is_none(board: Board, block: int) -> None:
    vmcb = board.es(tells)
    page = bytearray(board.soc.engine.read(ASID, HPA, PAGE))
    page[0x388:0x390] = block.to_bytes(8, "little")
    board.soc.engine.write(ASID, HPA, page)

    assert board.run(vmcb) == EXIT_INVALID and "holds no valid state" in vmcb.why


def test_a_refused_entry_can_be_made_good(board: Board) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    good = raw(board)
    board.soc.dram.write(HPA, bytes(PAGE))
    assert board.run(vmcb) == EXIT_INVALID

    board.soc.dram.write(HPA, good)

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == b"\2"


# ------------------------------------------------------------------ what SEV-ES cannot notice


def test_not_noticed_is_a_page_that_was_changed_and_put_back_in_time(board: Board) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    page = raw(board)
    board.soc.dram.write(HPA, bytes(PAGE))
    board.soc.dram.write(HPA, page)

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == b"\2"


@pytest.mark.parametrize("at", [CRC_COVERS, PAGE - 1])
def test_not_noticed_is_a_write_behind_what_the_check_value_covers(board: Board, at: int) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    board.soc.dram.write(HPA + at, bytes([raw(board)[at] ^ 1]))

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == b"\2"  # no register lies there


def test_not_noticed_would_be_an_old_page_by_one_who_can_write_the_firmwares_memory_too(board: Board) -> None:
    """No processor lets software write the TMR; a probe on the bus that can drive it is outside of what SEV-ES promises."""
    board.soc.dram.write(board.hpa(0x1000), bytes([9, 8, 7, 6]))
    vmcb = board.es(counts)
    board.run(vmcb)
    old = raw(board), board.soc.dram.read(BLOCK, 8)
    for _ in range(3):
        board.run(vmcb)
    assert clear(board, vmcb).rax == 6
    board.soc.dram.write(HPA, old[0])
    board.soc.dram.write(BLOCK, old[1])

    assert board.run(vmcb) == EXIT_HLT and clear(board, vmcb).rax == 8  # the second round, once more


def test_not_noticed_is_old_memory_under_new_registers(board: Board) -> None:
    @program
    async def remembers() -> None:
        for n in (1, 2, 3):
            await store(0x2000, bytes([n]) * 16)
            await hlt()
        await store(0x1000, await load(0x2000, 1), c=False)
        await hlt()

    vmcb = board.es(remembers)
    board.run(vmcb)
    old = board.bus(0x2000, 16)
    board.run(vmcb)
    board.run(vmcb)
    board.soc.dram.write(board.hpa(0x2000), old)
    board.run(vmcb)

    assert board.bus(0x1000, 1) == b"\1"


def test_not_noticed_is_never_being_run_again(board: Board) -> None:
    vmcb = board.es(tells)

    assert board.run(vmcb, 1) == EXIT_INTR and board.bus(0x1000, 1) == b"\1"  # and that is all there ever is


# ------------------------------------------------------------------ and its end


def test_after_a_shutdown_the_page_is_still_what_it_was_left(board: Board) -> None:
    @program
    async def falls() -> None:
        await store(0x3000, b"\7", c=False)

    vmcb = board.es(falls)

    assert board.run(vmcb) == EXIT_SHUTDOWN and clear(board, vmcb).rax == 7


def test_a_page_sealed_anew_starts_a_processor_anew(board: Board) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    board.run(vmcb)
    fresh = Board()
    fresh.es(tells)
    page = fresh.soc.engine.read(ASID, HPA, PAGE)
    seal(board.soc, ASID, HPA, page, BLOCK)

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == b"\1"


def test_a_page_that_is_nobodys_any_more_is_not_written(board: Board) -> None:
    vmcb = board.es(tells)
    board.run(vmcb)
    assert vmcb.vmsa
    vmcb.vmsa.forget()
    board.soc.dram.write(HPA, bytes(PAGE))

    assert raw(board) == bytes(PAGE) and not board.soc.dram.lazy
