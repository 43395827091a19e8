"""The instructions a guest program may await.

A guest is a coroutine and one `await` is one instruction:

    async def hello():
        eax, ebx, ecx, edx = await cpuid(0x8000001F)      # am I encrypted?
        await store(0x1000, b"secret", c=True)            # c: the C-bit of the page this goes through
        await hlt()

Between two instructions a program computes in registers, which is to say in
Python's own variables: nobody but the guest sees them. What it wants the world
to see it stores, or gives to an instruction that leaves the guest.

`c` is the C-bit of the page-table entry that an access goes through: True is
private (the guest's key), False is shared; such an access names a physical
address, as through a mapping made for it. None is what the guest's page tables
say once it has loaded CR3 (`guest.pagetable` makes them), and private before
that, as outside long mode. In a guest without SEV there is no such bit and `c`
says nothing. Instruction fetches and page-table walks are private always,
whatever the tables say (firmware.md 6.3).

A program that returns runs off its end, where there is no instruction: a triple
fault, and the processor shuts down. End it with `await hlt()` in a loop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator
from types import coroutine
from typing import Any

from sevlab.hw.program import Program, program

__all__ = [
    "GP",
    "PF",
    "UD",
    "VC",
    "Fault",
    "Instruction",
    "Program",
    "checkpoint",
    "cpuid",
    "hlt",
    "inp",
    "ins",
    "jump",
    "load",
    "load_cr3",
    "out",
    "outs",
    "pause",
    "program",
    "rdmsr",
    "rdtsc",
    "sha256",
    "store",
    "ud2",
    "vmgexit",
    "vmmcall",
    "wbinvd",
    "wrmsr",
    "xsave",
]

UD, GP, PF, VC = 6, 13, 14, 29  # exception vectors

# What the processor is given: the mnemonic, then its operands.
Instruction = tuple[Any, ...]


class Fault(Exception):
    """An exception of the processor, raised at the instruction that caused it.

    `vector` is UD, GP, PF or VC; `error` its error code (for VC the exit code
    of the event that the guest must handle). A program that does not catch it
    has no handler: a triple fault.
    """

    def __init__(self, vector: int, error: int = 0) -> None:
        super().__init__(f"exception {vector}, error {error:#x}")
        self.vector = vector
        self.error = error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fault) and (self.vector, self.error) == (other.vector, other.error)

    def __hash__(self) -> int:
        return hash((self.vector, self.error))


# Each is a generator that yields once, the mnemonic and its operands, and is sent the result. Nothing else in a guest
# program yields: whoever drives it gets instructions and nothing but instructions.
Step = Generator[Instruction, Any, Any]


@coroutine
def load(gpa: int, n: int, c: bool | None = None) -> Step:
    """Read `n` bytes at `gpa`. A page with no memory behind it is a device: the VMM answers (MMIO)."""
    return (yield ("load", gpa, n, c))


@coroutine
def store(gpa: int, data: bytes | bytearray | memoryview, c: bool | None = None) -> Step:
    """Write `data` at `gpa`. Raises TypeError when `data` are not bytes."""
    if not isinstance(data, bytes):
        data = bytes(memoryview(data))  # TypeError for what has no bytes: a str, a number
    return (yield ("store", gpa, data, c))


@coroutine
def load_cr3(root: int) -> Step:
    """Use the four-level page tables whose root is at gpa `root` from the next instruction on; 0: none.

    From then on an address in `load`, `store` (without `c`) and `jump` is virtual. Tables are read through the
    guest's key, whatever any C-bit says; one that does not map the running program is a triple fault.
    """
    return (yield ("load_cr3", root))


@coroutine
def hlt() -> Step:
    """Stop until an interrupt comes."""
    return (yield ("hlt",))


@coroutine
def pause() -> Step:
    """Let time pass: what a loop that waits should do."""
    return (yield ("pause",))


@coroutine
def cpuid(leaf: int, subleaf: int = 0) -> Step:
    """(eax, ebx, ecx, edx) of a CPUID leaf. The hypervisor answers, so it is the hypervisor's word."""
    return (yield ("cpuid", leaf, subleaf))


@coroutine
def rdmsr(msr: int) -> Step:
    """The 64 bits of a model-specific register. Raises Fault(GP) in the guest for one that is not there."""
    return (yield ("rdmsr", msr))


@coroutine
def wrmsr(msr: int, value: int) -> Step:
    """Set a model-specific register. Raises Fault(GP) in the guest for one that is not there."""
    return (yield ("wrmsr", msr, value))


@coroutine
def out(port: int, data: int | bytes, size: int = 1) -> Step:
    """Write to an I/O port: bytes of length 1, 2 or 4, or a number of `size` bytes. Raises ValueError for other lengths."""
    data = data.to_bytes(size, "little") if isinstance(data, int) else bytes(data)
    if len(data) not in (1, 2, 4):
        raise ValueError(f"a port takes 1, 2 or 4 bytes, not {len(data)}")
    return (yield ("out", port, data))


@coroutine
def inp(port: int, size: int = 1) -> Step:
    """Read `size` bytes (1, 2 or 4) from an I/O port. Raises ValueError for other sizes."""
    if size not in (1, 2, 4):
        raise ValueError(f"a port gives 1, 2 or 4 bytes, not {size}")
    return (yield ("in", port, size))


@coroutine
def outs(port: int, data: bytes, size: int = 1) -> Step:
    """Write a string to an I/O port, `size` bytes (1, 2 or 4) at a time. Raises ValueError unless it divides the length."""
    if size not in (1, 2, 4) or len(data) % size:
        raise ValueError(f"a port takes 1, 2 or 4 bytes at a time; {len(data)} bytes do not come in pieces of {size}")
    return (yield ("outs", port, bytes(data), size))


@coroutine
def ins(port: int, count: int, size: int = 1) -> Step:
    """Read `count` elements of `size` bytes (1, 2 or 4) from an I/O port: count * size bytes. Raises ValueError for other sizes."""
    if size not in (1, 2, 4) or count < 0:
        raise ValueError(f"a port gives 1, 2 or 4 bytes at a time, not {size}, and not {count} times")
    return (yield ("ins", port, count, size))


@coroutine
def rdtsc() -> Step:
    """The time-stamp counter: one tick a virtual nanosecond. Not intercepted by KVM, so no exit."""
    return (yield ("rdtsc",))


@coroutine
def xsave() -> Step:
    """The 4,096 bytes that XSAVE writes with all components asked for. Raises Fault(UD) unless CR4.OSXSAVE is set."""
    return (yield ("xsave",))


@coroutine
def wbinvd() -> Step:
    """Write back and empty all caches: privileged, and the hypervisor sees it."""
    return (yield ("wbinvd",))


@coroutine
def vmmcall(nr: int = 0, *args: int) -> Step:
    """Call the hypervisor, as KVM's hypercalls do: the number in RAX, up to four arguments; RAX comes back."""
    if len(args) > 4:
        raise ValueError(f"a hypercall has at most 4 arguments, not {len(args)}")
    return (yield ("vmmcall", nr, *args))


@coroutine
def vmgexit() -> Step:
    """Leave the guest with what the GHCB says (SEV-ES). Elsewhere it is VMMCALL's other spelling."""
    return (yield ("vmgexit",))


@coroutine
def jump(gpa: int, *args: Any) -> Step:
    """Go on at `gpa`: fetch the page there, and be the program it holds. Does not return.

    `args` are handed over in registers, after those the page itself carries; the program takes as many as it
    has parameters. A page that holds no program under this guest's key is a triple fault.
    """
    return (yield ("jump", gpa, args))


@coroutine
def checkpoint(*state: Any) -> Step:
    """Start this program again at its top, with `state` as its arguments. Does not return.

    What a program received so far is then no longer part of it: a long life without a long memory. `state`
    is numbers, bytes, text, None, and tuples of them.
    """
    return (yield ("checkpoint", state))


@coroutine
def ud2() -> Step:
    """The instruction that is none: raises Fault(UD) in the guest."""
    return (yield ("ud2",))


def sha256(data: bytes) -> bytes:
    """SHA-256 of `data`, 32 bytes: the processor's SHA instructions, which no one outside sees."""
    return hashlib.sha256(data).digest()
