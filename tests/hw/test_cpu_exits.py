"""What leaves the guest: codes, operands, answers, faults and mistakes in Python."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import ASID, Board
from hw.programs import LEAVING, does, hello, rest

from sevlab.hw.cpu import GuestError
from sevlab.hw.isa import GP, PF, UD, Fault, cpuid, hlt, load, pause, program, rdmsr, store, ud2
from sevlab.hw.program import Program
from sevlab.hw.vmcb import EXIT_HLT, EXIT_SHUTDOWN


@pytest.fixture
def board() -> Board:
    return Board()


@pytest.mark.parametrize(("name", "code", "info", "registers"), LEAVING, ids=[row[0] for row in LEAVING])
@pytest.mark.parametrize("asid", [0, ASID], ids=["plain", "sev"])
def test_an_instruction_leaves_with_its_code_and_its_operands(
    board: Board, asid: int, name: str, code: int, info: int, registers: dict[str, int]
) -> None:
    vmcb = board.guest(does(name), asid=asid)

    assert board.run(vmcb) == code and vmcb.exit_info_1 == info
    assert {register: getattr(vmcb.regs, register) for register in registers} == registers


RESULTS = {
    "cpuid": (1, 2, 3, 4),
    "rdmsr": 4 << 32 | 1,
    "in": b"\1\0",
    "vmmcall": 1,
    **dict.fromkeys(("wrmsr", "out", "vmgexit", "hlt")),
}


@pytest.mark.parametrize("name", RESULTS)
def test_the_guest_gets_what_the_hypervisor_left_in_the_registers(board: Board, name: str) -> None:
    vmcb = board.guest(does(name))
    board.run(vmcb)
    vmcb.regs.rax, vmcb.regs.rbx, vmcb.regs.rcx, vmcb.regs.rdx, vmcb.skip = 1, 2, 3, 4, True

    assert board.run(vmcb) == EXIT_HLT
    assert board.bus(0x1000, 64).rstrip(b"\0") == str(RESULTS[name]).encode()


@pytest.mark.parametrize("name", RESULTS)
def test_an_instruction_that_was_not_skipped_is_met_again(board: Board, name: str) -> None:
    vmcb = board.guest(does(name))

    assert board.run(vmcb) == board.run(vmcb) == board.run(vmcb)
    assert board.bus(0x1000, 1) == b"\0"


def test_a_load_from_a_device_gets_what_the_hypervisor_emulated(board: Board) -> None:
    @program
    async def guest() -> None:
        await store(0x1000, await load(0x4000_0000, 4), c=False)
        await hlt()

    vmcb = board.guest(guest)
    board.run(vmcb)
    vmcb.data, vmcb.skip = b"abcd", True

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 4) == b"abcd"


def test_an_injected_fault_is_raised_at_the_instruction(board: Board) -> None:
    @program
    async def guest() -> None:
        try:
            await rdmsr(0x1234)
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await hlt()

    vmcb = board.guest(guest)
    board.run(vmcb)
    vmcb.event = Fault(GP)

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 1) == bytes([GP]) and vmcb.event is None


@pytest.mark.parametrize("vector", [UD, GP, PF])
def test_a_fault_that_nobody_catches_is_a_triple_fault(board: Board, vector: int) -> None:
    vmcb = board.guest(does("rdmsr"))
    board.run(vmcb)
    vmcb.event = Fault(vector, 2)

    assert board.run(vmcb) == EXIT_SHUTDOWN
    assert vmcb.why == f"_rdmsr has no handler for exception {vector}, error 0x2"


def test_ud2_is_a_fault_that_a_guest_may_catch(board: Board) -> None:
    @program
    async def guest() -> None:
        try:
            await ud2()
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await ud2()

    assert board.run(board.guest(guest)) == EXIT_SHUTDOWN and board.bus(0x1000, 1) == bytes([UD])


def test_a_program_that_returns_runs_off_its_end(board: Board) -> None:
    @program
    async def short() -> None:
        await pause()

    vmcb = board.guest(short)

    assert board.run(vmcb) == EXIT_SHUTDOWN and vmcb.why == "short ran off its end"


def test_a_mistake_in_python_names_program_and_line_and_the_guest_stands_before_it(board: Board) -> None:
    @program
    async def guest() -> None:
        value = await load(0x1000, 1, c=False)
        await store(0x2000, bytes([7 // value[0]]), c=False)
        await hlt()

    vmcb = board.guest(guest)

    for _ in range(2):
        with pytest.raises(GuestError, match=r"program guest made a mistake at `await store\(0x2000.*`: ZeroDiv") as told:
            board.run(vmcb)
        assert isinstance(told.value.__cause__, ZeroDivisionError)
    board.soc.dram.write(board.hpa(0x1000), b"\7")
    assert board.run(vmcb) == EXIT_HLT and board.bus(0x2000, 1) == b"\1"


def test_a_mistake_right_after_an_exit_keeps_the_exits_answer(board: Board) -> None:
    @program
    async def guest() -> None:
        eax, *_ = await cpuid(1)
        raise ValueError(eax)

    vmcb = board.guest(guest)
    board.run(vmcb)
    vmcb.regs.rax, vmcb.skip = 77, True

    for _ in range(2):
        with pytest.raises(GuestError, match=r"`raise ValueError\(eax\)`: ValueError: 77"):
            board.run(vmcb)


def test_an_operand_that_can_be_none_is_a_mistake_at_the_line_that_gave_it(board: Board) -> None:
    @program
    async def guest() -> None:
        await store("here", b"x", c=False)  # type: ignore[arg-type]

    with pytest.raises(GuestError, match=r"at `await store\(\"here\", b\"x\", c=False\)"):
        board.run(board.guest(guest))


def test_a_mistake_in_what_a_program_calls_is_told_at_its_own_line(board: Board) -> None:
    def deeper(n: int) -> int:
        return {1: 2}[n]

    @program
    async def guest() -> None:
        await store(0x1000, bytes([deeper(5)]), c=False)

    with pytest.raises(GuestError, match=r"program guest made a mistake at `return \{1: 2\}\[n\]`: KeyError: 5"):
        board.run(board.guest(guest))


def test_what_is_no_instruction_is_a_mistake(board: Board) -> None:
    class Other:
        def __await__(self) -> Any:
            yield ("no such thing",)

    async def guest() -> None:
        await Other()

    measured = Program(rest.source)
    measured._measured, measured._digest = guest, b"d" * 32
    vmcb = board.guest(measured)

    with pytest.raises(GuestError, match=r"`await Other\(\)`: TypeError: .* which is no instruction"):
        board.run(vmcb)


def test_what_the_kernels_page_fault_handler_refuses_comes_through(board: Board) -> None:
    vmcb = board.guest(hello)
    board.npt.drop(0, 0x100)

    def fault(gfn: int) -> int | None:
        raise OSError(14, "")

    board.npt.fault = fault
    with pytest.raises(OSError):
        board.run(vmcb)

    board.npt.fault = lambda gfn: gfn
    assert board.run(vmcb) == EXIT_HLT
