"""The memory engine against one raw AES-128-ECB call in place, and against one such call and one SHA-256 call.

The limit is what the library can do at all with AES-NI when no address matters.
SEAL_MIB is the largest range that is sealed (256 unless set; the goal reaches to 1024).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle
from random import Random
from typing import Any

from harness import Figure, pair

from sevlab.bulk import Key, Memory
from sevlab.crypto import SLACK, Ecb, Stream
from sevlab.hw.soc import Soc
from sevlab.trace import Trace

KIB, MIB = 1 << 10, 1 << 20
KEY = bytes(range(16))
ASID = 7


def figures() -> Iterator[Figure]:
    """Bulk, pages and small accesses of the engine, on Rome (XEX) unless said."""
    largest = int(os.environ.get("SEAL_MIB", "256")) * MIB
    engine = Soc("rome", Stream(1), Trace(ring=1000), largest + 64 * MIB).engine
    naples = Soc("naples", Stream(1), Trace(ring=1000), 64 * MIB).engine
    for one in (engine, naples):
        one.install(ASID, KEY)
    raw = Raw(largest)

    for size in (2 * MIB, 16 * MIB, largest):
        engine.dram.write(0, bytes(size))  # touched, so that nobody pays for page faults
        yield pair(f"XEX {_size(size)} in place / ECB", 2.3, partial(engine.encrypt, ASID, 0, size), raw.ecb(size))
    yield pair("XE 16 MiB in place / ECB", 2.3, partial(naples.encrypt, ASID, 0, 16 * MIB), raw.ecb(16 * MIB))
    limit = raw.ecb(64 * KIB)
    yield pair("XEX 64 KiB at ever new addresses / ECB", 1.9, _walk(engine.encrypt, 64 * KIB), limit)
    yield pair("XEX 64 KiB, not aligned to its size / ECB", 1.9, partial(engine.encrypt, ASID, 20 * KIB, 64 * KIB), limit)
    plain = Soc("rome", Stream(1), Trace(ring=1000), 64 * MIB).engine
    plain._slots[ASID] = Key(KEY, xts=False)  # as where the library has no fast XTS
    yield pair("XEX 64 KiB at new addresses, without XTS / ECB", 1.9, _walk(plain.encrypt, 64 * KIB), limit)
    limit = raw.ecb(4 * KIB)
    yield pair("XEX one page, repeated / ECB", 4.0, partial(engine.encrypt, ASID, 0x7000, 4 * KIB), limit)
    yield pair("read one page / ECB", 4.0, partial(engine.read, ASID, 0x7000, 4 * KIB), limit)
    pfns = Random(1).sample(range(16 * MIB // 4096), 512)
    scattered = partial(engine.crypt_frames, ASID, pfns, encrypt=True)
    yield pair("XEX 512 scattered pages a call / ECB", 5.0, scattered, raw.ecb(2 * MIB))

    block, line = bytes(16), bytes(64)
    one = Ecb(KEY).encrypt_raw
    yield pair("read one block / ECB", 10.0, partial(engine.read, ASID, 0x7130, 16), partial(one, block))
    yield pair("write one block / ECB", 10.0, partial(engine.write, ASID, 0x7130, block), partial(one, block))
    yield pair("read a cache line / ECB", 10.0, partial(engine.read, ASID, 0x7140, 64), partial(one, line))
    yield pair("write a cache line / ECB", 10.0, partial(engine.write, ASID, 0x7140, line), partial(one, line))
    yield pair("read 8 bytes within a block / ECB", 10.0, partial(engine.read, ASID, 0x7134, 8), partial(one, block))

    for size, goal in ((64 * KIB, 1.6), (1 * MIB, 1.25), (16 * MIB, 1.25), (largest, 1.25)):
        ours = _walk(_sealed(engine), size, largest)
        yield pair(f"seal {_size(size)} / ECB and SHA-256", goal, ours, raw.ecb_and_sha(size))


class Raw:
    """The limits: the cipher and the hash alone, one call each, in place."""

    def __init__(self, size: int) -> None:
        self.memory = Memory(size)
        self.memory.view[:size] = bytes(size)
        self.ecb_into = Ecb(KEY).encrypt_raw_into

    def ecb(self, size: int) -> Callable[[], Any]:
        return partial(self.ecb_into, self.memory.view[:size], self.memory.view[: size + SLACK])

    def ecb_and_sha(self, size: int) -> Callable[[], Any]:
        encrypt, data = self.ecb(size), self.memory.view[:size]

        def both() -> None:
            hashlib.sha256(data).digest()
            encrypt()

        return both


def _sealed(engine: Any) -> Callable[[int, int, int], None]:
    def seal(asid: int, hpa: int, n: int) -> None:
        digest = hashlib.sha256()
        engine.seal(asid, hpa, n, digest)
        digest.digest()

    return seal


def _walk(call: Callable[[int, int, int], Any], size: int, room: int = 4 * MIB) -> Callable[[], None]:
    """The call at one address after the other, as a launch makes it, so that no table fits twice."""
    places = cycle(range(0, max(room, size), size))
    return lambda: call(ASID, next(places), size)


def _size(n: int) -> str:
    return f"{n // MIB} MiB" if n >= MIB else f"{n // KIB} KiB"
