"""What an honest host does to memory that nobody pinned: it moves it, swaps it out, looks for pages that are alike.

None of it is an attack, and each of it destroys a guest's private page that is not
pinned: ciphertext is bound to the frame where it was made. That is why KVM pins.
"""

from __future__ import annotations

from errno import EBUSY, ENOMEM

from sevlab.kvm.fd import KvmError
from sevlab.kvm.frames import LOW, Frames
from sevlab.kvm.process import Process

PAGE = 0x1000


def compact(process: Process, hva: int, n: int, to: int | None) -> list[tuple[int, int, int]]:
    """Move the pages under `n` bytes at `hva` to other frames: (hva, old hpa, new hpa) of those that could go.

    With `to` (an hpa) the first goes exactly there. Raises OSError EFAULT, EBUSY when `to` is in use, ENOMEM.
    """
    moved = []
    for va in range(hva & -PAGE, hva + n, PAGE):
        try:
            old, new = process.mm.move(va, None if to is None else to >> 12)
        except KvmError as no:
            if to is not None or process.mm.find(va) is None or no.errno == ENOMEM:
                raise
            continue
        to = None
        moved.append((va, old << 12, new << 12))
    return moved


def balance(frames: Frames, process: Process, hva: int, n: int) -> list[tuple[int, int, int]]:
    """NUMA balancing, on a machine whose two nodes are the halves of its memory: each page goes to the other one."""
    half, moved = frames.end // 2, []
    low, high = min(LOW, half), half
    for va in range(hva & -PAGE, hva + n, PAGE):
        try:
            at = process.mm.translate(va) >> 12
        except KvmError:
            if process.mm.find(va) is None:
                raise
            continue  # never touched
        pfn, end = (high, frames.end) if at < half else (low, half)
        while pfn < end:
            try:
                old, new = process.mm.move(va, pfn)
            except KvmError as no:
                if no.errno == EBUSY and not _stays(process, va):
                    pfn += 1  # somebody's frame: the next one
                    continue
                break
            moved.append((va, old << 12, new << 12))
            pfn += 1
            break
        low, high = (low, pfn) if at < half else (pfn, high)
    return moved


def _stays(process: Process, va: int) -> bool:
    """Whether the page at `va` is pinned, or the kernel's own."""
    mapping = process.mm.find(va)
    assert mapping is not None
    return not mapping.backing.movable or mapping.backing.pinned(mapping.offset + ((va - mapping.start) >> 12))


def swap_out(process: Process, hva: int, n: int) -> list[tuple[int, int]]:
    """Swap out the pages under `n` bytes at `hva`: (hva, the hpa it left) of those that could go. Raises OSError EFAULT."""
    gone = []
    for va in range(hva & -PAGE, hva + n, PAGE):
        try:
            gone.append((va, process.mm.swap_out(va) << 12))
        except KvmError:
            if process.mm.find(va) is None:
                raise
    return gone


def same_pages(process: Process, hva: int, n: int) -> list[list[int]]:
    """The pages under `n` bytes at `hva` that hold equal raw bytes, in groups: what KSM looks for.

    Two private pages of a guest are never alike, whatever their plaintext: the address is in the tweak.
    Pages are not merged: that would need copy on write, which is not modelled. Raises OSError EFAULT.
    """
    groups: dict[bytes, list[int]] = {}
    for va in range(hva & -PAGE, hva + n, PAGE):
        groups.setdefault(process.mm.read(va, PAGE), []).append(va)
    return [group for group in groups.values() if len(group) > 1]
