"""The boot protocol of the course's own firmware: what a VMM puts where.

QEMU hands kernel, initrd and command line to OVMF through fw_cfg. Here the VMM
writes them into guest memory, in clear, before the guest runs, with a header
that says how long they are:

    gpa            what                                      who puts it there, how
    0x0000_1000    free for programs                         -
    0x0000_F000    MAILBOX, the guest's answers (shared)     the guest
    0x0002_0000    APPEND, the command line with its NUL     VMM, in clear
    0x0080_0000    HEADER, one page: lengths                 VMM, in clear
    0x0080_B000    the page of the SEV-ES reset block        the BSP, private: what the APs run
    0x0081_0000    SECRET_AREA, 0xC00 bytes                  LAUNCH_SECRET
    0x0081_0C00    HASH_AREA, 0x400 bytes                    LAUNCH_UPDATE_DATA of the 176-byte table
    0x0100_0000    KERNEL, then the initrd on the next page  VMM, in clear
    4 GiB - size   the firmware image                        LAUNCH_UPDATE_DATA, its slot ends at 4 GiB

Kernel, initrd and command line are *not* encrypted by the VMM. The firmware
reads each page in clear (C = 0), writes it back at the same address through its
key (C = 1), hashes what it now holds where the host cannot write sensibly any
more, compares with the measured table, and only then jumps to KERNEL. The order
matters: hashing the clear copy would leave the host time to change it.

The kernel is called with what a boot loader leaves in registers: secret_gpa,
secret_len (the whole area), append_gpa, append_len, initrd_gpa, initrd_len. A
program takes as many of them as it has parameters.

The header is the host's word and nothing more: the firmware checks its lengths
against the limits below, and the hashes catch every other lie.
"""

from __future__ import annotations

from typing import Annotated

from sevlab.wire import Wire, u32

PAGE = 0x1000
TOP = 1 << 32  # a firmware image is mapped so that it ends here
MEMORY = 32 << 20  # bytes of RAM at gpa 0 that a VMM gives when nobody asks for more

MAILBOX = 0x0000_F000
APPEND = 0x0002_0000
HEADER = 0x0080_0000
RESET_BLOCK = 0x0080_B004  # CS base 0x0080_0000, IP 0xB004; the same address as in Debian's OVMF
SECRET_AREA = (0x0081_0000, 0xC00)  # the two areas of OVMF's AmdSev build
HASH_AREA = (0x0081_0C00, 0x400)
KERNEL = 0x0100_0000

MAGIC = b"sevboot1"
APPEND_LIMIT = 0x1_0000  # bytes, with the NUL
BLOB_LIMIT = 1 << 30  # bytes of a kernel or an initrd: far from the 4 GiB hole

MAILBOX_MAGIC = b"sevmail1"
MAILBOX_LIMIT = 0x1_0000  # bytes of one answer, its header included

# Mailbox.status: what the guest has to say.
ANSWER = 1  # `length` bytes of data follow
NO_SECRET = 2  # the secret area holds no table
NO_HASHES = 0x10  # the measured hash table is not there, or is damaged
BAD_HEADER = 0x11  # the boot header's lengths are impossible
BAD_KERNEL = 0x12  # a blob is not the one whose hash was measured
BAD_INITRD = 0x13
BAD_APPEND = 0x14


class BootHeader(Wire):
    """The page at HEADER: how long the three blobs are. Written by the VMM, in clear."""

    magic: Annotated[bytes, 8] = MAGIC  # 0x00
    kernel_len: u32 = 0  # 0x08
    initrd_len: u32 = 0  # 0x0c
    append_len: u32 = 0  # 0x10  with the NUL, so at least 1
    reserved: u32 = 0  # 0x14


class Mailbox(Wire):
    """The start of the shared page at MAILBOX: a guest's answer to whoever asks.

    `length` bytes of data follow it. The host can forge every byte of it; what
    must be believed goes another way.
    """

    magic: Annotated[bytes, 8] = MAILBOX_MAGIC  # 0x00
    status: u32 = 0  # 0x08  one of ANSWER, NO_SECRET, ... above
    length: u32 = 0  # 0x0c


def pages(length: int) -> int:
    """`length` in bytes, rounded up to whole pages."""
    return length + PAGE - 1 & -PAGE


def initrd_gpa(kernel_len: int) -> int:
    """Where the initrd lies, behind a kernel of `kernel_len` bytes."""
    return KERNEL + pages(kernel_len)


def command_line(append: str | bytes) -> bytes:
    """The command line as it is loaded and hashed: with its NUL. What a shell handed over as no UTF-8 is the bytes it was."""
    return (append.encode(errors="surrogateescape") if isinstance(append, str) else append) + b"\0"


def placement(kernel: bytes, initrd: bytes | None = None, append: str | bytes = "") -> list[tuple[int, bytes]]:
    """What the VMM writes in clear before the first KVM_RUN, as (gpa, bytes).

    Raises ValueError when a blob is longer than the protocol allows.
    """
    initrd, line = initrd or b"", command_line(append)
    if len(kernel) > BLOB_LIMIT or len(initrd) > BLOB_LIMIT:
        raise ValueError(f"a kernel or initrd may have {BLOB_LIMIT:#x} bytes, these have {len(kernel):#x} and {len(initrd):#x}")
    if len(line) > APPEND_LIMIT:
        raise ValueError(f"a command line may have {APPEND_LIMIT - 1:#x} bytes, this one has {len(line) - 1:#x}")
    header = BootHeader(kernel_len=len(kernel), initrd_len=len(initrd), append_len=len(line))
    blobs = [(HEADER, header.pack()), (KERNEL, kernel), (initrd_gpa(len(kernel)), initrd), (APPEND, line)]
    return [(gpa, data) for gpa, data in blobs if data]


def memory_needed(kernel: bytes = b"", initrd: bytes | None = None) -> int:
    """Bytes of RAM at gpa 0 that a guest with these blobs needs, at least MEMORY."""
    return max(MEMORY, initrd_gpa(len(kernel)) + pages(len(initrd or b"")))


def answer(status: int, data: bytes = b"") -> bytes:
    """The mailbox page's bytes for an answer; what does not fit is cut."""
    data = data[: MAILBOX_LIMIT - Mailbox.SIZE]
    return Mailbox(status=status, length=len(data)).pack() + data


def read_answer(page: bytes) -> tuple[int, bytes]:
    """(status, data) of a mailbox, (0, b"") when the guest has not written one.

    `page` may be cut short: the data are then what is there.
    """
    if len(page) < Mailbox.SIZE or page[:8] != MAILBOX_MAGIC:
        return 0, b""
    box = Mailbox.unpack(page)
    return box.status, bytes(page[Mailbox.SIZE : Mailbox.SIZE + box.length])
