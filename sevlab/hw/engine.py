"""The AES engine in the memory controller: one key a slot, one tweak an address.

A slot is an ASID; slot 0 has no key and passes bytes as they are. On the way to
DRAM a 16-byte block is encrypted as E(P ^ T) ^ T (XEX) or E(P ^ T) (XE), where
T depends on the system physical address alone, the C-bit removed: the same
text at one address gives the same bytes again, and moved bytes decrypt to noise.
No integrity, no freshness (Wilke and others, "SEVurity", 2020, section III).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Protocol

from sevlab.bulk import CHUNK, PAGE, PAGE_TABLES, Key, Memory, Tweak, words_of, xor
from sevlab.crypto import Buffer, Stream
from sevlab.hw.chips import Chip
from sevlab.hw.dram import Dram
from sevlab.trace import Event, Trace, u16, u64

SMALL = 256  # bytes up to which whole integers are quicker than arrays
MASKS = 1 << 13  # tweaks of small accesses kept

from_bytes = int.from_bytes


class KeyInstalled(Event, lane="engine"):
    """A key slot got a key. The key itself is in no trace."""

    asid: u16


class KeyRemoved(Event, lane="engine"):
    """A key slot was emptied."""

    asid: u16


class Encrypted(Event, lane="engine"):
    """A range of memory was encrypted where it lies."""

    hpa: u64
    size: u64
    asid: u16


class Decrypted(Event, lane="engine"):
    """A range of memory was decrypted where it lies."""

    hpa: u64
    size: u64
    asid: u16


class Digest(Protocol):
    """What `seal` feeds: a hashlib object."""

    def update(self, data: Any, /) -> None: ...


class NoKey(LookupError):
    """An access through a slot that has no key."""


class Engine:
    """The engine of one chip over one DRAM. Addresses are hpas, with or without the C-bit; lengths are bytes.

    Raises NoKey for a slot without a key, ValueError for a range outside DRAM, and
    for an address or length that is not a multiple of 16 where blocks are worked on in place.
    """

    def __init__(self, chip: Chip, stream: Stream, dram: Dram, trace: Trace) -> None:
        self.chip = chip
        self.dram = dram
        self.trace = trace
        self.tweaks = Tweak(tweak_constants(chip, stream), xex=chip.mode == "XEX")
        self._slots: dict[int, Key] = {}
        self._masks: dict[tuple[int, int], int] = {}
        self._scratch = Memory(CHUNK)
        self._view = dram.memory.view
        self._lazy = dram.lazy  # not empty: somebody may owe bytes, and is asked before an access
        self._xex = self.tweaks.xex
        self._crypt = self.tweaks.crypt
        self._c_bit_off = ~(1 << chip.c_bit)
        self._kits: tuple[dict[int, tuple[Any, Any, Any, Any]], ...] = ({}, {})  # single pages: (words, table, view, roomy view)

    # --------------------------------------------------------- slots

    def install(self, asid: int, key: Buffer) -> None:
        """Put a 16-byte key into a slot, over whatever was there.

        Raises ValueError for a slot the chip has not, or a key of another length.
        """
        if not 1 <= asid <= self.chip.max_asid:
            raise ValueError(f"{self.chip.name} has key slots 1 to {self.chip.max_asid}, not {asid}")
        if self._lazy:
            self.dram.settle()  # under the keys that the slots have now
        self._slots[asid] = Key(key)
        self.trace.emit(KeyInstalled, asid)

    def remove(self, asid: int) -> None:
        """Empty a slot."""
        if asid not in self._slots:
            self._no_key(asid)
        if self._lazy:
            self.dram.settle()
        del self._slots[asid]
        self.trace.emit(KeyRemoved, asid)

    def has(self, asid: int) -> bool:
        """Whether a slot has a key; slot 0 never has."""
        return asid in self._slots

    def tweak(self, hpa: int) -> bytes:
        """T(hpa): the 16 bytes that this address adds."""
        return self.tweaks.at(hpa & self._c_bit_off).to_bytes(16, "little")

    # --------------------------------------------------------- accesses

    def read(self, asid: int, hpa: int, n: int) -> bytes:
        """The `n` bytes at `hpa` as the owner of slot `asid` sees them; any alignment."""
        key = self._slots.get(asid)
        hpa &= self._c_bit_off
        if key is None:
            return self.dram.read(hpa, n) if not asid else self._no_key(asid)
        if self._lazy and (hpa >> 12 in self._lazy or (hpa & PAGE - 1) + n > PAGE):
            self.dram.settle(hpa, n)
        skip = hpa & 15
        first = hpa - skip
        span = skip + n + 15 & -16
        if not 0 < span <= SMALL:
            return self._read_range(key, hpa, n)

        mask = self._masks.get((first, span))
        if mask is None:
            mask = self._mask(first, span)
        data: Buffer = self._view[first : first + span]
        if self._xex:
            data = (from_bytes(data, "little") ^ mask).to_bytes(span, "little")
        text = (from_bytes(key.decrypt(data), "little") ^ mask).to_bytes(span, "little")
        if span == n:
            return text
        if n < 0:
            self.dram.check(hpa, n)
        return text[skip : skip + n]

    def write(self, asid: int, hpa: int, data: Buffer) -> None:
        """Put bytes at `hpa` through slot `asid`; any alignment: blocks that are only partly new are read first."""
        key = self._slots.get(asid)
        hpa &= self._c_bit_off
        if key is None:
            self.dram.write(hpa, data) if not asid else self._no_key(asid)
            return
        n = len(data)
        if self._lazy and (hpa >> 12 in self._lazy or (hpa & PAGE - 1) + n > PAGE):
            self.dram.settle(hpa, n)
        skip = hpa & 15
        first = hpa - skip
        span = skip + n + 15 & -16
        if not n or hpa < 0 or first + span > self.dram.size:
            self.dram.check(hpa, n)
        if span != n:
            data = self._completed(asid, hpa, data, span)
        if span > SMALL:
            self._crypt(key, True, first, span, self.dram.memory, first, words_of(data))
            return

        mask = self._masks.get((first, span))
        if mask is None:
            mask = self._mask(first, span)
        out = key.encrypt((from_bytes(data, "little") ^ mask).to_bytes(span, "little"))
        if self._xex:
            out = (from_bytes(out, "little") ^ mask).to_bytes(span, "little")
        self._view[first : first + span] = out

    def _read_range(self, key: Key, hpa: int, n: int) -> bytes:
        """A read of more than some blocks, through the scratch memory."""
        self.dram.check(hpa, n)
        if n == PAGE and not hpa & PAGE - 1:
            words, page, room = self._scratch.page(0)
            if not self._xex:
                self._crypt(key, False, hpa, n, self._scratch, 0, self.dram.memory.page(hpa)[0])
                return bytes(page)
            table = self.tweaks.page(hpa, key.streamed)  # what `crypt` would do, in place: programs are fetched often
            xor(self.dram.memory.page(hpa)[0], table, words)
            key.decrypt_into(page, room)
            xor(words, table, words)
            return bytes(page)
        words, at, end, parts = self.dram.memory.words, hpa & -16, hpa + n, []
        while at < end:
            size = min((end + 15 & -16) - at, CHUNK - at % CHUNK)
            self._crypt(key, False, at, size, self._scratch, 0, words[at >> 3 : at + size >> 3])
            parts.append(bytes(self._scratch.view[max(hpa - at, 0) : min(size, end - at)]))
            at += size
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _completed(self, asid: int, hpa: int, data: Buffer, span: int) -> bytes:
        """The data with what is there before and behind it, up to whole blocks."""
        skip, end = hpa & 15, hpa + len(data)
        if span <= 32:
            old = self.read(asid, hpa - skip, span)
            return old[:skip] + bytes(data) + old[skip + len(data) :]
        head = self.read(asid, hpa - skip, skip) if skip else b""
        tail = self.read(asid, end, -end & 15) if end & 15 else b""
        return head + bytes(data) + tail

    def _mask(self, first: int, span: int) -> int:
        """T of some blocks as one integer, which is kept. Raises ValueError if they are not inside DRAM."""
        self.dram.check(first, span)
        if len(self._masks) >= MASKS:
            self._masks.clear()
        tweaks = (self.tweaks.at(hpa).to_bytes(16, "little") for hpa in range(first, first + span, 16))
        mask = self._masks[first, span] = from_bytes(b"".join(tweaks), "little")
        return mask

    # --------------------------------------------------------- in place

    def encrypt(self, asid: int, hpa: int, n: int) -> None:
        """Encrypt a range where it lies: what was plaintext becomes what slot `asid` reads as that plaintext."""
        hpa &= self._c_bit_off
        if self._lazy and (hpa >> 12 in self._lazy or (hpa & PAGE - 1) + n > PAGE):
            self.dram.settle(hpa, n)
        key = self._slots.get(asid)
        kit = self._kits[key.streamed].get(hpa) if key and n == PAGE else None
        if kit:
            words, table, page, room = kit
            xor(words, table, words)
            key.encrypt_into(page, room)  # type: ignore[union-attr]
            xor(words, table, words)
        else:
            self._in_place(asid, True, hpa, n)
        self.trace.emit(Encrypted, hpa, n, asid)

    def decrypt(self, asid: int, hpa: int, n: int) -> None:
        """Decrypt a range where it lies."""
        hpa &= self._c_bit_off
        self._in_place(asid, False, hpa, n)
        self.trace.emit(Decrypted, hpa, n, asid)

    def _in_place(self, asid: int, encrypt: bool, hpa: int, n: int) -> None:
        key = self._whole_blocks(asid, hpa, n)
        if self._lazy and (hpa >> 12 in self._lazy or (hpa & PAGE - 1) + n > PAGE):
            self.dram.settle(hpa, n)
        memory = self.dram.memory
        self._crypt(key, encrypt, hpa, n, memory, hpa)
        if n == PAGE and self._xex and not hpa & PAGE - 1:  # it may come again: keep what it takes
            kits = self._kits[key.streamed]
            if len(kits) >= PAGE_TABLES:
                kits.clear()
            words, page, room = memory.page(hpa)
            kits[hpa] = words, self.tweaks.page(hpa, key.streamed), page, room

    def seal(self, asid: int, hpa: int, n: int, digest: Digest) -> None:
        """Hash a range of plaintext into `digest` and encrypt it in place, chunk by chunk while it is in the cache."""
        hpa &= self._c_bit_off
        key = self._whole_blocks(asid, hpa, n)
        if self._lazy and (hpa >> 12 in self._lazy or (hpa & PAGE - 1) + n > PAGE):
            self.dram.settle(hpa, n)
        memory, at, end = self.dram.memory, hpa, hpa + n
        while at < end:
            size = min(end - at, CHUNK - at % CHUNK)
            digest.update(memory.view[at : at + size])
            self._crypt(key, True, at, size, memory, at)
            at += size
        self.trace.emit(Encrypted, hpa, n, asid)

    def crypt_frames(self, asid: int, pfns: Sequence[int], *, encrypt: bool) -> None:
        """Encrypt or decrypt scattered frames in place; ValueError if one comes twice or lies outside."""
        key = self._slots.get(asid) or self._no_key(asid)
        if len(set(pfns)) != len(pfns):
            raise ValueError("a frame comes twice")
        if pfns:
            self.dram.check(min(pfns) * PAGE, PAGE)
            self.dram.check(max(pfns) * PAGE, PAGE)
        if self._lazy:
            self.dram.settle()
        self.tweaks.crypt_frames(key, encrypt, pfns, self.dram.memory)

    def _whole_blocks(self, asid: int, hpa: int, n: int) -> Key:
        key = self._slots.get(asid)
        if key is None:
            self._no_key(asid)
        if (hpa | n) & 15:
            raise ValueError(f"the engine works on 16-byte blocks in place, not on {n:#x} bytes at {hpa:#x}")
        if hpa < 0 or n < 0 or hpa + n > self.dram.size:
            self.dram.check(hpa, n)
        return key

    def _no_key(self, asid: int) -> NoReturn:
        raise NoKey(f"key slot {asid} has no key")

    def __repr__(self) -> str:
        return f"<Engine: {self.chip.name}, {self.chip.mode}, keys in {len(self._slots)} of {self.chip.max_asid} slots>"


def tweak_constants(chip: Chip, stream: Stream) -> dict[int, int]:
    """The constant of each address bit from 4 up: published where the chip's row has it, else from the seed.

    Those from the seed are independent of all others over GF(2) as long as their width allows it, so that no two
    addresses share a tweak. An ECB engine, which never existed, has none.
    """
    if chip.mode == "ECB":
        return {}
    constants = {bit: _repeated(bytes.fromhex(text)) for bit, text in chip.tweaks.items()}
    span: list[int] = []
    for value in constants.values():
        _independent(value, span)
    for bit in range(4, chip.address_bits):
        if bit in constants:
            continue
        value = _repeated(stream.draw(f"engine/tweak/{bit}", chip.tweak_bytes))
        while not _independent(value, span) and len(span) < 8 * chip.tweak_bytes:
            value = _repeated(stream.draw(f"engine/tweak/{bit}", chip.tweak_bytes))
        constants[bit] = value
    return dict(sorted(constants.items()))


def _repeated(pattern: bytes) -> int:
    return int.from_bytes(pattern * (16 // len(pattern)), "little")


def _independent(value: int, span: list[int]) -> bool:
    """Whether a vector adds to the span of a reduced basis; if so it is added."""
    for row in span:
        value = min(value, value ^ row)
    if value:
        span.append(value)
        span.sort(reverse=True)
    return bool(value)
