"""The processor: what a guest's instructions do, what leaves the guest, and what ends it."""

from __future__ import annotations

import pytest
from hw.processor import ASID, OTHER, PAGE, RESET, Board
from hw.programs import SECRET, hello, rest, spin
from hypothesis import strategies as st

from sevlab.hw import vmcb as codes
from sevlab.hw.access import Fetched
from sevlab.hw.cpu import GuestError, TripleFaulted, exits
from sevlab.hw.isa import checkpoint, cpuid, hlt, jump, program, store
from sevlab.hw.vmcb import EXIT_CPUID, EXIT_HLT, EXIT_INTR, EXIT_NPF, EXIT_SHUTDOWN


@pytest.fixture
def board() -> Board:
    return Board()


# ------------------------------------------------------------------ stories


def test_a_guest_runs_from_its_reset_vector_to_its_first_exit(board: Board) -> None:
    vmcb = board.guest(hello)

    assert board.run(vmcb) == EXIT_HLT == vmcb.exit_code
    assert [row["program"] for row in board.trace.rows(Fetched)] == ["hello"]


def test_a_private_store_is_not_on_the_bus_and_a_shared_one_is(board: Board) -> None:
    board.run(board.guest(hello))

    assert board.bus(0x2000, 16) == SECRET
    assert board.bus(0x1000, 16) != SECRET == board.soc.engine.read(ASID, board.hpa(0x1000), 16)


def test_in_a_guest_without_sev_the_c_bit_says_nothing(board: Board) -> None:
    board.run(board.guest(hello, asid=0))

    assert board.bus(0x1000, 16) == board.bus(0x2000, 16) == SECRET


def test_a_page_under_the_wrong_key_holds_no_program(board: Board) -> None:
    board.guest(hello)
    vmcb = board.vmcb(asid=OTHER)

    assert board.run(vmcb) == EXIT_SHUTDOWN
    assert vmcb.why == f"no program in the page at gpa {RESET & -PAGE:#x} under the key of slot {OTHER}"
    assert [row["why"] for row in board.trace.rows(TripleFaulted)] == [vmcb.why]


def test_a_page_in_clear_is_no_program_for_an_encrypted_guest(board: Board) -> None:
    board.guest(hello, asid=0)

    assert board.run(board.vmcb()) == EXIT_SHUTDOWN


def test_a_slot_without_a_key_holds_no_program(board: Board) -> None:
    vmcb = board.guest(hello)
    board.soc.engine.remove(ASID)

    assert board.run(vmcb) == EXIT_SHUTDOWN and vmcb.why == f"key slot {ASID} has no key"


@pytest.mark.parametrize("at", [0, 8, 0x123, PAGE - 1])
def test_a_changed_page_shuts_down_at_the_next_fetch(board: Board, at: int) -> None:
    vmcb = board.guest(hello)
    assert board.run(vmcb) == EXIT_HLT
    vmcb.skip = True

    byte = board.bus(RESET & -PAGE, PAGE)[at]
    board.soc.dram.write(board.hpa((RESET & -PAGE) + at), bytes([byte ^ 1]))

    assert board.run(vmcb) == EXIT_SHUTDOWN


def test_a_page_put_back_in_time_goes_unnoticed(board: Board) -> None:
    vmcb, gpa = board.guest(hello), RESET & -PAGE
    board.run(vmcb)
    vmcb.skip, raw = True, board.bus(gpa, PAGE)

    board.soc.dram.write(board.hpa(gpa), bytes(PAGE))
    board.soc.dram.write(board.hpa(gpa), raw)

    assert board.run(vmcb) == EXIT_HLT


def test_a_new_key_in_the_slot_shuts_down_though_no_byte_has_changed(board: Board) -> None:
    vmcb = board.guest(hello)
    board.run(vmcb)
    vmcb.skip = True

    board.soc.engine.install(ASID, bytes(16))

    assert board.run(vmcb) == EXIT_SHUTDOWN


def test_ciphertext_moved_to_another_frame_is_no_program(board: Board) -> None:
    vmcb, gpa = board.guest(hello), RESET & -PAGE
    board.run(vmcb)
    board.soc.dram.write(0x50000, board.bus(gpa, PAGE))
    board.npt.remap(gpa, 0x50000)

    assert board.run(vmcb) == EXIT_SHUTDOWN


def test_a_page_mapped_to_another_place_is_still_the_program(board: Board) -> None:
    board.guest(hello)
    board.npt.remap(0x8000, board.hpa(RESET & -PAGE))

    assert board.run(board.vmcb(at=0x8000)) == EXIT_HLT


def test_another_program_behind_the_same_address_is_a_shutdown_for_the_one_that_ran(board: Board) -> None:
    vmcb = board.guest(hello)
    board.run(vmcb)
    board.load(0x9000, board.soc.programs.add(rest))
    vmcb.skip = True

    board.npt.remap(RESET & -PAGE, board.hpa(0x9000))

    assert board.run(vmcb) == EXIT_SHUTDOWN and "holds rest now, the registers are hello's" in vmcb.why


def test_a_guest_that_overwrites_its_own_program_does_not_go_on(board: Board) -> None:
    @program
    async def suicidal() -> None:
        await store(0xFFFFF800, b"\0\1", c=True)
        await store(0x2000, b"still here", c=False)
        await hlt()

    vmcb = board.guest(suicidal)

    assert board.run(vmcb) == EXIT_SHUTDOWN
    assert board.bus(0x2000, 10) == bytes(10)


def test_a_triple_fault_is_for_good(board: Board) -> None:
    vmcb = board.vmcb()
    assert board.run(vmcb) == EXIT_SHUTDOWN
    board.load(RESET, board.soc.programs.add(hello))

    assert board.run(vmcb) == EXIT_SHUTDOWN
    assert board.run(board.vmcb()) == EXIT_HLT


def test_fetching_where_no_memory_is_leaves_with_a_fault_on_a_fetch(board: Board) -> None:
    vmcb = board.vmcb(at=0x4000_0000)

    assert board.run(vmcb) == EXIT_NPF
    assert vmcb.exit_info_1 & codes.NPF_FETCH and vmcb.exit_info_2 == 0x4000_0000


# ------------------------------------------------------------------ time


@pytest.mark.parametrize("budget", [1, 7, 100])
def test_after_its_budget_a_guest_is_interrupted_and_goes_on_later(board: Board, budget: int) -> None:
    vmcb = board.guest(spin)

    assert [board.run(vmcb, budget) for _ in range(3)] == [EXIT_INTR] * 3
    assert vmcb.thread is not None and len(vmcb.thread.log) == 3 * budget


def test_exits_that_the_hypervisor_answers_count_for_the_budget(board: Board) -> None:
    @program
    async def asks() -> None:
        while True:
            await cpuid(1)

    vmcb, count = board.guest(asks), 0
    for code in exits(board.soc, vmcb, 10):
        vmcb.skip, count = True, count + (code == EXIT_CPUID)

    assert count == 10 and vmcb.exit_code == EXIT_INTR


def test_running_takes_virtual_time(board: Board) -> None:
    vmcb = board.guest(spin)
    before = board.trace.now

    board.run(vmcb, 500)

    assert board.trace.now == before + 1200 + 500


# ------------------------------------------------------------------ jumps and checkpoints


def test_a_jump_fetches_another_program_and_hands_over_arguments(board: Board) -> None:
    @program
    async def second(a: int, b: bytes) -> None:
        await store(0x1000, bytes([a]) + b, c=False)
        await hlt()

    @program
    async def first() -> None:
        await jump(0x9000, 7, b"xy", "more than it takes")

    board.load(0x9000, board.soc.programs.add(second))
    vmcb = board.guest(first)

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 3) == b"\7xy"
    assert (vmcb.save.cs.base, vmcb.regs.rip) == (0, 0x9000)
    assert [row["program"] for row in board.trace.rows(Fetched)] == ["first", "second"]


def test_arguments_of_the_page_come_before_those_of_the_jump(board: Board) -> None:
    @program
    async def second(a: int, b: int) -> None:
        await store(0x1000, bytes([a, b]), c=False)
        await hlt()

    @program
    async def first() -> None:
        await jump(0x9000, 2)

    board.load(0x9000, board.soc.programs.add(second, args=(1,)))
    board.run(board.guest(first))

    assert board.bus(0x1000, 2) == b"\1\2"


def test_a_jump_to_a_page_without_a_program_is_a_triple_fault(board: Board) -> None:
    @program
    async def lost() -> None:
        await jump(0x9000)

    vmcb = board.guest(lost)

    assert board.run(vmcb) == EXIT_SHUTDOWN and vmcb.why.startswith("no program in the page at gpa 0x9000")


def test_a_jump_to_no_memory_is_a_fault_on_a_fetch(board: Board) -> None:
    @program
    async def lost() -> None:
        await jump(0x4000_0000)

    vmcb = board.guest(lost)

    assert board.run(vmcb) == EXIT_NPF and vmcb.exit_info_1 & codes.NPF_FETCH


def test_too_few_arguments_are_a_mistake_of_whoever_jumps(board: Board) -> None:
    @program
    async def second(a: int, b: int) -> None:
        await hlt()

    @program
    async def first() -> None:
        await jump(0x9000, 1)

    board.load(0x9000, board.soc.programs.add(second))
    with pytest.raises(GuestError, match="missing 1 required positional argument"):
        board.run(board.guest(first))


@pytest.mark.parametrize("jumps", [True, False], ids=["jump", "checkpoint"])
def test_what_is_handed_on_must_be_constant(board: Board, jumps: bool) -> None:
    @program
    async def guest() -> None:
        await (jump(0x9000, [1]) if jumps else checkpoint({}))

    with pytest.raises(GuestError, match="may change after it was measured"):
        board.run(board.guest(guest))


def test_a_checkpoint_starts_the_program_again_with_an_empty_log(board: Board) -> None:
    @program
    async def counts(n: int = 0) -> None:
        await store(0x1000, bytes([n]), c=False)
        await hlt()
        await checkpoint(n + 1)

    vmcb = board.guest(counts)
    for expected in range(5):
        assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == bytes([expected])
        assert vmcb.thread is not None and len(vmcb.thread.log) == 1 and vmcb.thread.args == ((expected,) if expected else ())
        vmcb.skip = True


byte = st.integers(0, 255)
