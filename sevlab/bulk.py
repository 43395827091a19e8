"""Bulk data: memory by the gigabyte, and the address tweak over whole ranges.

Beside `columns` the only module of the core that imports numpy: a handful of classes with plain numbers and buffers at
their borders, so that a pure-Python twin can stand in. tests/hw/engine_reference.py has the engine's formulas
plainly; here they are fast:

* A range is worked on in chunks that stay in the second-level cache, in place.
* The tweak is linear in the address: T(p ^ q) = T(p) ^ T(q). One table holds it for all
  offsets in a chunk; from chunk to chunk the table takes one xor with a constant tile.
* Where AES-XTS proves to be ECB between two xors of a fixed stream, it takes ECB's place, as it is
  nearly three times as fast; the stream is folded into the tables.
"""

from __future__ import annotations

import mmap
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sevlab.crypto import SLACK, Buffer, Ecb, xts_contexts, xts_stream

PAGE = 4096
CHUNK = 1 << 18  # bytes worked on at a time: table, tile and data fit into a megabyte of L2 together
WORD = 8
PAGE_TABLES = 1024  # page tables kept, four kilobytes each
LONG = 1 << 13  # bytes from which on it pays to keep a table and move it
TABLES = 16  # running tables kept, up to a chunk each
TILES = 40  # changes of a running table kept, up to a chunk each
BATCH = CHUNK // PAGE  # scattered frames worked on at a time

_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS if hasattr(mmap, "MAP_ANONYMOUS") else 0
_NORESERVE = 0x4000 if sys.platform == "linux" else 0  # the flag is not in the mmap module

xor = np.bitwise_xor

Array = Any  # numpy's array types say nothing here that the names do not


def reserve(size: int) -> mmap.mmap:
    """Anonymous memory that costs nothing until it is touched."""
    found = mmap.mmap(-1, size, flags=_FLAGS | _NORESERVE)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        try:
            found.madvise(mmap.MADV_NOHUGEPAGE)  # else one touched byte makes two megabytes resident
        except OSError:
            return found  # a kernel without huge pages has none to refuse
    return found


class Memory:
    """`size` bytes, zero until written, with a spare page behind them for ciphers that want room.

    `view` is a writable memoryview of all of it, spare page included; `raw` the same, and slices of it are bytes.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.raw = reserve((size + PAGE - 1) // PAGE * PAGE + PAGE)
        self.view = memoryview(self.raw)
        self.words: Array = np.frombuffer(self.raw, dtype=np.uint64)
        self._pages: dict[int, tuple[Array, memoryview, memoryview]] = {}

    def page(self, at: int) -> tuple[Array, memoryview, memoryview]:
        """The page at `at` as words, as a view, and as a view with room for a cipher; kept, as slicing takes its time."""
        found = self._pages.get(at)
        if found is None:
            if len(self._pages) >= PAGE_TABLES:
                self._pages.clear()
            end = at + PAGE
            found = self._pages[at] = self.words[at // WORD : end // WORD], self.view[at:end], self.view[at : end + SLACK]
        return found

    def zero(self, at: int, n: int) -> None:
        """Clear `n` bytes at `at`; whole pages in long runs go back to the system."""
        first, end = -(-at // PAGE) * PAGE, (at + n) // PAGE * PAGE
        if end - first < 16 * PAGE or not hasattr(mmap, "MADV_DONTNEED"):
            self.view[at : at + n] = bytes(n)
            return
        self.view[at:first] = bytes(first - at)
        self.raw.madvise(mmap.MADV_DONTNEED, first, end - first)
        self.view[end : at + n] = bytes(at + n - end)


class Key:
    """One memory key and its cipher contexts. Raises ValueError unless it has 16 bytes.

    `streamed` says that the bulk contexts are XTS, whose own stream the tables must cancel.
    """

    __slots__ = ("decrypt", "decrypt_into", "encrypt", "encrypt_into", "streamed")

    def __init__(self, key: Buffer, *, xts: bool = True) -> None:
        if len(key) != 16:
            raise ValueError(f"a memory key has 16 bytes, not {len(key)}")
        ecb = Ecb(key)
        fast = xts_contexts(key) if xts else None
        self.encrypt, self.decrypt = ecb.encrypt_raw, ecb.decrypt_raw
        self.encrypt_into, self.decrypt_into = fast or (ecb.encrypt_raw_into, ecb.decrypt_raw_into)
        self.streamed = fast is not None


class Tweak:
    """The address tweak T(p), the xor of one 16-byte constant for each set bit of p, and the cipher around it.

    `constants` maps an address bit (4 and up) to its constant, an integer whose
    low byte is the first in memory. With `xex` the cipher is C = E(P ^ T) ^ T,
    else XE: C = E(P ^ T).
    """

    def __init__(self, constants: Mapping[int, int], *, xex: bool) -> None:
        self.xex = xex
        self.bits = max(constants, default=4) + 1
        spans = range(0, self.bits, 8)
        self._bytewise = [_combinations([constants.get(bit, 0) for bit in range(low, low + 8)]) for low in spans]
        self._constants = dict(constants)
        self._low: Array = None  # made when the first long range comes

    def at(self, hpa: int) -> int:
        """T of one address as an integer, low byte first in memory; its low four bits do not count."""
        value = 0
        for table in self._bytewise:
            value ^= table[hpa & 255]
            hpa >>= 8
        return value

    # --------------------------------------------------------- tables

    def _prepare(self) -> None:
        """Make what does not depend on a key: offsets within a chunk, with and without XTS's stream."""
        low = np.zeros(CHUNK // WORD, dtype=np.uint64)
        width = 2
        while width < len(low):
            bit = (width * WORD).bit_length() - 1
            low[width : 2 * width] = low[:width] ^ _tile(self._constants.get(bit, 0), width * WORD)
            width *= 2
        self._stream = np.frombuffer(xts_stream(CHUNK), dtype=np.uint64)
        table = b"".join(value.to_bytes(16, "little") for values in self._bytewise for value in values)
        self._vector = words_of(table).reshape(-1, 256, 2)
        self._low = low
        self._lows = (low, low ^ self._stream)  # the second is used with streamed keys
        pages = np.tile(low[: PAGE // WORD], BATCH)
        self._batch_lows = (pages, pages ^ self._stream)
        self._running: dict[tuple[int, int, bool], list[Any]] = {}
        self._tiles: dict[tuple[int, int], Array] = {}
        self._part = np.empty_like(low)
        self._pages: tuple[dict[int, Array], dict[int, Array]] = ({}, {})
        self._gathered = Memory(CHUNK)

    def _table(self, hpa: int, size: int, streamed: bool) -> Array:
        """T of `size` bytes from `hpa`, which lie in one chunk, with the stream folded in if `streamed`."""
        if not (hpa | size) & size - 1:  # then T(hpa + i) = T(hpa) ^ T(i)
            return self._moved(hpa, 0, size, streamed)
        words = size // WORD
        part = self._part[:words]
        offset = hpa % CHUNK
        if size >= LONG:
            return self._moved(hpa - offset, offset, size, streamed)
        xor(self._low[offset // WORD : offset // WORD + words], _tile(self.at(hpa - offset), size), part)
        return xor(part, self._stream[:words], part) if streamed else part

    def page(self, hpa: int, streamed: bool) -> Array:
        """The table of the page at `hpa`, kept: T of all its blocks, with the stream folded in if `streamed`."""
        if self._low is None:
            self._prepare()
        pages = self._pages[streamed]
        table = pages.get(hpa)
        if table is None:
            if len(pages) >= PAGE_TABLES:
                pages.clear()
            table = pages[hpa] = self._lows[streamed][: PAGE // WORD] ^ _tile(self.at(hpa), PAGE)
        return table

    def _moved(self, base: int, offset: int, size: int, streamed: bool) -> Array:
        """The running table of `size` bytes from `base + offset`, moved on from where it was last.

        No bit of `base` is one of the offsets' bits. A walk in equal steps comes back to the same few offsets in a chunk.
        """
        running = self._running.get((offset, size, streamed))
        if running is None:
            if len(self._running) >= TABLES:
                self._running.clear()
            table = self._low[offset // WORD : (offset + size) // WORD]
            table = table ^ self._stream[: size // WORD] if streamed else table.copy()
            running = self._running[offset, size, streamed] = [table, 0]
        table, before = running
        change = base ^ before  # along a walk the carry: one of some thirty values
        if change:
            tile = self._tiles.get((change, size))
            if tile is None:
                if len(self._tiles) >= TILES:
                    self._tiles.clear()
                tile = self._tiles[change, size] = _tile(self.at(change), size)
            xor(table, tile, table)
            running[1] = base
        return table

    # --------------------------------------------------------- ranges

    def crypt(self, key: Key, encrypt: bool, hpa: int, n: int, memory: Memory, at: int, source: Array = None) -> None:
        """Encrypt or decrypt `n` bytes whose address is `hpa`, in place at `at` of `memory`; all three multiples of 16.

        With `source` (n bytes as an array of words) they come from there, and only the result lies in `memory`.
        """
        if self._low is None:
            self._prepare()
        into = key.encrypt_into if encrypt else key.decrypt_into
        streamed = key.streamed
        if n == PAGE and self.xex and not hpa & PAGE - 1:
            table = self.page(hpa, streamed)
            words, page, room = memory.page(at)
            xor(words if source is None else source, table, words)
            into(page, room)
            xor(words, table, words)
            return
        view, all_words = memory.view, memory.words
        before, after = self.xex or encrypt, self.xex or not encrypt
        done = 0
        while done < n:
            size = min(n - done, CHUNK - hpa % CHUNK)
            words = all_words[at // WORD : (at + size) // WORD]
            given = words if source is None else source[done // WORD : (done + size) // WORD]
            table = self._table(hpa, size, streamed)

            if before:
                xor(given, table, words)
            elif streamed:
                xor(given, self._stream[: size // WORD], words)
            elif source is not None:
                words[:] = given
            into(view[at : at + size], view[at : at + size + SLACK])
            if after:
                xor(words, table, words)
            elif streamed:
                xor(words, self._stream[: size // WORD], words)

            hpa, at, done = hpa + size, at + size, done + size

    def crypt_frames(self, key: Key, encrypt: bool, pfns: Sequence[int], memory: Memory) -> None:
        """Encrypt or decrypt scattered frames of `memory` in place, each at its own address. No frame may come twice."""
        if self._low is None:
            self._prepare()
        into = key.encrypt_into if encrypt else key.decrypt_into
        streamed = key.streamed
        frames = memory.words.reshape(-1, PAGE // WORD)
        for first in range(0, len(pfns), BATCH):
            batch = np.array(pfns[first : first + BATCH], dtype=np.intp)
            count = len(batch)
            size = count * PAGE
            words = self._gathered.words[: size // WORD]
            rows = words.reshape(count, -1)
            np.take(frames, batch, axis=0, out=rows, mode="clip")
            table = self._part[: size // WORD]
            table.view(np.complex128).reshape(count, -1)[:] = self._tweaks(batch)[:, None]  # 16 bytes at a time
            xor(table, self._batch_lows[streamed][: size // WORD], table)

            if self.xex or encrypt:
                xor(words, table, words)
            elif streamed:
                xor(words, self._stream[: size // WORD], words)
            into(self._gathered.view[:size], self._gathered.view[: size + SLACK])
            if self.xex or not encrypt:
                xor(words, table, words)
            elif streamed:
                xor(words, self._stream[: size // WORD], words)
            frames[batch] = rows

    def _tweaks(self, pfns: Array) -> Array:
        """T of many frames, each as one 16-byte number."""
        hpas = pfns.astype(np.uint64) << np.uint64(12)
        value = np.zeros((len(pfns), 2), dtype=np.uint64)
        for index, table in enumerate(self._vector):
            value ^= table[(hpas >> np.uint64(8 * index)) & np.uint64(255)]
        return value.view(np.complex128).reshape(-1)


def words_of(data: Buffer) -> Array:
    """Bytes, a multiple of eight, as the words that `Tweak.crypt` takes for a source."""
    return np.frombuffer(data, dtype=np.uint64)


def _tile(value: int, size: int) -> Array:
    """A 16-byte number over and over. Broadcasting two words would be twelve times slower."""
    return np.frombuffer(value.to_bytes(16, "little") * (size // 16), dtype=np.uint64)


def _combinations(values: list[int]) -> list[int]:
    """The xor of every subset of eight values, by the subset's bits."""
    found = [0]
    for value in values:
        found += [value ^ other for other in found]
    return found


def bytes_image(data: Buffer, width: int) -> Array:
    """Bytes as lines of pixels. Raises ValueError unless they are whole lines."""
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, width)


def changed_blocks(before: Buffer, after: Buffer, width: int) -> Array:
    """How many bytes of each block differ, `width` blocks a line. Raises ValueError for two lengths, or no whole lines."""
    one, other = (np.frombuffer(data, dtype=np.uint8) for data in (before, after))
    if len(one) != len(other):
        raise ValueError(f"{len(one)} bytes and {len(other)} bytes are not two moments of one place")
    return (one != other).reshape(-1, width, 16).sum(axis=2)
