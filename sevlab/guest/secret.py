"""Programs that receive what an owner sent: the injected secret.

Both read the secret from private memory and put it into a *shared* page, where
everybody can read it. That is what a lesson needs, and the opposite of what a
guest should do with a secret.
"""

from __future__ import annotations

from sevlab.abi.boot import ANSWER, MAILBOX, NO_SECRET, answer
from sevlab.abi.secret import SECRET_TABLE_GUID
from sevlab.guest.firmware import halt
from sevlab.hw.isa import load, program, store

ENTRY = 20  # bytes of a GUID and a u32 length


def table_length(area: bytes) -> int:
    """How many bytes of a secret area its table has; 0 when it holds none, or one whose entries do not add up."""
    total = int.from_bytes(area[16:ENTRY], "little")
    if area[:16] != SECRET_TABLE_GUID or not ENTRY <= total <= len(area):
        return 0
    at = ENTRY
    while at < total:
        size = int.from_bytes(area[at + 16 : at + ENTRY], "little")
        if size < ENTRY or size > total - at:
            return 0
        at += size
    return total


@program
async def read_secret(secret_gpa: int, secret_len: int) -> None:
    """A kernel that finds the secret's table and shows it: all its bytes, as the guest reads them, in the mailbox."""
    area = await load(secret_gpa, secret_len, c=True)
    length = table_length(area)
    await store(MAILBOX, answer(ANSWER, area[:length]) if length else answer(NO_SECRET), c=False)
    await halt()


@program
async def ovmf(secret_gpa: int = 0, secret_len: int = 0, mailbox_gpa: int = MAILBOX) -> None:
    """A stand-in for foreign firmware: it shows `secret_len` bytes of the secret, table or not, in the mailbox.

    Registered for the page of an image at the reset vector, it runs only where exactly that page was loaded; what
    the real firmware would do with its machine code is not modelled.
    """
    secret = await load(secret_gpa, secret_len, c=True) if secret_len else b""
    await store(mailbox_gpa, answer(ANSWER, secret) if secret else answer(NO_SECRET), c=False)
    await halt()
