"""The processor: what a guest's instructions do, what leaves the guest, and what ends it."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import ASID, OTHER, PAGE, RESET, Board
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw import vmcb as codes
from sevlab.hw.access import Fetched
from sevlab.hw.cpu import MSR_GHCB, MSR_SEV_STATUS, TripleFaulted, exits
from sevlab.hw.isa import (
    GP,
    PF,
    UD,
    VC,
    Fault,
    checkpoint,
    cpuid,
    hlt,
    inp,
    jump,
    load,
    out,
    pause,
    program,
    rdmsr,
    store,
    ud2,
    vmgexit,
    vmmcall,
    wrmsr,
)  # fmt: skip
from sevlab.hw.pages import FIRMWARE, PRIVATE, SHARED
from sevlab.hw.program import Program
from sevlab.hw.thread import moments
from sevlab.hw.vmcb import (
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_INTR,
    EXIT_INVALID,
    EXIT_IOIO,
    EXIT_MSR,
    EXIT_NPF,
    EXIT_SHUTDOWN,
    EXIT_VMGEXIT,
    EXIT_VMMCALL,
)

SECRET = b"sixteen letters."


@pytest.fixture
def board() -> Board:
    return Board()


@program
async def hello() -> None:
    await store(0x1000, SECRET, c=True)
    await store(0x2000, SECRET, c=False)
    while True:
        await hlt()


@program
async def rest() -> None:
    while True:
        await hlt()


@program
async def spin() -> None:
    while True:
        await pause()


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


# ------------------------------------------------------------------ loads and stores


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


# ------------------------------------------------------------------ what leaves the guest


LEAVING: list[tuple[str, int, int, dict[str, int]]] = [
    ("cpuid", EXIT_CPUID, 0, {"rax": 7, "rcx": 1}),
    ("rdmsr", EXIT_MSR, 0, {"rcx": 0x10}),
    ("wrmsr", EXIT_MSR, 1, {"rcx": 0x10, "rax": 0x23456789, "rdx": 1}),
    ("out", EXIT_IOIO, 0x3F8 << 16 | 1 << 4, {"rax": 0x41}),
    ("out 4", EXIT_IOIO, 0x3F8 << 16 | 4 << 4, {"rax": 0x12345678}),
    ("in", EXIT_IOIO, 0x60 << 16 | 2 << 4 | 1, {}),
    ("vmmcall", EXIT_VMMCALL, 0, {"rax": 12, "rbx": 1, "rcx": 2, "rdx": 3}),
    ("vmgexit", EXIT_VMMCALL, 0, {}),
    ("hlt", EXIT_HLT, 0, {}),
]


def does(name: str) -> Program:
    """A guest that does the instruction of that row of LEAVING, over and over."""
    steps = {
        "cpuid": _cpuid, "rdmsr": _rdmsr, "wrmsr": _wrmsr, "out": _out, "out 4": _out4, "in": _in, "vmmcall": _vmmcall,
        "vmgexit": _vmgexit, "hlt": _hlt,
    }  # fmt: skip
    return Program(steps[name])


async def _cpuid() -> None:
    await note(await cpuid(7, 1))


async def _rdmsr() -> None:
    await note(await rdmsr(0x10))


async def _wrmsr() -> None:
    await note(await wrmsr(0x10, 0x1_2345_6789))


async def _out() -> None:
    await note(await out(0x3F8, b"A"))


async def _out4() -> None:
    await note(await out(0x3F8, 0x12345678, 4))


async def _in() -> None:
    await note(await inp(0x60, 2))


async def _vmmcall() -> None:
    await note(await vmmcall(12, 1, 2, 3))


async def _vmgexit() -> None:
    await note(await vmgexit())


async def _hlt() -> None:
    await note(await hlt())


async def note(value: Any) -> None:
    """What an instruction gave, at 0x1000 in clear."""
    await store(0x1000, str(value).encode().ljust(64, b"\0"), c=False)
    await hlt()


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


def test_a_mistake_in_python_comes_through_and_the_guest_stands_before_it(board: Board) -> None:
    @program
    async def guest() -> None:
        value = await load(0x1000, 1, c=False)
        await store(0x2000, bytes([7 // value[0]]), c=False)
        await hlt()

    vmcb = board.guest(guest)

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            board.run(vmcb)
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
        with pytest.raises(ValueError, match="77"):
            board.run(vmcb)


def test_what_is_no_instruction_is_a_mistake(board: Board) -> None:
    class Other:
        def __await__(self) -> Any:
            yield ("no such thing",)

    async def guest() -> None:
        await Other()

    measured = Program(rest.source)
    measured._measured, measured._digest = guest, b"d" * 32
    vmcb = board.guest(measured)

    with pytest.raises(TypeError, match="which is no instruction"):
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
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        board.run(board.guest(first))


@pytest.mark.parametrize("jumps", [True, False], ids=["jump", "checkpoint"])
def test_what_is_handed_on_must_be_constant(board: Board, jumps: bool) -> None:
    @program
    async def guest() -> None:
        await (jump(0x9000, [1]) if jumps else checkpoint({}))

    with pytest.raises(TypeError, match="may change after it was measured"):
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


# ------------------------------------------------------------------ the thread as data: laws


@program
async def busy(script: tuple[tuple[Any, ...], ...]) -> None:
    """Does what its script says, and folds everything it receives into what it stores."""
    seen = b""
    for step in script:
        try:
            if step[0] == "store":
                await store(0x3000 + step[1], step[2] + seen[-1:], c=step[3])
            elif step[0] == "load":
                seen += await load(0x3000 + step[1], step[2], c=True)
            elif step[0] == "cpuid":
                seen += bytes(value & 0xFF for value in await cpuid(step[1]))
            elif step[0] == "in":
                seen += await inp(step[1], 2)
            elif step[0] == "rdmsr":
                seen += (await rdmsr(step[1])).to_bytes(8, "little")
            elif step[0] == "ud2":
                await ud2()
            else:
                await pause()
        except Fault as fault:
            seen += bytes([fault.vector])
    await store(0x1000, (bytes([len(seen) & 0xFF]) + seen[-200:]).ljust(256, b"\0"), c=False)
    await hlt()


byte = st.integers(0, 255)
STEPS = st.one_of(
    st.tuples(st.just("store"), st.integers(0, 0x1000), st.binary(max_size=40), st.booleans()),
    st.tuples(st.just("load"), st.integers(0, 0x1000), st.integers(0, 40)),
    st.tuples(st.just("cpuid"), byte),
    st.tuples(st.just("in"), byte),
    st.tuples(st.just("rdmsr"), byte),
    st.just(("ud2",)),
    st.just(("pause",)),
)


def answer(board: Board, vmcb: Any, code: int) -> bool:
    """A hypervisor whose answers depend on the question alone; False when the guest halts."""
    if code == EXIT_HLT:
        return False
    if code == EXIT_MSR and vmcb.regs.rcx & 1:
        vmcb.event = Fault(GP)
    elif code != EXIT_INTR:
        seed = vmcb.regs.rax * 31 + vmcb.exit_info_1 * 7 + vmcb.regs.rcx & 0xFFFF
        vmcb.regs.rax, vmcb.regs.rbx, vmcb.regs.rcx, vmcb.regs.rdx, vmcb.skip = (
            seed,
            seed * 3,
            seed * 5,
            seed * 7 & 0xFFFF_FFFF,
            True,
        )
    return True


def final(script: Any, cut: set[int], budget: int, copies: bool) -> tuple[bytes, bytes, int]:
    """What a run leaves: the shared note, the memory worked on, the length of the log. At the cuts the thread is rebuilt."""
    board = Board()
    vmcb = board.guest(busy, script)
    for turn in range(2000):
        if turn in cut and vmcb.thread is not None:
            if copies:
                moment = moments(board.trace).find(moments(board.trace).mint(vmcb.thread, vmcb.skip))
                assert moment is not None
                vmcb.thread, vmcb.skip = moment.thread(), moment.skip
            else:
                vmcb.thread.send = None
        if not answer(board, vmcb, board.run(vmcb, budget)):
            break
    assert vmcb.thread is not None
    return board.bus(0x1000, 256), board.bus(0x3000, 0x1100), len(vmcb.thread.log)


@given(
    script=st.lists(STEPS, max_size=12).map(tuple),
    cut=st.sets(st.integers(1, 12), max_size=4),
    budget=st.integers(1, 9),
    copies=st.booleans(),
)
def test_a_rebuilt_thread_is_the_thread(script: Any, cut: set[int], budget: int, copies: bool) -> None:
    assert final(script, cut, budget, copies) == final(script, set(), 10_000, False)


@given(script=st.lists(STEPS, max_size=8).map(tuple))
def test_plaintext_of_a_private_page_is_never_on_the_bus(script: Any) -> None:
    marked = tuple((name, at, b"PLAINTEXT" + data, True) for name, at, data, *_ in [step for step in script if step[0] == "store"])
    board = Board()
    vmcb = board.guest(busy, marked)
    while answer(board, vmcb, board.run(vmcb, 1)):
        assert b"PLAINTEXT" not in board.soc.dram.read(0x3000, 0x2000)


# ------------------------------------------------------------------ moments


def test_a_moment_is_named_once_and_found_by_that_name_alone(board: Board) -> None:
    vmcb = board.guest(hello)
    board.run(vmcb)
    assert vmcb.thread is not None
    rsp = moments(board.trace).mint(vmcb.thread, skip=True)

    found = moments(board.trace).find(rsp)

    assert found is not None and found.program is vmcb.thread.program and found.skip and found.length == 2
    assert [moments(board.trace).find(other) for other in (0, rsp + 1, rsp + 8, rsp - 16, rsp + 16, -rsp)] == [None] * 6


def test_worlds_do_not_know_each_others_moments(board: Board) -> None:
    vmcb = board.guest(hello)
    board.run(vmcb)
    assert vmcb.thread is not None

    assert moments(Board().trace).find(moments(board.trace).mint(vmcb.thread, False)) is None


# ------------------------------------------------------------------ SEV-ES


async def handle_vc(instruction: Any) -> Any:
    """Answers CPUID alone, and without asking anybody."""
    if instruction[0] != "cpuid":
        raise Fault(GP)
    await pause()
    return (11, 12, 13, 14)


def test_an_es_guest_starts_where_its_sealed_state_says(board: Board) -> None:
    vmcb = board.es(hello, at=0x8000)

    assert board.run(vmcb) == EXIT_HLT
    assert vmcb.regs.rip == 0, "nothing of it is in the control block"


def test_the_registers_of_the_control_block_do_not_move_an_es_guest(board: Board) -> None:
    vmcb = board.es(hello, at=0x8000)
    vmcb.regs.rip, vmcb.save.cs.base = 0x9000, 0

    assert board.run(vmcb) == EXIT_HLT


@pytest.mark.parametrize("name", ["cpuid", "rdmsr", "wrmsr", "out", "in", "vmmcall"])
def test_a_non_automatic_exit_of_an_es_guest_without_a_handler_is_a_shutdown(board: Board, name: str) -> None:
    vmcb = board.es(does(name))

    assert board.run(vmcb) == EXIT_SHUTDOWN
    code = {"cpuid": EXIT_CPUID, "rdmsr": EXIT_MSR, "wrmsr": EXIT_MSR, "out": EXIT_IOIO, "in": EXIT_IOIO, "vmmcall": EXIT_VMMCALL}[
        name
    ]
    assert vmcb.why.endswith(f"has no handler for exception {VC}, error {code:#x}")


@pytest.mark.parametrize(("name", "code"), [("hlt", EXIT_HLT), ("vmgexit", EXIT_VMGEXIT)])
def test_an_automatic_exit_of_an_es_guest_leaves_at_once(board: Board, name: str, code: int) -> None:
    assert board.run(board.es(does(name))) == code


def test_a_device_of_an_es_guest_is_vc_first(board: Board) -> None:
    @program
    async def guest() -> None:
        await load(0x4000_0000, 4)

    vmcb = board.es(guest)

    assert board.run(vmcb) == EXIT_SHUTDOWN and vmcb.why.endswith(f"exception {VC}, error {EXIT_NPF:#x}")


def test_a_handler_of_vc_answers_in_the_instructions_place(board: Board) -> None:
    async def guest() -> None:
        await store(0x1000, bytes(await cpuid(1)), c=False)
        await hlt()

    vmcb = board.es(Program(guest, vc=handle_vc))

    assert board.run(vmcb) == EXIT_HLT and board.bus(0x1000, 4) == bytes((11, 12, 13, 14))


def test_what_a_handler_of_vc_raises_meets_the_interrupted_instruction(board: Board) -> None:
    async def guest() -> None:
        try:
            await rdmsr(0x10)
        except Fault as fault:
            await store(0x1000, bytes([fault.vector]), c=False)
        await hlt()

    assert board.run(board.es(Program(guest, vc=handle_vc))) == EXIT_HLT and board.bus(0x1000, 1) == bytes([GP])


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_a_handler_of_vc_may_be_interrupted_and_rebuilt(board: Board, budget: int) -> None:
    async def guest() -> None:
        for at in range(4):
            await store(0x1000 + at, bytes([(await cpuid(at))[at]]), c=False)
        await hlt()

    vmcb = board.es(Program(guest, vc=handle_vc))
    while board.run(vmcb, budget) == EXIT_INTR:
        assert vmcb.thread is not None
        vmcb.thread.send = None

    assert vmcb.exit_code == EXIT_HLT and board.bus(0x1000, 4) == bytes((11, 12, 13, 14))


def test_the_processor_answers_for_a_guests_own_msrs(board: Board) -> None:
    @program
    async def guest() -> None:
        await wrmsr(MSR_GHCB, 0x7000)
        await store(0x1000, bytes([await rdmsr(MSR_SEV_STATUS)]) + (await rdmsr(MSR_GHCB)).to_bytes(8, "little"), c=False)
        await hlt()

    vmcb = board.es(guest)

    assert board.run(vmcb) == EXIT_HLT and vmcb.ghcb_gpa == 0x7000
    assert board.bus(0x1000, 9) == b"\3" + (0x7000).to_bytes(8, "little")


@pytest.mark.parametrize(("asid", "msr"), [(0, MSR_SEV_STATUS), (0, MSR_GHCB), (ASID, MSR_GHCB)])
def test_elsewhere_those_msrs_are_the_hypervisors(board: Board, asid: int, msr: int) -> None:
    @program
    async def guest() -> None:
        await rdmsr(msr)

    assert board.run(board.guest(guest, asid=asid)) == EXIT_MSR


def test_a_save_area_that_was_never_sealed_is_not_entered(board: Board) -> None:
    vmcb = board.es(hello)
    board.soc.dram.write(vmcb.vmsa_hpa, bytes(PAGE))

    assert board.run(vmcb) == EXIT_INVALID and "holds no valid state" in vmcb.why


@pytest.mark.parametrize("field", ["efer", "cr0", "cr4", "dr6", "dr7"])
def test_a_save_area_with_an_impossible_register_is_not_entered(board: Board, field: str) -> None:
    vmcb = board.es(hello)
    save = type(vmcb.save).unpack(board.soc.engine.read(ASID, vmcb.vmsa_hpa, PAGE))
    setattr(save, field, 0 if field == "efer" else 1 << 40)
    board.soc.engine.write(ASID, vmcb.vmsa_hpa, save.pack())

    assert board.run(vmcb) == EXIT_INVALID


@pytest.mark.parametrize("at", [0, 0x178, 0x1F8, 0x388, 0xFBF])
def test_a_save_area_that_changed_since_the_exit_is_not_entered_again(board: Board, at: int) -> None:
    vmcb = board.es(rest)
    board.run(vmcb)
    vmcb.skip = True
    assert board.run(vmcb) == EXIT_HLT

    raw = board.soc.dram.read(vmcb.vmsa_hpa + at, 1)
    board.soc.dram.write(vmcb.vmsa_hpa + at, bytes([raw[0] ^ 1]))

    assert board.run(vmcb) == EXIT_INVALID and "was changed since" in vmcb.why


def test_a_save_area_under_another_key_is_not_entered(board: Board) -> None:
    vmcb = board.es(hello)
    vmcb.asid = OTHER

    assert board.run(vmcb) == EXIT_INVALID


def test_asid_zero_is_no_guests(board: Board) -> None:
    vmcb = board.guest(hello)
    vmcb.asid = 0

    assert board.run(vmcb) == EXIT_INVALID
