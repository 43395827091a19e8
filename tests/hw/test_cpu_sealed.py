"""The processor of an SEV-ES guest: its sealed state, its #VC, and what it does not enter."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import ASID, OTHER, PAGE, Board
from hw.programs import does, hello, rest

from sevlab.hw.cpu import MSR_GHCB, MSR_SEV_STATUS
from sevlab.hw.isa import GP, VC, Fault, cpuid, hlt, load, pause, program, rdmsr, store, wrmsr
from sevlab.hw.program import Program
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


@pytest.fixture
def board() -> Board:
    return Board()


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
