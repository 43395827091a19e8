"""The table of kernel hashes: what a measured direct boot adds to the launch digest.

Source: firmware.md 5.4. 168 bytes of table, zero-padded to 176, measured by one
LAUNCH_UPDATE_DATA after the firmware; the firmware compares before it boots.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, NamedTuple

from sevlab.abi.guid import guid, guid_text
from sevlab.wire import Wire, u16

HASH_TABLE_GUID = guid("9438d606-4f22-4cc9-b479-a793d411fd21")
HASH_CMDLINE_GUID = guid("97d02dd8-bd20-4c94-aa78-e7714d36ab2a")
HASH_INITRD_GUID = guid("44baf731-3a2f-4bd7-9af1-41e29169781d")
HASH_KERNEL_GUID = guid("4de79437-abd2-427f-b835-d5b172d2045b")


class HashEntry(Wire):
    """One entry: what it is, its length with this header, SHA-256."""

    guid: Annotated[bytes, 16] = b""         # 0x00
    len: u16 = 50                            # 0x10
    hash: Annotated[bytes, 32] = b""         # 0x12


class HashTable(Wire):
    """The table as QEMU writes it, padded to a multiple of 16."""

    guid: Annotated[bytes, 16] = HASH_TABLE_GUID  # 0x00
    len: u16 = 168                           # 0x10
    cmdline: HashEntry = HashEntry()     # 0x12
    initrd: HashEntry = HashEntry()      # 0x44
    kernel: HashEntry = HashEntry()      # 0x76
    pad: Annotated[bytes, 8] = b""           # 0xA8


class KernelHashes(NamedTuple):
    """The three hashes, 32 bytes each; None where a table has no such entry."""

    cmdline: bytes | None
    initrd: bytes | None
    kernel: bytes | None


def kernel_hashes(kernel: bytes, initrd: bytes | None = None, append: str | bytes = "") -> bytes:
    """The 176 bytes of the table for a kernel, its initrd (none is as empty) and its command line (hashed with a closing NUL)."""
    line = append.encode(errors="surrogateescape") if isinstance(append, str) else bytes(append)
    return HashTable(
        cmdline=HashEntry(guid=HASH_CMDLINE_GUID, hash=sha256(line + b"\0").digest()),
        initrd=HashEntry(guid=HASH_INITRD_GUID, hash=sha256(initrd or b"").digest()),
        kernel=HashEntry(guid=HASH_KERNEL_GUID, hash=sha256(kernel).digest()),
    ).pack()


def parse_hashes(data: bytes) -> KernelHashes:
    """The hashes of a table, entries in any order; a missing one is None.

    Raises ValueError when the bytes are no such table.
    """
    if len(data) < 18 or data[:16] != HASH_TABLE_GUID:
        raise ValueError("this is no table of kernel hashes: its GUID is not there")
    end = int.from_bytes(data[16:18], "little")
    if not 18 <= end <= len(data):
        raise ValueError(f"the table of kernel hashes says it has {end} bytes, {len(data)} are there")
    found: dict[bytes, bytes] = {}
    at = 18
    while at < end:
        if end - at < HashEntry.SIZE:
            raise ValueError(f"the table of kernel hashes ends inside an entry, {end - at} bytes before its end")
        entry = HashEntry.unpack(data, at)
        if entry.len != HashEntry.SIZE:
            raise ValueError(f"the entry {guid_text(entry.guid)} says {entry.len} bytes, an entry has {HashEntry.SIZE}")
        found.setdefault(entry.guid, entry.hash)
        at += entry.len
    return KernelHashes(found.get(HASH_CMDLINE_GUID), found.get(HASH_INITRD_GUID), found.get(HASH_KERNEL_GUID))
