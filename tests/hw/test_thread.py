"""The thread as data: rebuilt, copied and named, it is the same thread."""

from __future__ import annotations

from typing import Any

import pytest
from hw.processor import Board
from hw.programs import hello
from hypothesis import given
from hypothesis import strategies as st

from sevlab.hw.isa import GP, Fault, cpuid, hlt, inp, load, pause, program, rdmsr, store, ud2
from sevlab.hw.thread import moments
from sevlab.hw.vmcb import EXIT_HLT, EXIT_INTR, EXIT_MSR


@pytest.fixture
def board() -> Board:
    return Board()


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
