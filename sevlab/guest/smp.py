"""More than one processor: messages through the local APIC, and what a guest's APs do between two calls.

Without SEV-ES a SIPI says where a processor starts. With it, an AP always starts at
the address that the firmware's reset block names, which was measured. What runs
there the firmware's BSP has put into private memory, and it parks itself. From
there a table, in private memory too, says where to go, and the host is asked for
nothing but to keep the table's address and to pass a wake-up on:

    reset block --> ap_reset: hold --> the table says --> ap_work: work, hold --> the table says ...

    gpa            what                                                       C-bit
    0x0000_8000    ap_work, where the OS has its APs start                    private
    0x0004_0000    DONE, a byte for each processor: how often it has worked   private
    0x0004_1000    CALLED, a byte for each: how often it was called           private
    0x0080_A000    the jump table: IP, CS                                     private
    0x0080_B000    ap_reset, the page of the reset block                      private
    0x0100_0000    the OS                                                     private
    0x0120_0000    GHCBs, one page for each processor                         shared

A host that wakes an AP which nobody has called is found out by CALLED, one that
names another table by the address that the firmware published. That a call never
arrives nobody in the guest can know. Source: kvm.md G6, G7.
"""

from __future__ import annotations

from sevlab.abi.boot import ANSWER, KERNEL, MAILBOX, RESET_BLOCK, answer
from sevlab.abi.ghcb import AP_JUMP_TABLE_GET, AP_JUMP_TABLE_SET, SVM_VMGEXIT_AP_HLT_LOOP, SVM_VMGEXIT_AP_JUMP_TABLE
from sevlab.guest.ghcb import INFO_2, ask, cpuid_by_msr, field, open_ghcb, terminate
from sevlab.guest.vc import vc_handler
from sevlab.hw.isa import hlt, jump, load, program, rdmsr, store, wrmsr

PAGE = 0x1000
PROCESSORS = 1024  # the most that these pages are laid out for
RESET_PAGE = RESET_BLOCK & -PAGE
JUMP_TABLE = RESET_PAGE - PAGE
TRAMPOLINE = 0x8000
DONE, CALLED = 0x4_0000, 0x4_1000
GHCBS = 0x0120_0000

MSR_APIC_BASE, X2APIC = 0x1B, 1 << 10
SPIV, ICR = 0x80F, 0x830
ENABLED = 0x1FF
INIT, STARTUP, CALL_BSP = 0x4500, 0x4600, 0x4040
OTHERS = 3 << 18  # everybody but the sender
TOPOLOGY = 0xB  # CPUID: EDX is this processor's number
ROUNDS = 2  # how often the OS has its APs work

# Why a guest ends: reason set 3 is this course's.
LIES, FOREIGN_TABLE, FALSE_CALL = 3, 1, 2

on_vc = vc_handler(GHCBS, PROCESSORS)


# ------------------------------------------------------------------ what programs are made of


async def x2apic_on() -> None:
    """This processor's APIC in x2APIC mode, and ready for interrupts."""
    await wrmsr(MSR_APIC_BASE, await rdmsr(MSR_APIC_BASE) | X2APIC)
    await wrmsr(SPIV, ENABLED)


async def start_others(vector: int = 0) -> None:
    """INIT, SIPI, SIPI to everybody else, as since 1995. A sealed processor does not look at the vector."""
    for message in (INIT, STARTUP | vector, STARTUP | vector):
        await wrmsr(ICR, OTHERS | message)


async def gather(first: int, count: int, value: int) -> None:
    """Halt until the bytes at `first` of all `count` processors but this one are `value`; each tells the BSP when it is done."""
    while await load(first + 1, count - 1, c=True) != bytes([value]) * (count - 1):
        await hlt()


async def hold(ghcb: int) -> bool:
    """Park this processor until it is woken: True for a SIPI, False for anything else, or for a host that says so."""
    return bool(field(await ask(ghcb, SVM_VMGEXIT_AP_HLT_LOOP), INFO_2))


async def set_jump_table(ghcb: int, gpa: int) -> None:
    """Have the host keep the table's address."""
    await ask(ghcb, SVM_VMGEXIT_AP_JUMP_TABLE, AP_JUMP_TABLE_SET, gpa)


async def jump_table(ghcb: int) -> int:
    """The table's address, as the host says."""
    return field(await ask(ghcb, SVM_VMGEXIT_AP_JUMP_TABLE, AP_JUMP_TABLE_GET), INFO_2)


async def park(ghcb: int, number: int) -> None:
    """Hold until called, then go where the table says. Woken without a call is no call; called by nobody is a lie."""
    before = (await load(CALLED + number, 1, c=True))[0]
    while True:
        if not await hold(ghcb):
            continue  # an interrupt
        if (await load(CALLED + number, 1, c=True))[0] == before:
            await terminate(FALSE_CALL, LIES)
        entry = await load(JUMP_TABLE, 4, c=True)
        await jump(int.from_bytes(entry[2:], "little") * 16 + int.from_bytes(entry[:2], "little"), number)


async def tell_bsp(first: int, number: int, value: int) -> None:
    """Leave a mark in this processor's byte, and wake the BSP to look at it."""
    await store(first + number, bytes([value]), c=True)
    await wrmsr(ICR, CALL_BSP)


# ------------------------------------------------------------------ the APs' programs


@program(vc=on_vc)
async def ap_reset() -> None:
    """What an AP runs first, whatever the SIPI said: learn its number, share its GHCB, park.

    To be started once more (a guest that was reset) ends here too.
    """
    number = (await cpuid_by_msr(TOPOLOGY))[3]
    await open_ghcb(GHCBS + number * PAGE)
    await x2apic_on()
    await tell_bsp(DONE, number, 1)
    await park(GHCBS + number * PAGE, number)


@program(vc=on_vc)
async def ap_work(number: int) -> None:
    """The OS's part of an AP: one piece of work, then park again."""
    done = (await load(DONE + number, 1, c=True))[0]
    await tell_bsp(DONE, number, done + 1)
    await park(GHCBS + number * PAGE, number)


AP_RESET, AP_WORK = ap_reset.image().rstrip(b"\0"), ap_work.image().rstrip(b"\0")


# ------------------------------------------------------------------ the BSP's programs


@program(vc=on_vc)
async def smp_os(processors: int) -> None:
    """A small OS: ask where the APs' table is, and believe it only if it is the firmware's; call all APs, twice."""
    if await jump_table(GHCBS) != JUMP_TABLE:
        await terminate(FOREIGN_TABLE, LIES)
    await store(TRAMPOLINE, AP_WORK.ljust(PAGE, b"\0"), c=True)
    await store(JUMP_TABLE, (0).to_bytes(2, "little") + (TRAMPOLINE >> 4).to_bytes(2, "little"), c=True)
    for turn in range(1, ROUNDS + 1):
        await store(CALLED, bytes([turn]) * processors, c=True)
        await start_others()
        await gather(DONE, processors, turn + 1)
    await store(MAILBOX, answer(ANSWER, await load(DONE, processors, c=True)), c=False)
    while True:
        await hlt()


SMP_OS = smp_os.image().rstrip(b"\0")


@program(vc=on_vc)
async def smp_firmware(processors: int = 1) -> None:
    """Firmware for several processors, as far as SEV-ES asks for it: the APs' first page, their table, and its address.

    Registered for the top page of OVMF, or the course's own image: what matters is the reset block's address in it.
    """
    await open_ghcb(GHCBS)
    await x2apic_on()
    await store(RESET_PAGE, AP_RESET.ljust(PAGE, b"\0"), c=True)
    await store(JUMP_TABLE, bytes(PAGE), c=True)
    await store(DONE, bytes(processors), c=True)
    await store(CALLED, bytes(processors), c=True)
    await set_jump_table(GHCBS, JUMP_TABLE)
    await start_others()
    await gather(DONE, processors, 1)
    await store(KERNEL, SMP_OS.ljust(PAGE, b"\0"), c=True)
    await jump(KERNEL, processors)
