"""What lies on the memory bus, and whether anything legible does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from sevlab.host import Host
from sevlab.hw import pages

PAGE = 4096
BLOCK = 16
CHUNK = 4 << 20
FEWEST = 8  # bytes that one can search for


def bus(host: Host, vm: Any, gpa: int, n: int = 64) -> bytes:
    """The `n` bytes that the memory chips hold behind a guest's address: ciphertext where a key is in use.

    Raises ValueError where the guest has no memory.
    """
    hva, found = vm.hva(gpa, n), b""
    while len(found) < n:
        at = hva + len(found)
        found += host.probe(host.hpa(vm.process, at), min(n - len(found), PAGE - at % PAGE))
    return found


def search(host: Host, needle: bytes) -> list[int]:
    """Every machine address at which these bytes lie on the bus, in all memory that is in use.

    Raises ValueError for fewer than 8 bytes: they would be found anywhere.
    """
    if len(needle) < FEWEST:
        raise ValueError(f"{len(needle)} bytes are found anywhere; search for {FEWEST} at least")
    found = []
    for start, data in _memory(host, len(needle) - 1):
        at = data.find(needle)
        while at >= 0:
            found.append(start + at)
            at = data.find(needle, at + 1)
    return found


def blocks(data: bytes) -> set[bytes]:
    """The different 16-byte blocks of `data`, without those of one byte repeated: they say nothing, and lie anywhere."""
    return {data[at : at + BLOCK] for at in range(0, len(data) - BLOCK + 1, BLOCK) if len(set(data[at : at + BLOCK])) > 1}


def legible(host: Host, data: bytes) -> int:
    """How many of `blocks(data)` lie somewhere on the bus, in all memory that is in use."""
    return len(_found(host, blocks(data)))


def _found(host: Host, needles: Iterable[bytes]) -> set[bytes]:
    missing, found = set(needles), set()
    for _, data in _memory(host, BLOCK - 1):
        here = {needle for needle in missing if needle in data}
        missing -= here
        found |= here
    return found


def _memory(host: Host, overlap: int) -> Iterator[tuple[int, bytes]]:
    """All memory in use, as (machine address, bytes): pieces that overlap, so that nothing falls between two of them."""
    for first, last in _used(host):
        for start in range(first, last, CHUNK):
            yield start, host.probe(start, min(start + CHUNK + overlap, last) - start)


def _used(host: Host) -> list[tuple[int, int]]:
    """The ranges of machine memory, from and up to, that are not free."""
    ranges: list[tuple[int, int]] = []
    for run in host.pages.runs():
        if run.state == pages.FREE:
            continue
        first, last = run.first * PAGE, (run.first + run.length) * PAGE
        if ranges and ranges[-1][1] == first:
            ranges[-1] = ranges[-1][0], last
        else:
            ranges.append((first, last))
    return ranges


def page_of(host: Host, vm: Any, gpa: int) -> range:
    """The machine addresses of the page that holds a guest's address. Raises ValueError where the guest has no memory."""
    first = host.hpa(vm.process, vm.hva(gpa)) & -PAGE
    return range(first, first + PAGE)
