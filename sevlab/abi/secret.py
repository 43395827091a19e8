"""The table that launch secrets travel in: GUID, length, data.

Source: firmware.md 4.11 (what QEMU's, sevctl's and libvirt's tooling writes and
OVMF hands to Linux). Lengths count the 20 bytes of GUID and length too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated

from sevlab.abi.guid import guid, guid_text
from sevlab.wire import Wire, u32

SECRET_TABLE_GUID = guid("1e74f542-71dd-4d66-963e-ef4287ff173b")
LUKS_KEY_GUID = guid("736869e5-84f0-4973-92ec-06879ce3da0b")


class SecretHeader(Wire):
    """What the table and each of its entries begin with."""

    guid: Annotated[bytes, 16] = b""         # 0x00
    len: u32 = 0                             # 0x10  this header included


def build_secret(entries: Mapping[bytes | str, bytes] | Iterable[tuple[bytes | str, bytes]]) -> bytes:
    """The table of these (GUID, data) entries, zero-padded to a multiple of 16.

    A GUID is 16 bytes or text. Raises ValueError for one that is neither.
    """
    pairs = entries.items() if isinstance(entries, Mapping) else entries
    body = b""
    for which, data in pairs:
        key = guid(which) if isinstance(which, str) else which
        if len(key) != 16:
            raise ValueError(f"a GUID takes 16 bytes, {len(key)} are there")
        body += SecretHeader(key, SecretHeader.SIZE + len(data)).pack() + data
    table = SecretHeader(SECRET_TABLE_GUID, SecretHeader.SIZE + len(body)).pack() + body
    return table + bytes(-len(table) % 16)


def parse_secret(data: bytes) -> list[tuple[bytes, bytes]]:
    """The (GUID, data) entries of a table, in order; what follows it is ignored.

    Raises ValueError when the bytes are no such table.
    """
    header = SecretHeader.unpack(data)
    if header.guid != SECRET_TABLE_GUID:
        raise ValueError("this is no secret table: its GUID is not there")
    if not SecretHeader.SIZE <= header.len <= len(data):
        raise ValueError(f"the secret table says it has {header.len} bytes, {len(data)} are there")
    entries = []
    at = SecretHeader.SIZE
    while at < header.len:
        if header.len - at < SecretHeader.SIZE:
            raise ValueError(f"the secret table ends inside an entry, {header.len - at} bytes before its end")
        entry = SecretHeader.unpack(data, at)
        if not SecretHeader.SIZE <= entry.len <= header.len - at:
            raise ValueError(f"the entry {guid_text(entry.guid)} says {entry.len} bytes, {header.len - at} are left")
        entries.append((entry.guid, bytes(data[at + SecretHeader.SIZE : at + entry.len])))
        at += entry.len
    return entries
