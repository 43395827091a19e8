"""The general registers of a sealed processor: which of them an instruction uses, and where they stand in the save area.

A program keeps what it knows in Python's variables, and nobody sees those. What an
instruction takes and gives passes through registers as in machine code, and at a
VMEXIT of an SEV-ES guest they go into its save area: the ciphertext of a register's
16-byte block changes when the register changes, and returns when its value does
(firmware.md 6.5).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from types import CoroutineType
from typing import TYPE_CHECKING, Any
from zlib import crc32

from sevlab.hw.isa import Fault, Instruction

if TYPE_CHECKING:
    from sevlab.hw.thread import Thread

# A register file is a list in this order, which is the order in the save area.
RFLAGS, RIP, RSP, RAX, RCX, RDX, RBX, RBP, RSI, RDI = range(10)
NAMES = (
    *("rflags", "rip", "rsp", "rax", "rcx", "rdx", "rbx", "rbp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
# (offset in the save area, first register, how many)
PLACES = ((0x170, RFLAGS, 2), (0x1D8, RSP, 1), (0x1F8, RAX, 1), (0x308, RCX, 3), (0x328, RBP, 11))
_STRUCTS = tuple((offset, first, first + count, struct.Struct(f"<{count}Q")) for offset, first, count in PLACES)

STACK = 0x7FFF_F000  # where a program's stack begins
FRAME = 0x40  # bytes of it that one call takes
U64 = (1 << 64) - 1

Registers = list[int]


def take(page: bytes | bytearray) -> Registers:
    """The register file in a save area in clear."""
    found: Registers = []
    for offset, _, _, layout in _STRUCTS:
        found += layout.unpack_from(page, offset)
    return found


def put(page: bytearray, registers: Registers | tuple[int, ...]) -> None:
    """Write a register file into a save area in clear."""
    for offset, first, end, layout in _STRUCTS:
        layout.pack_into(page, offset, *registers[first:end])


# ------------------------------------------------- what instructions do to them


def _number(data: bytes) -> int:
    return int.from_bytes(data[:8], "little")


def _load(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RSI] = instruction[1]
    if value is not None and instruction[2] <= 8:
        registers[RAX] = _number(value)


def _store(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RDI] = instruction[1]
    if len(instruction[2]) <= 8:
        registers[RAX] = _number(instruction[2])


def _cpuid(registers: Registers, instruction: Instruction, value: Any) -> None:
    if value is None:
        registers[RAX], registers[RCX] = instruction[1], instruction[2]
    else:
        registers[RAX], registers[RBX], registers[RCX], registers[RDX] = value


def _rdmsr(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RCX] = instruction[1]
    if value is not None:
        registers[RAX], registers[RDX] = value & 0xFFFF_FFFF, value >> 32


def _wrmsr(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RCX], registers[RAX], registers[RDX] = instruction[1], instruction[2] & 0xFFFF_FFFF, instruction[2] >> 32


def _out(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RDX], registers[RAX] = instruction[1], _number(instruction[2])


def _in(registers: Registers, instruction: Instruction, value: Any) -> None:
    registers[RDX] = instruction[1]
    if value is not None:
        registers[RAX] = _number(value)


def _vmmcall(registers: Registers, instruction: Instruction, value: Any) -> None:
    for register, operand in zip((RAX, RBX, RCX, RDX, RSI), instruction[1:], strict=False):
        registers[register] = operand & U64
    if value is not None:
        registers[RAX] = value


# Called with None when an instruction begins something that is not done yet, with its result when it is done.
EFFECTS: dict[str, Callable[[Registers, Instruction, Any], None]] = {
    "load": _load,
    "store": _store,
    "cpuid": _cpuid,
    "rdmsr": _rdmsr,
    "wrmsr": _wrmsr,
    "out": _out,
    "in": _in,
    "vmmcall": _vmmcall,
}


def pass_through(registers: Registers, instruction: Instruction, value: Any = None) -> None:
    """Let an instruction's operands, and its result if it has one, pass through the registers."""
    effect = EFFECTS.get(instruction[0])
    if effect is not None:
        try:
            effect(registers, instruction, None if value.__class__ is Fault else value)
        except (TypeError, ValueError, IndexError):
            return  # a handler answered with what no instruction gives: the program meets it, the registers do not


# ------------------------------------------------- where a thread stands


def position(thread: Thread) -> tuple[int, int]:
    """Where a thread stands: bits 11 to 0 of RIP, which name the line of its program, and RSP, by how deep its calls are.

    Two instructions of one line are one place, and of lines far apart a few share one.
    """
    depth, name, line = 0, "", 0
    for frame in thread.frames:
        top: Any = frame
        while True:
            depth += 1
            awaited = top.cr_await
            if awaited.__class__ is not CoroutineType:
                break
            top = awaited
        live = top.cr_frame
        if live is not None:
            code = live.f_code
            name, line = code.co_name, (live.f_lineno or 0) - code.co_firstlineno
    return crc32(f"{name}:{line}".encode()) & 0xFFF, STACK - FRAME * depth
