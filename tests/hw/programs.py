"""Small guests for the tests of the processor, among them one for each instruction that leaves the guest."""

from __future__ import annotations

from typing import Any

from sevlab.hw.isa import cpuid, hlt, inp, out, pause, program, rdmsr, store, vmgexit, vmmcall, wrmsr
from sevlab.hw.program import Program
from sevlab.hw.vmcb import EXIT_CPUID, EXIT_HLT, EXIT_IOIO, EXIT_MSR, EXIT_VMMCALL

SECRET = b"sixteen letters."


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
