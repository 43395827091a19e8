"""The guest's side of the GHCB: opening one, filling in a request and nothing more, and not believing the answer.

The page is shared, so everything in it is the host's to read and to change. Each
answer is read once, in one load; what the host says in place of an answer is held
against the few things that it may say, and anything else ends the guest.
Source: kvm.md G1 to G5 (the guest's rules are those of Linux's verify_exception_info).
"""

from __future__ import annotations

from sevlab.abi.ghcb import (
    GHCB_MSR_CPUID_REQ,
    GHCB_MSR_CPUID_RESP,
    GHCB_MSR_INFO_MASK,
    GHCB_MSR_SEV_INFO_REQ,
    GHCB_MSR_SEV_INFO_RESP,
    GHCB_MSR_TERM_REQ,
    GHCB_RESP_EXCEPTION,
    MSR_AMD64_SEV_ES_GHCB,
    TERM_REASON_GENERAL,
    TERM_REASON_PROTOCOL,
    TERM_SET_GENERAL,
)
from sevlab.hw.isa import Fault, load, rdmsr, store, vmgexit, wrmsr

PAGE = 0x1000
NEWEST = 2  # the newest version of the protocol that is spoken here
BUFFER, ROOM = 0x800, 2032  # the page's own scratch area

# Where fields lie in the page; the valid bit of a field is its offset divided by 8.
CPL, RAX, RCX, RDX, RBX, RSI = 0xCB, 0x1F8, 0x308, 0x310, 0x318, 0x330
EXIT_CODE, INFO_1, INFO_2, SCRATCH, XCR0, BITMAP, VERSION = 0x390, 0x398, 0x3A0, 0x3A8, 0x3E8, 0x3F0, 0xFFA

VECTORS = (6, 13)  # the exceptions that a host may ask for: #UD and #GP
EXCEPTION_TYPE, EXCEPTION_VALID = 3, 1 << 31


async def terminate(reason: int = TERM_REASON_GENERAL, reason_set: int = TERM_SET_GENERAL) -> None:
    """Say that the guest ends here, and why; and say it again to a host that lets it go on all the same."""
    while True:
        await wrmsr(MSR_AMD64_SEV_ES_GHCB, reason << 16 | reason_set << 12 | GHCB_MSR_TERM_REQ)
        await vmgexit()


async def by_msr(request: int) -> int:
    """One request by the MSR protocol: the response."""
    await wrmsr(MSR_AMD64_SEV_ES_GHCB, request)
    await vmgexit()
    response: int = await rdmsr(MSR_AMD64_SEV_ES_GHCB)
    return response


async def version_offered() -> int:
    """The version of the protocol that both sides speak, and the newest of them. Ends the guest where there is none."""
    offer = await by_msr(GHCB_MSR_SEV_INFO_REQ)
    newest, oldest = offer >> 48, offer >> 32 & 0xFFFF
    if offer & GHCB_MSR_INFO_MASK != GHCB_MSR_SEV_INFO_RESP or newest < 1 or oldest > NEWEST or oldest > newest:
        await terminate(TERM_REASON_PROTOCOL)
    return min(newest, NEWEST)


async def open_ghcb(gpa: int) -> int:
    """Use the page at `gpa` as this processor's GHCB: agree on a version (which is the answer), share the page, name it."""
    version = await version_offered()
    await store(gpa, bytes(PAGE), c=False)
    await store(gpa + VERSION, version.to_bytes(2, "little"), c=False)
    await wrmsr(MSR_AMD64_SEV_ES_GHCB, gpa)
    return version


async def cpuid_by_msr(leaf: int) -> tuple[int, ...]:
    """CPUID without a GHCB: four requests, one register each; subleaf 0 alone can be asked for."""
    found = []
    for register in range(4):
        response = await by_msr(leaf << 32 | register << 30 | GHCB_MSR_CPUID_REQ)
        if response & GHCB_MSR_INFO_MASK != GHCB_MSR_CPUID_RESP:
            await terminate()
        found.append(response >> 32)
    return tuple(found)


async def ask(
    gpa: int, code: int, info_1: int = 0, info_2: int = 0, registers: tuple[tuple[int, int], ...] = (), scratch: int = 0
) -> bytes:
    """One request through the GHCB at `gpa`: the page from RAX to the bitmap, as the host left it.

    `registers` are (offset, value) of those that the request needs, and no others are shown. Raises Fault(UD) or
    Fault(GP) where the host asks for it; ends the guest at any other word that is no answer.
    """
    bitmap, xcr0 = 7 << EXIT_CODE // 8, 0
    for offset, value in registers:
        bitmap |= 1 << offset // 8
        if offset == XCR0:
            xcr0 = value  # it lies between the numbers and the bitmap, which go in one piece
        else:
            await store(gpa + offset, value.to_bytes(1 if offset == CPL else 8, "little"), c=False)
    if scratch:
        bitmap |= 1 << SCRATCH // 8
    numbers = code | info_1 << 64 | info_2 << 128 | scratch << 192
    numbers |= xcr0 << 8 * (XCR0 - EXIT_CODE) | bitmap << 8 * (BITMAP - EXIT_CODE)
    await store(gpa + EXIT_CODE, numbers.to_bytes(BITMAP + 16 - EXIT_CODE, "little"), c=False)
    await vmgexit()

    answer: bytes = await load(gpa + RAX, BITMAP + 16 - RAX, c=False)
    said, detail = field(answer, INFO_1) & 0xFFFF_FFFF, field(answer, INFO_2)
    if said == GHCB_RESP_EXCEPTION:
        vector = detail & 0xFF
        if detail & EXCEPTION_VALID and detail >> 8 & 7 == EXCEPTION_TYPE and vector in VECTORS:
            raise Fault(vector)
    if said:
        await terminate()
    return answer


def field(answer: bytes, offset: int) -> int:
    """A field of eight bytes in what `ask` gives."""
    return int.from_bytes(answer[offset - RAX : offset - RAX + 8], "little")


async def vouched(answer: bytes, *offsets: int) -> tuple[int, ...]:
    """Fields of an answer, each of which the host must vouch for; a host that does not ends the guest."""
    wanted = sum([1 << offset // 8 for offset in offsets])
    if int.from_bytes(answer[BITMAP - RAX : BITMAP + 16 - RAX], "little") & wanted != wanted:
        await terminate()
    return tuple([int.from_bytes(answer[offset - RAX : offset - RAX + 8], "little") for offset in offsets])
