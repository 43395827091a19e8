"""The trace: what happened, as packed rows that plots and widgets read.

An Event is declared once; its annotations are table columns, JSON keys and
plot axes, its docstring is the tooltip.

    class CommandDone(Event, lane="psp"):
        \"\"\"The PSP finished one mailbox command.\"\"\"

        cmd: u32
        status: u32

    trace.emit(CommandDone, cmd, status)          # the machine: fire and forget
    trace.rows()                                  # [{'seq': 0, 'kind': 'CommandDone', 'cmd': 1, ...}]

Rows of one kind lie packed in one buffer, so that a column is a view and a
million events stay under thirty bytes each. Nobody inside the machine reads the
trace; an event never holds a key. Hosts of one world share a Trace, so that
their order is real.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Iterator
from typing import Annotated, Any, ClassVar, get_args, get_origin

from sevlab import given
from sevlab.wire import KINDS, _annotations, _resolve, u8, u16, u32, u64

__all__ = ["Event", "Trace", "blob", "name", "u8", "u16", "u32", "u64"]

name = Annotated[str, "name"]  # a short text, stored once and numbered
blob = Annotated[bytes, "blob"]  # bytes that moved, stored beside the rows

# Every row begins with these: order in the world, virtual nanoseconds, the
# journal entry that caused it, and which host of the world it happened on.
HEADER = struct.Struct("<IQIB")
ENTRY = struct.Struct("<12xI")  # a row's journal entry, in its header
HEADER_COLUMNS = (("seq", "<u4"), ("t", "<u8"), ("n", "<u4"), ("host", "u1"))
TEXTS = 4096  # different texts and blobs that a ring keeps before it looks which of them its rows still name
BLOB_LIMIT = 4096  # bytes kept of one blob; its row has the true length beside it where that matters


class Event:
    """A kind of trace row. Subclass it with `lane=` and annotate the columns.

    Column types: u8 to u64, `name` (a short text) and `blob` (bytes that moved).
    """

    KINDS: ClassVar[dict[str, type[Event]]] = {}
    LANE: ClassVar[str]
    COLUMNS: ClassVar[dict[str, str]]
    PACK: ClassVar[struct.Struct]
    TEXTS: ClassVar[tuple[int, ...]]  # the places of names and blobs
    NAMES: ClassVar[tuple[int, ...]]
    BLOBS: ClassVar[tuple[int, ...]]

    def __init_subclass__(cls, lane: str) -> None:
        notes = {key: _resolve(note, cls.__module__) for key, note in _annotations(dict(vars(cls))).items()}
        cls.LANE = lane
        cls.COLUMNS = {}
        codes = ""
        for key, note in notes.items():
            base, mark = get_args(note) if get_origin(note) is Annotated else (None, None)
            if base not in (int, str, bytes):
                raise TypeError(f"{cls.__name__}.{key}: {note!r} is no column type")
            cls.COLUMNS[key] = KINDS[mark] if base is int else mark
            codes += mark if base is int else "I"
        cls.PACK = struct.Struct(HEADER.format + codes)
        cls.NAMES = tuple(i for i, kind in enumerate(cls.COLUMNS.values()) if kind == "name")
        cls.BLOBS = tuple(i for i, kind in enumerate(cls.COLUMNS.values()) if kind == "blob")
        cls.TEXTS = cls.NAMES + cls.BLOBS
        Event.KINDS[cls.__name__] = cls


# The rows of one kind and what it takes to make one more, at one look, since rows are made often: the buffer, PACK.pack,
# the bytes at which a ring drops the older half, TEXTS. A plain tuple: one with names is unpacked in twice the time.
_Rows = tuple[bytearray, Callable[..., bytes], int, tuple[int, ...]]


class Trace:
    """The record of a world: one buffer a kind of event, in one common order.

    `ring` keeps at least that many of the newest rows of each kind and forgets
    older ones, with the texts that only they named; None keeps all. `on=False`
    records nothing.
    """

    def __init__(self, *, ring: int | None = None, on: bool = True) -> None:
        self.ring = None if ring is None else given.number("ring", ring, 1)
        self.on = on
        self.seq = 0
        self.now = 0  # virtual nanoseconds; the clock writes it
        self.entry = 0  # the journal entry under way; the gate writes it
        self.host = 0  # the host that acts; the gate writes it
        self.world: Any = None  # what its hosts share beside it: the gate's (sevlab.gate.World)
        self._buffers: dict[type[Event], _Rows] = {}
        self._texts: list[str | bytes] = []
        self._spare: list[int] = []  # numbers of texts that no kept row names any more
        self._texts_wanted = TEXTS  # so many are kept before somebody looks which are still named
        self._numbers: dict[str | bytes, int] = {}
        self._watchers: list[Callable[[list[dict[str, Any]]], None]] = []
        self._told = 0

    def emit(self, event: type[Event], *values: Any) -> None:
        """Add a row of `event`; the values stand in the order of its columns."""
        if not self.on:
            return
        try:
            buffer, pack, full, texts = self._buffers[event]
        except KeyError:
            buffer, pack, full, texts = self._begin(event)
        if texts:
            values = self._numbered(texts, values)
        buffer += pack(*(self.seq, self.now, self.entry, self.host) + values)  # noqa: RUF005 - a display takes 40 ns more
        self.seq += 1
        if len(buffer) > full:
            del buffer[: full // 2]
            if len(self._numbers) > self._texts_wanted:
                self._forget_texts()

    def _begin(self, event: type[Event]) -> _Rows:
        """A buffer for a kind that has had no row yet."""
        full = 2 * self.ring * event.PACK.size if self.ring else 1 << 60
        rows = self._buffers[event] = bytearray(), event.PACK.pack, full, event.TEXTS
        return rows

    def _numbered(self, places: tuple[int, ...], values: tuple[Any, ...]) -> tuple[Any, ...]:
        """The values with their texts and blobs replaced by numbers."""
        row = [*values]
        try:
            for place in places:
                row[place] = self._numbers[row[place]]
        except (KeyError, TypeError, ValueError):  # a text that is new, a buffer that is no key
            for place in places:
                value = values[place]
                row[place] = self._number(value if isinstance(value, str) else bytes(value[:BLOB_LIMIT]))
        return tuple(row)

    def _rows(self, event: type[Event]) -> bytearray:
        """The packed rows of a kind."""
        found = self._buffers.get(event)
        if found is None and not (isinstance(event, type) and issubclass(event, Event)):
            raise TypeError(f"a kind of row is a class of Event, such as sevlab.host.HostMade, not {given.shown(event)}")
        return bytearray() if found is None else found[0]

    def _forget_texts(self) -> None:
        """Drop the texts and blobs that no row of a ring names any more; their numbers are given out again."""
        named: set[int] = set()
        for event, (buffer, *_) in self._buffers.items():
            for row in event.PACK.iter_unpack(buffer) if event.TEXTS else ():
                named.update(row[len(HEADER_COLUMNS) + place] for place in event.TEXTS)
        for text, number in list(self._numbers.items()):
            if number not in named:
                del self._numbers[text]
                self._texts[number] = b""
                self._spare.append(number)
        self._texts_wanted = max(TEXTS, 2 * len(self._numbers))

    def _number(self, text: str | bytes) -> int:
        """The number of a text or blob, which it has from now on."""
        number = self._numbers.get(text)
        if number is None:
            if self._spare:
                number = self._spare.pop()
                self._texts[number] = text
            else:
                number = len(self._texts)
                self._texts.append(text)
            self._numbers[text] = number
        return number

    def forget(self, n: int) -> None:
        """Drop the rows of entry `n` and of later ones, which have been undone; their numbers are given out again."""
        for event, (buffer, *_) in self._buffers.items():
            size, end = event.PACK.size, len(buffer)
            while end and ENTRY.unpack_from(buffer, end - size)[0] >= n:
                end -= size
            if end < len(buffer):
                self.seq = min(self.seq, HEADER.unpack_from(buffer, end)[0])
                del buffer[end:]
        self._told = min(self._told, self.seq)

    def _decode(self, event: type[Event], values: tuple[Any, ...]) -> dict[str, Any]:
        seq, t, n, host, *rest = values
        row = {"seq": seq, "t": t, "n": n, "host": host, "lane": event.LANE, "kind": event.__name__}
        for (key, kind), value in zip(event.COLUMNS.items(), rest, strict=True):
            row[key] = self._texts[value] if kind in ("name", "blob") else value
        return row

    def rows(self, *events: type[Event], since: int = 0) -> list[dict[str, Any]]:
        """The rows in their common order, as dictionaries; of `events` only, if any are given.

        `since` is the first `seq` wanted.
        """
        found = []
        for event in events or self._buffers:
            buffer, size = self._rows(event), event.PACK.size
            first = self._first(event, since)
            for at in range(first * size, len(buffer), size):
                found.append(self._decode(event, event.PACK.unpack_from(buffer, at)))
        return sorted(found, key=lambda row: row["seq"])

    def row(self, event: type[Event], seq: int) -> dict[str, Any] | None:
        """The row of `event` with this number; None where another kind has it, or a ring has forgotten it."""
        buffer, at = self._rows(event), self._first(event, seq) * event.PACK.size
        if at >= len(buffer) or HEADER.unpack_from(buffer, at)[0] != seq:
            return None
        return self._decode(event, event.PACK.unpack_from(buffer, at))

    def _first(self, event: type[Event], since: int) -> int:
        """The index of the first row of `event` whose seq is at least `since`."""
        buffer, size = self._rows(event), event.PACK.size
        low, high = 0, len(buffer) // size
        while low < high:
            middle = (low + high) // 2
            if HEADER.unpack_from(buffer, middle * size)[0] < since:
                low = middle + 1
            else:
                high = middle
        return low

    def packed(self, event: type[Event]) -> tuple[bytes, list[tuple[str, str]]]:
        """One kind's rows as bytes, and their columns as (name, numpy format): ready for a plot."""
        rows = self._rows(event)
        formats = {"u8": "u1", "u16": "<u2", "u32": "<u4", "u64": "<u8", "i32": "<i4", "name": "<u4", "blob": "<u4"}
        columns = [(key, formats[kind]) for key, kind in event.COLUMNS.items()]
        return bytes(rows), [*HEADER_COLUMNS, *columns]

    def text(self, number: int) -> str | bytes:
        """The text or blob that a packed row names by number."""
        return self._texts[number]

    def __len__(self) -> int:
        """How many rows are kept."""
        return sum(len(buffer) // event.PACK.size for event, (buffer, *_) in self._buffers.items())

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def __repr__(self) -> str:
        return f"<Trace: {len(self)} rows of {len(self._buffers)} kinds>"

    # ------------------------------------------------------------- watchers

    @property
    def watched(self) -> bool:
        """Whether anybody is to be told."""
        return bool(self._watchers)

    def watch(self, callback: Callable[[list[dict[str, Any]]], None]) -> Callable[[], None]:
        """Have `callback(rows)` called with the new rows after each entry; returns what ends it.

        A watcher that raises is dropped, with a line in the log: the machine goes on.
        """
        if not callable(callback):
            raise TypeError(f"a watcher is a function of the new rows, not {given.shown(callback)}")
        if not self._watchers:
            self._told = self.seq  # what is here already is not new
        self._watchers.append(callback)
        return lambda: self._drop(callback)

    def _drop(self, callback: Callable[[list[dict[str, Any]]], None]) -> None:
        if callback in self._watchers:
            self._watchers.remove(callback)

    def tell(self) -> None:
        """Give the watchers what is new. The gate calls it when it has been left."""
        if not self._watchers or self._told == self.seq:
            return
        rows, self._told = self.rows(since=self._told), self.seq
        for callback in list(self._watchers):
            try:
                callback(rows)
            except Exception:
                logging.getLogger("sevlab.trace").exception("a trace watcher raised and was dropped")
                self._drop(callback)
