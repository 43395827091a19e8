"""The course's own firmware: small enough to read, and measured like any other.

Real firmware (OVMF built for AmdSev) does this with a few hundred thousand lines
around it: take kernel, initrd and command line from the host, compare each with
the hash that the owner saw measured, and only then jump. `abi/boot.py` says what
lies where; `guest.ovmf` is what stands in for foreign firmware.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from sevlab.abi.boot import (
    APPEND,
    APPEND_LIMIT,
    BAD_APPEND,
    BAD_HEADER,
    BAD_INITRD,
    BAD_KERNEL,
    BLOB_LIMIT,
    HASH_AREA,
    HEADER,
    KERNEL,
    MAGIC,
    MAILBOX,
    NO_HASHES,
    PAGE,
    RESET_BLOCK,
    SECRET_AREA,
    BootHeader,
    answer,
    initrd_gpa,
    pages,
)
from sevlab.abi.hashes import HASH_CMDLINE_GUID, HASH_INITRD_GUID, HASH_KERNEL_GUID, HASH_TABLE_GUID
from sevlab.abi.ovmf import hash_area, reset_block, secret_area, with_table
from sevlab.hw.isa import Program, hlt, jump, load, program, sha256, store

SIZE = 0x1_0000  # bytes of the image
CHUNK = 0x10_0000  # bytes that the firmware takes at a time
ENTRY_SIZE = 50  # of the hash table: GUID, u16 length, SHA-256

BANNER = b"""sevlab firmware

The last page of this image carries the digest of the firmware program and the
table of GUIDs that tells a VMM where secrets, kernel hashes and APs go. There is
no machine code in it: the emulated processor finds the program by that page.
"""


async def halt() -> None:
    """Stop for good. An interrupt changes nothing."""
    while True:
        await hlt()


async def terminate(status: int) -> None:
    """Say in the mailbox what is wrong, and go no further. (OVMF logs it and spins.)"""
    await store(MAILBOX, answer(status), c=False)
    await halt()


async def take(gpa: int, length: int) -> bytes:
    """Make `length` bytes at `gpa` private: read through C = 0, write the same place through C = 1.

    What comes back is what the guest holds now, not what the host showed it.
    """
    kept = []
    for at in range(gpa, gpa + pages(length), CHUNK):
        size = min(CHUNK, gpa + pages(length) - at)
        await store(at, await load(at, size, c=False), c=True)
        kept.append(await load(at, size, c=True))
    return b"".join(kept)[:length]


def measured_hash(table: bytes, guid: bytes) -> bytes:
    """The hash that a table holds for a GUID; b"", which fits nothing, when it holds none or the entry is damaged."""
    at, end = 18, int.from_bytes(table[16:18], "little")
    while at + 18 <= min(end, len(table)):
        size = int.from_bytes(table[at + 16 : at + 18], "little")
        if table[at : at + 16] == guid:
            return table[at + 18 : at + size] if size == ENTRY_SIZE else b""
        if size < 18:
            return b""
        at += size
    return b""


@program
async def firmware() -> None:
    """Boot the measured kernel, or stop and say why not.

    Without a boot header there is nothing to boot, and the firmware halts. A blob whose entry the table does not
    have is refused; OVMF lets it pass with a warning. But SEV does not protect what it hides: a host that scrambles
    the 16 bytes where an entry's GUID lies would have made the entry missing.
    """
    header = BootHeader.unpack(await load(HEADER, BootHeader.SIZE, c=False))
    if header.magic != MAGIC:
        await halt()
    if not (0 < header.kernel_len <= BLOB_LIMIT and header.initrd_len <= BLOB_LIMIT and 0 < header.append_len <= APPEND_LIMIT):
        await terminate(BAD_HEADER)

    table = await load(HASH_AREA[0], HASH_AREA[1], c=True)
    if table[:16] != HASH_TABLE_GUID:
        await terminate(NO_HASHES)

    initrd = initrd_gpa(header.kernel_len)
    blobs = (
        (KERNEL, header.kernel_len, HASH_KERNEL_GUID, BAD_KERNEL),
        (initrd, header.initrd_len, HASH_INITRD_GUID, BAD_INITRD),
        (APPEND, header.append_len, HASH_CMDLINE_GUID, BAD_APPEND),
    )
    for gpa, length, guid, status in blobs:
        if sha256(await take(gpa, length)) != measured_hash(table, guid):
            await terminate(status)

    await jump(KERNEL, SECRET_AREA[0], SECRET_AREA[1], APPEND, header.append_len, initrd, header.initrd_len)


def firmware_image(program: Program | None = None, *args: Any) -> bytes:
    """A firmware image of 64 KiB with the reset vector, secret and hash areas of `abi/boot.py` in its table.

    Its last page is `program` (with `args` in the page), the course's own firmware unless one is given.
    The same program gives the same bytes on every machine.
    """
    return _image(program or firmware, args)


@cache
def _image(program: Program, args: tuple[Any, ...]) -> bytes:
    image = BANNER.ljust(SIZE - PAGE, b"\0") + program.image(*args)
    return with_table(image, [reset_block(RESET_BLOCK), secret_area(*SECRET_AREA), hash_area(*HASH_AREA)])
