"""The #VC handler: what an SEV-ES guest shows its host, one request at a time.

    @program(vc=handle_vc)
    async def guest():
        await open_ghcb(0x3000)
        print_leaf(await cpuid(1))        # #VC, the handler, VMGEXIT, and back

The handler gets the instruction that the processor will not do by itself, and what
it returns is that instruction's result. It shows the operands of that instruction
and nothing else. `handle_vc` takes the GHCB from its MSR, which the host can write;
`vc_handler(base, count)` makes one that only uses pages of the guest's own choosing.
Source: kvm.md G2 to G6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab.abi.ghcb import (
    GHCB_MSR_INFO_MASK,
    IOIO_IN,
    IOIO_PORT_SHIFT,
    IOIO_REP,
    IOIO_SIZE_SHIFT,
    IOIO_STR,
    MSR_AMD64_SEV_ES_GHCB,
    SVM_EXIT_CPUID,
    SVM_EXIT_IOIO,
    SVM_EXIT_MSR,
    SVM_EXIT_VMMCALL,
    SVM_EXIT_WBINVD,
    SVM_VMGEXIT_MMIO_READ,
    SVM_VMGEXIT_MMIO_WRITE,
    SVM_VMGEXIT_UNSUPPORTED_EVENT,
)
from sevlab.guest.ghcb import (
    BUFFER,
    CPL,
    PAGE,
    RAX,
    RBX,
    RCX,
    RDX,
    ROOM,
    RSI,
    XCR0,
    ask,
    cpuid_by_msr,
    terminate,
    vouched,
)
from sevlab.hw.isa import load, rdmsr, store

XSTATE = 0xD  # the CPUID leaf whose answer depends on XCR0
XCR0_AT_RESET = 1
PIECE = 8  # bytes of one access to a device
ARGUMENTS = (RBX, RCX, RDX, RSI)  # of a hypercall
U32 = 0xFFFF_FFFF


async def vc_cpuid(ghcb: int, leaf: int, subleaf: int) -> tuple[int, ...]:
    """CPUID: two registers shown, a third for the one leaf that depends on it."""
    shown = ((RAX, leaf), (RCX, subleaf)) + (((XCR0, XCR0_AT_RESET),) if leaf == XSTATE else ())
    answer = await ask(ghcb, SVM_EXIT_CPUID, registers=shown)
    return tuple([value & U32 for value in await vouched(answer, RAX, RBX, RCX, RDX)])


async def vc_rdmsr(ghcb: int, msr: int) -> int:
    """RDMSR: the number is shown. Raises Fault(GP) where the host has no such register."""
    low, high = await vouched(await ask(ghcb, SVM_EXIT_MSR, registers=((RCX, msr),)), RAX, RDX)
    return high << 32 | low & U32


async def vc_wrmsr(ghcb: int, msr: int, value: int) -> None:
    """WRMSR: number and value. Raises Fault(GP) where the host refuses."""
    await ask(ghcb, SVM_EXIT_MSR, 1, registers=((RCX, msr), (RAX, value & U32), (RDX, value >> 32)))


async def vc_out(ghcb: int, port: int, data: bytes) -> None:
    """OUT: only as many bytes of RAX as the instruction writes."""
    info = port << IOIO_PORT_SHIFT | len(data) << IOIO_SIZE_SHIFT
    await ask(ghcb, SVM_EXIT_IOIO, info, registers=((RAX, int.from_bytes(data, "little")),))


async def vc_in(ghcb: int, port: int, size: int) -> bytes:
    """IN: nothing is shown but the port."""
    info = port << IOIO_PORT_SHIFT | size << IOIO_SIZE_SHIFT | IOIO_IN
    (value,) = await vouched(await ask(ghcb, SVM_EXIT_IOIO, info), RAX)
    return value.to_bytes(8, "little")[:size]


async def vc_outs(ghcb: int, port: int, data: bytes, size: int) -> None:
    """OUTS: through the page's own buffer, as much at a time as it holds."""
    step = ROOM // size * size
    for at in range(0, len(data), step):
        part = data[at : at + step]
        await store(ghcb + BUFFER, part, c=False)
        info = port << IOIO_PORT_SHIFT | size << IOIO_SIZE_SHIFT | IOIO_STR | IOIO_REP
        await ask(ghcb, SVM_EXIT_IOIO, info, len(part) // size, scratch=ghcb + BUFFER)


async def vc_ins(ghcb: int, port: int, count: int, size: int) -> bytes:
    """INS: the same, the other way."""
    step, found, left = ROOM // size, b"", count
    while left:
        part = min(left, step)
        info = port << IOIO_PORT_SHIFT | size << IOIO_SIZE_SHIFT | IOIO_STR | IOIO_REP | IOIO_IN
        await ask(ghcb, SVM_EXIT_IOIO, info, part, scratch=ghcb + BUFFER)
        found += await load(ghcb + BUFFER, part * size, c=False)
        left -= part
    return found


async def vc_load(ghcb: int, gpa: int, n: int, c: bool | None) -> bytes:
    """A load where there is no memory: a device, if the guest meant a shared page. Private memory cannot be missing."""
    if c is not False:
        await terminate()
    found = b""
    for at in range(0, n, PIECE):
        size = min(PIECE, n - at)
        await ask(ghcb, SVM_VMGEXIT_MMIO_READ, gpa + at, size, scratch=ghcb + BUFFER)
        found += await load(ghcb + BUFFER, size, c=False)
    return found


async def vc_store(ghcb: int, gpa: int, data: bytes, c: bool | None) -> None:
    """A store where there is no memory."""
    if c is not False:
        await terminate()
    for at in range(0, len(data), PIECE):
        await store(ghcb + BUFFER, data[at : at + PIECE], c=False)
        await ask(ghcb, SVM_VMGEXIT_MMIO_WRITE, gpa + at, min(PIECE, len(data) - at), scratch=ghcb + BUFFER)


async def vc_vmmcall(ghcb: int, nr: int, *args: int) -> int:
    """VMMCALL: the number, the privilege level, and as many arguments as there are."""
    shown = ((RAX, nr), (CPL, 0), *zip(ARGUMENTS, args, strict=False))
    (value,) = await vouched(await ask(ghcb, SVM_EXIT_VMMCALL, registers=shown), RAX)
    return value


async def vc(ghcb: int, instruction: tuple[Any, ...]) -> Any:
    """Answer for one instruction through the GHCB at `ghcb`."""
    op, operands = instruction[0], instruction[1:]
    if op == "cpuid":
        return await vc_cpuid(ghcb, *operands)
    if op == "rdmsr":
        return await vc_rdmsr(ghcb, *operands)
    if op == "wrmsr":
        return await vc_wrmsr(ghcb, *operands)
    if op == "out":
        return await vc_out(ghcb, *operands)
    if op == "in":
        return await vc_in(ghcb, *operands)
    if op == "outs":
        return await vc_outs(ghcb, *operands)
    if op == "ins":
        return await vc_ins(ghcb, *operands)
    if op == "load":
        return await vc_load(ghcb, *operands)
    if op == "store":
        return await vc_store(ghcb, *operands)
    if op == "vmmcall":
        return await vc_vmmcall(ghcb, *operands)
    if op == "wbinvd":
        await ask(ghcb, SVM_EXIT_WBINVD)
        return None
    await ask(ghcb, SVM_VMGEXIT_UNSUPPORTED_EVENT)
    return None


async def vc_without_ghcb(instruction: tuple[Any, ...]) -> tuple[int, ...]:
    """Before there is a GHCB: CPUID by the MSR protocol. Anything else ends the guest."""
    if instruction[0] != "cpuid":
        await terminate()
    return await cpuid_by_msr(instruction[1])


async def handle_vc(instruction: tuple[Any, ...]) -> Any:
    """The standard handler: through the GHCB that the MSR names, by the MSR protocol before one is open."""
    ghcb = await rdmsr(MSR_AMD64_SEV_ES_GHCB)
    if ghcb & GHCB_MSR_INFO_MASK or not ghcb:
        return await vc_without_ghcb(instruction)
    return await vc(ghcb, instruction)


def vc_handler(base: int, count: int = 1) -> Callable[..., Any]:
    """A handler for programs whose GHCBs are the `count` pages from `base`, one for each processor.

    The MSR is a field of the host's control block. One that names any other page has been tampered with: the guest
    would write a request over its own private memory. It ends instead.
    """

    async def handle(instruction: tuple[Any, ...]) -> Any:
        ghcb = await rdmsr(MSR_AMD64_SEV_ES_GHCB)
        if ghcb & GHCB_MSR_INFO_MASK or not ghcb:
            return await vc_without_ghcb(instruction)
        if not base <= ghcb < base + count * PAGE:
            await terminate()
        return await vc(ghcb, instruction)

    return handle
