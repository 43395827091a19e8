"""Small guests to begin with: each is a page to read, to launch and to change."""

from __future__ import annotations

from sevlab.guest.pagetable import ROOT, c_bit_mask, identity, share, unshare
from sevlab.hw.isa import checkpoint, hlt, inp, load, load_cr3, out, program, store

PRIVATE_GPA = 0x1000
SHARED_GPA = 0x2000
DIARY_GPA = 0x4000
PAGE_GPA, DESK_GPA = 0x10_0000, 0x40_0000  # the scribe's private memory, and the desk that it shares
CONSOLE = 0x3F8  # the first serial line

GREETING = b"hello, cloud"
SECRET = b"my diary, page 1"


@program
async def hello() -> None:
    """Say hello where everybody can read it, and keep a secret where nobody can."""
    await store(SHARED_GPA, GREETING, c=False)
    await store(PRIVATE_GPA, SECRET, c=True)
    while True:
        await hlt()


@program
async def counter(n: int = 0) -> None:
    """Count, once for each time it is woken: the number in private memory, a copy of it in shared memory."""
    await store(PRIVATE_GPA, n.to_bytes(8, "little"), c=True)
    await store(SHARED_GPA, n.to_bytes(8, "little"), c=False)
    await hlt()
    await checkpoint(n + 1)


@program
async def echo_io(port: int = CONSOLE) -> None:
    """Read a port byte by byte and write each back; a zero byte ends a line, and the guest waits."""
    while True:
        byte = await inp(port)
        if byte == b"\0":
            await hlt()
        else:
            await out(port, byte)


@program
async def diary(gpa: int = DIARY_GPA, text: bytes = SECRET) -> None:
    """Write one sentence, first into a private page, then, each time it is woken, with the page's C-bit the other way.

    The instruction that stores is the same each time. What changes is one bit of the guest's own page table.
    """
    mask = await c_bit_mask()
    await identity(ROOT, mask)
    await load_cr3(ROOT)
    while True:
        await store(gpa, text)
        await hlt()
        await share(ROOT, gpa, mask)
        await store(gpa, text)
        await hlt()
        await unshare(ROOT, gpa, mask)


@program
async def scribe(page: int = PAGE_GPA, desk: int = DESK_GPA) -> None:
    """Do, each time it is woken, as the note on a shared desk says: write these bytes into private memory, or read some.

    A note is one byte, W or R, and eight bytes each of offset and length; behind it lies what is to be written, or
    what was read.
    """
    while True:
        note = await load(desk, 17, c=False)
        at, n = page + int.from_bytes(note[1:9], "little"), int.from_bytes(note[9:17], "little")
        if note[:1] == b"W":
            await store(at, await load(desk + 17, n, c=False), c=True)
        elif note[:1] == b"R":
            await store(desk + 17, await load(at, n, c=True), c=False)
        await hlt()
