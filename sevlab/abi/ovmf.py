"""The table of GUIDs at the end of a guest firmware image: what the firmware tells whoever loads it.

Source: firmware.md 5.3. The image ends at 4 GiB; its last 32 bytes are the
reset vector, the table ends there, and one reads it backwards from its footer.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sevlab.abi.guid import guid, guid_text

TABLE_FOOTER_GUID = guid("96b582de-1fb2-45f7-baea-a366c55a082d")
SEV_ES_RESET_BLOCK_GUID = guid("00f771de-1a7e-4fcb-890e-68c77e2fb44e")
SEV_SECRET_GUID = guid("4c2eb361-7d9b-4cc3-8081-127c90d3d294")
SEV_HASH_TABLE_GUID = guid("7255371f-3a3b-4b04-927b-1da6efa8d454")
SEV_METADATA_GUID = guid("dc886566-984a-4798-a75e-5585a7bf67cc")
TDX_METADATA_GUID = guid("e47a6535-984a-4798-865e-4685a7bf8ec2")
IGVM_METADATA_GUID = guid("784fa70e-3176-4677-8a20-04b68699e374")
SVSM_INFO_GUID = guid("a789a612-0597-4c4b-a49f-cbb1fe9d1ddd")

# Every name that a table may hold.
GUID_NAMES = {
    TABLE_FOOTER_GUID: "table footer",
    SEV_ES_RESET_BLOCK_GUID: "SEV-ES reset block",
    SEV_SECRET_GUID: "SEV secret area",
    SEV_HASH_TABLE_GUID: "SEV kernel-hash area",
    SEV_METADATA_GUID: "SEV-SNP metadata offset",
    TDX_METADATA_GUID: "TDX metadata offset",
    IGVM_METADATA_GUID: "IGVM metadata offset",
    SVSM_INFO_GUID: "SVSM info",
}

TOP = 1 << 32  # the image ends here
RESET_VECTOR = 32  # bytes after the table
ENTRY = 18  # bytes of an entry beside its data: length, then GUID

SECTION_TYPES = {1: "SNP_SEC_MEM", 2: "SECRETS", 3: "CPUID", 4: "SVSM_CAA", 0x10: "KERNEL_HASHES"}


class Area(NamedTuple):
    """A range of guest memory that the firmware sets aside; size 0 offers none."""

    base: int
    size: int


class Section(NamedTuple):
    """One row of the SNP metadata: a gpa range and what SECTION_TYPES calls its type."""

    gpa: int
    size: int
    type: int


@dataclass(frozen=True, slots=True)
class Ovmf:
    """What a firmware image says about itself.

    `table` maps GUID (16 bytes) to data. The properties decode an entry when
    asked, so that a broken one hurts only who needs it: they raise ValueError.
    """

    image: bytes
    table: dict[bytes, bytes]

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return len(self.image)

    @property
    def gpa(self) -> int:
        """Where the image begins in guest memory."""
        return TOP - self.size

    def _words(self, which: bytes, count: int) -> tuple[int, ...] | None:
        data = self.table.get(which)
        if data is None:
            return None
        if len(data) < 4 * count:
            raise ValueError(f"the entry {GUID_NAMES[which]} of the firmware's table has {len(data)} bytes, {4 * count} are needed")
        return struct.unpack_from(f"<{count}I", data)

    @property
    def reset_block(self) -> int | None:
        """The address where APs of an SEV-ES guest start (eip), or None."""
        words = self._words(SEV_ES_RESET_BLOCK_GUID, 1)
        return words[0] if words else None

    @property
    def secret_area(self) -> Area | None:
        """Where launch secrets go, or None; Debian's image says (0, 0)."""
        words = self._words(SEV_SECRET_GUID, 2)
        return Area(*words) if words else None

    @property
    def hash_area(self) -> Area | None:
        """Where the table of kernel hashes goes, or None; Debian's image says (0, 0)."""
        words = self._words(SEV_HASH_TABLE_GUID, 2)
        return Area(*words) if words else None

    @property
    def metadata(self) -> list[Section] | None:
        """The sections of the SEV-SNP metadata, or None."""
        words = self._words(SEV_METADATA_GUID, 1)
        if words is None:
            return None
        start = self.size - words[0]
        if start < 0 or words[0] < 16 or self.image[start : start + 4] != b"ASEV":
            raise ValueError(f"no SEV metadata {words[0]:#x} bytes before the end of the image")
        size, version, count = struct.unpack_from("<3I", self.image, start + 4)
        if version != 1 or size < 16 + 12 * count or start + 16 + 12 * count > self.size:
            raise ValueError(f"SEV metadata of version {version} with {count} sections in {size} bytes")
        return [Section(*struct.unpack_from("<3I", self.image, start + 16 + 12 * i)) for i in range(count)]


def parse(image: bytes | bytearray | memoryview) -> Ovmf:
    """Read an image's table; an image without one has an empty table.

    The walk goes backwards and ends at the first entry whose length makes no
    sense, as QEMU's does; of two entries with one GUID the later in memory
    counts. Raises ValueError when the footer's length points outside the image.
    """
    image = bytes(image)
    end = len(image) - RESET_VECTOR
    if end < ENTRY:
        return Ovmf(image, {})
    footer, length = image[end - 16 : end], int.from_bytes(image[end - ENTRY : end - 16], "little")
    if footer == SEV_ES_RESET_BLOCK_GUID:  # images older than the table: this one entry stands where the footer would
        start = end - max(length, ENTRY)
        return Ovmf(image, {footer: image[start : end - ENTRY]} if start >= 0 else {})
    if footer != TABLE_FOOTER_GUID:
        return Ovmf(image, {})
    if not ENTRY <= length <= end:
        raise ValueError(f"the firmware's table says it has {length} bytes; {ENTRY} to {end} are possible")

    table: dict[bytes, bytes] = {}
    start, at = end - length, end - ENTRY
    while at - start >= ENTRY:
        which, size = image[at - 16 : at], int.from_bytes(image[at - ENTRY : at - 16], "little")
        if not ENTRY <= size <= at - start:
            break
        table.setdefault(which, image[at - size : at - ENTRY])
        at -= size
    return Ovmf(image, table)


def describe(ovmf: Ovmf) -> list[tuple[str, str]]:
    """The table as (name, data in hex), for people."""
    return [(GUID_NAMES.get(which, guid_text(which)), data.hex()) for which, data in ovmf.table.items()]


def reset_block(eip: int) -> tuple[bytes, bytes]:
    """An entry for `build_table`: where APs start."""
    return SEV_ES_RESET_BLOCK_GUID, struct.pack("<I", eip)


def secret_area(base: int, size: int) -> tuple[bytes, bytes]:
    """An entry for `build_table`: where launch secrets go."""
    return SEV_SECRET_GUID, struct.pack("<II", base, size)


def hash_area(base: int, size: int) -> tuple[bytes, bytes]:
    """An entry for `build_table`: where the table of kernel hashes goes."""
    return SEV_HASH_TABLE_GUID, struct.pack("<II", base, size)


def build_table(entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """A table of these (GUID, data) entries, footer included; it belongs `RESET_VECTOR` bytes before the image's end.

    Raises ValueError for a GUID that has not 16 bytes or a table above 64 KiB.
    """
    body = b""
    for which, data in entries:
        if len(which) != 16 or len(data) + ENTRY > 0xFFFF:
            raise ValueError(f"an entry has a GUID of 16 bytes and some 64 KiB of data at most, not {len(which)} and {len(data)}")
        body += data + struct.pack("<H", len(data) + ENTRY) + which
    if len(body) + ENTRY > 0xFFFF:
        raise ValueError(f"a table has at most {0xFFFF} bytes, this one {len(body) + ENTRY}")
    return body + struct.pack("<H", len(body) + ENTRY) + TABLE_FOOTER_GUID


def with_table(image: bytes, entries: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The image with such a table put in place, over what stood there.

    Raises ValueError when the image is too small for it.
    """
    table = build_table(entries)
    end = len(image) - RESET_VECTOR
    if end < len(table):
        raise ValueError(f"an image of {len(image)} bytes has no room for a table of {len(table)}")
    return image[: end - len(table)] + table + image[end:]
