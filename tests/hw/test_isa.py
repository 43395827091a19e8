"""The instructions: each is one await, and what it yields is the mnemonic and its operands."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from sevlab.hw import cpu, isa

EVERY: dict[str, Callable[[], Any]] = {
    "load": lambda: isa.load(0x1000, 4),
    "store": lambda: isa.store(0x1000, b"x"),
    "hlt": isa.hlt,
    "pause": isa.pause,
    "cpuid": lambda: isa.cpuid(1),
    "rdmsr": lambda: isa.rdmsr(0x10),
    "wrmsr": lambda: isa.wrmsr(0x10, 1),
    "out": lambda: isa.out(0x80, 1),
    "in": lambda: isa.inp(0x80),
    "vmmcall": isa.vmmcall,
    "vmgexit": isa.vmgexit,
    "jump": lambda: isa.jump(0x1000),
    "checkpoint": isa.checkpoint,
    "load_cr3": lambda: isa.load_cr3(0x1000),
    "outs": lambda: isa.outs(0x3F8, b"ab"),
    "ins": lambda: isa.ins(0x3F8, 2),
    "rdtsc": lambda: isa.rdtsc(),
    "wbinvd": lambda: isa.wbinvd(),
    "xsave": lambda: isa.xsave(),
    "ud2": isa.ud2,
}


def yielded(awaitable: Any) -> Any:
    return awaitable.send(None)


@pytest.mark.parametrize("mnemonic", EVERY)
def test_every_instruction_yields_itself_and_returns_what_it_is_sent(mnemonic: str) -> None:
    step = EVERY[mnemonic]()

    assert step.send(None)[0] == mnemonic
    with pytest.raises(StopIteration) as end:
        step.send("the result")

    assert end.value.value == "the result"


def test_the_processor_knows_exactly_these_instructions() -> None:
    assert set(EVERY) == set(cpu.LEAVE) | set(cpu.LOCAL)


@pytest.mark.parametrize(
    ("step", "operands"),
    [
        (lambda: isa.load(0x1000, 4, c=False), (0x1000, 4, False)),
        (lambda: isa.load(0x1000, 4), (0x1000, 4, None)),
        (lambda: isa.store(0x1000, bytearray(b"ab"), c=True), (0x1000, b"ab", True)),
        (lambda: isa.store(0x1000, memoryview(b"ab")), (0x1000, b"ab", None)),
        (lambda: isa.cpuid(7, 2), (7, 2)),
        (lambda: isa.out(0x3F8, 0x1234, 2), (0x3F8, b"\x34\x12")),
        (lambda: isa.out(0x3F8, b"A"), (0x3F8, b"A")),
        (lambda: isa.inp(0x3F8, 4), (0x3F8, 4)),
        (lambda: isa.vmmcall(12, 1, 2), (12, 1, 2)),
        (lambda: isa.jump(0x1000, 7, b"x"), (0x1000, (7, b"x"))),
        (lambda: isa.checkpoint(1, 2), ((1, 2),)),
    ],
)
def test_operands_come_as_the_processor_takes_them(step: Callable[[], Any], operands: tuple[Any, ...]) -> None:
    assert yielded(step())[1:] == operands


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (lambda: isa.store(0x1000, "text"), TypeError),  # type: ignore[arg-type]
        (lambda: isa.store(0x1000, 5), TypeError),  # type: ignore[arg-type]
        (lambda: isa.out(0x80, b"abc"), ValueError),
        (lambda: isa.out(0x80, b""), ValueError),
        (lambda: isa.out(0x80, 256), OverflowError),
        (lambda: isa.out(0x80, 1, 3), ValueError),
        (lambda: isa.inp(0x80, 8), ValueError),
        (lambda: isa.inp(0x80, 0), ValueError),
        (lambda: isa.vmmcall(1, 2, 3, 4, 5, 6), ValueError),
    ],
)
def test_operands_that_no_instruction_has_are_refused_in_the_guest(step: Callable[[], Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        yielded(step())


def test_sha256_is_sha256() -> None:
    assert isa.sha256(b"abc") == hashlib.sha256(b"abc").digest()


def test_two_faults_are_equal_when_vector_and_error_are() -> None:
    assert isa.Fault(isa.GP) == isa.Fault(isa.GP, 0) and hash(isa.Fault(isa.GP)) == hash(isa.Fault(isa.GP))
    assert isa.Fault(isa.GP) != isa.Fault(isa.UD)
    assert isa.Fault(isa.VC, 0x72) != isa.Fault(isa.VC, 0x7C)
