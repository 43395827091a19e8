"""A guest's own page tables: who sets the C-bit, and where.

Whether a page is private is one bit of the entry that maps it, and the entry
lies in memory that only the guest can write sensibly. So the guest decides, page
by page, and its host learns of it only by looking at what the bus carries.

    mask = await c_bit_mask()          # 0 in a guest without SEV
    await identity(ROOT, mask)         # every address is itself, and private
    await load_cr3(ROOT)
    await share(ROOT, 0x4000, mask)    # this page is everybody's from now on
    await store(0x4000, b"hello")      # the table says how

A page that changes sides keeps its bytes and loses their meaning: what was
ciphertext is now read as it is. A guest that wants to keep the text reads it
first and stores it again (Linux does so in place, in sme_early_encrypt).

The tables take one page each from ROOT on; a counter of those in use lies in the
root's last entry, which stays "not present" and may hold what the guest likes.
Source: firmware.md 6.3; the format is AMD's (APM volume 2, 5.3).
"""

from __future__ import annotations

from sevlab.hw.isa import cpuid, load, store

ROOT = 0x0020_0000  # a place that nothing else of the boot protocol wants
PAGE = 0x1000
PRESENT, WRITABLE, LARGE = 1 << 0, 1 << 1, 1 << 7
TABLE = PRESENT | WRITABLE
ADDRESS = (1 << 48) - PAGE
LAST = 511 * 8  # the root's last entry: how many pages the tables take
SEV_LEAF = 0x8000_001F


async def c_bit_mask() -> int:
    """The C-bit as a mask, 0 without SEV: CPUID Fn8000_001F, which is the hypervisor's word."""
    eax, ebx, _, _ = await cpuid(SEV_LEAF)
    return 1 << (ebx & 63) if eax & 2 else 0


async def entry_at(gpa: int) -> int:
    """An entry of a table, read as the processor's walk reads it: private."""
    return int.from_bytes(await load(gpa, 8, c=True), "little")


async def set_entry(gpa: int, entry: int) -> None:
    """Write an entry of a table, private."""
    await store(gpa, entry.to_bytes(8, "little"), c=True)


async def identity(root: int, mask: int) -> None:
    """Tables at `root` that map each address below 512 GiB to itself, private: 512 pages of one GiB."""
    low = b"".join([(gib << 30 | mask | TABLE | LARGE).to_bytes(8, "little") for gib in range(512)])
    await store(root + PAGE, low, c=True)
    await store(root, bytes(PAGE), c=True)
    await set_entry(root, root + PAGE | mask | TABLE)
    await set_entry(root + LAST, 2 << 12)


async def new_table(root: int, content: bytes) -> int:
    """The gpa of one more table."""
    used = await entry_at(root + LAST) >> 12
    await store(root + used * PAGE, content, c=True)
    await set_entry(root + LAST, used + 1 << 12)
    return root + used * PAGE


async def leaf(root: int, gva: int, mask: int) -> int:
    """Where the entry of the 4 KiB page at `gva` lies; larger pages on the way are split, missing tables made."""
    table = root
    for low in (39, 30, 21):
        place = table + (gva >> low & 511) * 8
        entry = await entry_at(place)
        if not entry & PRESENT:
            entry = await new_table(root, bytes(PAGE)) | mask | TABLE
            await set_entry(place, entry)
        elif entry & LARGE:
            step, large = 1 << low - 9, LARGE if low > 21 else 0
            first = entry & ~LARGE | large
            parts = b"".join([(first + number * step).to_bytes(8, "little") for number in range(512)])
            entry = await new_table(root, parts) | mask | TABLE
            await set_entry(place, entry)
        table = entry & ADDRESS & ~mask
    return table + (gva >> 12 & 511) * 8


async def map_page(root: int, gva: int, gpa: int, mask: int, private: bool = True, writable: bool = True) -> None:
    """Map one page: virtual `gva` to guest-physical `gpa`."""
    flags = PRESENT | (WRITABLE if writable else 0) | (mask if private else 0)
    await set_entry(await leaf(root, gva, mask), gpa & ADDRESS & ~mask | flags)


async def unmap_page(root: int, gva: int, mask: int) -> None:
    """Take one page's mapping away: the next access is a page fault."""
    await set_entry(await leaf(root, gva, mask), 0)


async def share(root: int, gva: int, mask: int) -> None:
    """Clear the C-bit of one page: from now on everybody reads what the guest writes there."""
    place = await leaf(root, gva, mask)
    await set_entry(place, await entry_at(place) & ~mask)


async def unshare(root: int, gva: int, mask: int) -> None:
    """Set the C-bit of one page again."""
    place = await leaf(root, gva, mask)
    await set_entry(place, await entry_at(place) | mask)
