"""Small guests to begin with: each is a page to read, to launch and to change."""

from __future__ import annotations

from sevlab.hw.isa import checkpoint, hlt, inp, out, program, store

PRIVATE_GPA = 0x1000
SHARED_GPA = 0x2000
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
