"""Journals as files: a versioned format that nothing in it can execute.

A file is MAGIC with the format's number; the length of a JSON text; that text;
the payloads, each once; and the SHA-256 of all before. The JSON names guest
programs by digest, structures by the names they have in `sevlab.abi`, kernels by
their preset's name. What a value is stands before it:

    7  "text"  null  true        as they are
    ["b", base64]                bytes             ["s", at, size]  bytes among the payloads
    ["l", [...]]                 a tuple           ["f", [...]]     a set       ["d", [[key, value], ...]]
    ["w", class, size, base64]   a structure       ["t", class, size]           its class
    ["p", host, pid]             a process         ["g", digest, name]          a guest program
    ["k", name]                  a kernel's design
"""

from __future__ import annotations

import hashlib
import json
import struct
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

from sevlab import __version__
from sevlab.hw.chips import Chip, by_name
from sevlab.hw.program import Program
from sevlab.journal import OPAQUE, Entry, Journal, Look, Packed, Spooled, Who
from sevlab.kvm.designs import DESIGNS, Design
from sevlab.wire import Wire

MAGIC = b"sevlab journal "
FORMAT = 1
_HEAD = struct.Struct("<15sIQ")  # MAGIC, format, bytes of JSON
_HASH = 32
_ABI = "sevlab.abi."


class JournalError(ValueError):
    """A journal cannot be written, read or repeated; the text is one sentence."""


class Saved(NamedTuple):
    """What a file holds: the journal, which host it was saved from, virtual time at its beginning and end, by whom."""

    journal: Journal
    host: int
    began: int
    now: int
    version: str


# ------------------------------------------------------------------ writing


class _Writer:
    """Turns entries into JSON, and collects the payloads."""

    def __init__(self) -> None:
        self.payloads: list[bytes] = []
        self._size = 0
        self._known: dict[bytes, tuple[int, int]] = {}

    def value(self, value: Any) -> Any:
        match value:
            case None | bool() | str():
                return value
            case int() | float():
                return value + 0  # an IntEnum is its number
            case bytes():
                return ["b", b64encode(value).decode()]
            case Spooled():
                return ["s", *self._payload(value.read())]
            case Packed():
                return ["w", _class_name(value.kind), value.kind.SIZE, b64encode(value.data).decode()]
            case Who():
                return ["p", value.host, value.pid]
            case tuple():
                return ["l", [self.value(item) for item in value]]
            case frozenset() | set():
                return ["f", [self.value(item) for item in sorted(value)]]
            case dict():
                return ["d", [[key, self.value(item)] for key, item in value.items()]]
            case type() if issubclass(value, Wire):
                return ["t", _class_name(value), value.SIZE]
            case Program():
                return ["g", value.digest.hex(), value.name]
            case Design():
                return ["k", value.name if DESIGNS.get(value.name) == value else f"{value.name} (your own)"]
            case Chip() if by_name(value.name) is value:
                return value.name
        raise JournalError(f"a journal file cannot hold {value!r}")

    def _payload(self, data: bytes) -> tuple[int, int]:
        digest = hashlib.sha256(data).digest()
        found = self._known.get(digest)
        if found is None:
            found = self._known[digest] = self._size, len(data)
            self.payloads.append(data)
            self._size += len(data)
        return found

    def entry(self, n: int, entry: Entry) -> list[Any]:
        host, what, target, args, kw = entry
        if target == OPAQUE:
            raise JournalError(f"entry {n} ({what}) was made by a function that a journal file does not know")
        try:
            return [host, what, target, [self.value(arg) for arg in args], self.value(kw)]
        except JournalError as error:
            raise JournalError(f"entry {n} ({what}): {error}") from None


def _class_name(kind: type[Wire]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def dump(journal: Journal, *, host: int, began: int, now: int) -> bytes:
    """The file of a journal. Raises JournalError for what a file cannot hold."""
    writer = _Writer()
    body = {
        "version": __version__,
        "host": host,
        "began": began,
        "now": now,
        "entries": [writer.entry(n, entry) for n, entry in enumerate(journal.entries, 1)],
        "looks": journal.looks,
        "interrupts": list(journal.interrupts.items()),
    }
    text = json.dumps(body, separators=(",", ":")).encode()
    data = b"".join([_HEAD.pack(MAGIC, FORMAT, len(text)), text, *writer.payloads])
    return data + hashlib.sha256(data).digest()


# ------------------------------------------------------------------ reading


class _Reader:
    """Turns JSON back into entries."""

    def __init__(self, payloads: memoryview, programs: Sequence[Any], design: Design | None) -> None:
        self._payloads = payloads
        self._design = design
        self._given = {one.digest: one for one in (p if isinstance(p, Program) else Program(p) for p in programs)}
        self._classes: dict[str, type[Wire]] = {}
        self.journal = Journal()

    def value(self, value: Any) -> Any:
        if not isinstance(value, list):
            if isinstance(value, dict):
                raise TypeError("an object is no value")
            return value
        code, *rest = value
        read: Callable[..., Any] = getattr(self, f"_read_{code}")
        return read(*rest)

    def _read_b(self, text: str) -> bytes:
        return b64decode(text, validate=True)

    def _read_s(self, at: int, size: int) -> Any:
        if not 0 <= at <= at + size <= len(self._payloads):
            raise ValueError("a payload is not there")
        return self.journal.spool.append(self._payloads[at : at + size])

    def _read_w(self, name: str, size: int, text: str) -> Packed:
        data = b64decode(text, validate=True)
        if len(data) != size:
            raise ValueError("a structure of another size")
        return Packed(self._read_t(name, size), data)

    def _read_t(self, name: str, size: int) -> type[Wire]:
        """The class of that name, of our own layouts; for any other, one of as many bytes."""
        if name not in self._classes:
            module, _, attribute = name.partition(":")
            found = getattr(import_module(module), attribute, None) if module.startswith(_ABI) else None
            if not (isinstance(found, type) and issubclass(found, Wire) and size == found.SIZE):
                fields = {"__annotations__": {"data": Annotated[bytes, int(size)]}, "__module__": __name__}
                made: Any = type(Wire)
                found = made(attribute or "Structure", (Wire,), fields)
            self._classes[name] = found
        return self._classes[name]

    def _read_l(self, items: list[Any]) -> tuple[Any, ...]:
        return tuple(self.value(item) for item in items)

    def _read_f(self, items: list[Any]) -> frozenset[Any]:
        return frozenset(self.value(item) for item in items)

    def _read_d(self, items: Iterable[Any]) -> dict[Any, Any]:
        return {key: self.value(item) for key, item in items}

    def _read_p(self, host: int, pid: int) -> Who:
        return Who(int(host), int(pid))

    def _read_g(self, digest: str, name: str) -> Program:
        key = bytes.fromhex(digest)
        if key not in self._given:
            from sevlab import guest

            for _, program, _ in guest.catalogue():
                self._given.setdefault(program.digest, program)
        if key not in self._given:
            raise JournalError(
                f"the journal runs the guest program {name} ({digest[:12]}...): give it, load(file, programs=[{name}])"
            )
        return self._given[key]

    def _read_k(self, name: str) -> Design:
        if self._design is not None:
            return self._design
        if name not in DESIGNS:
            raise JournalError(f"the journal was made on a kernel of its own design, {name}: give it, load(file, design=...)")
        return DESIGNS[name]

    def entry(self, row: list[Any]) -> Entry:
        host, what, target, args, kw = row
        if type(host) is not int or type(what) is not str or type(target) is not int or not 0 <= host < 256:
            raise TypeError("no entry")
        named = self.value(kw)
        if not (named is None or isinstance(named, dict)):
            raise TypeError("no arguments")
        return host, what, target, tuple(self.value(arg) for arg in args), named


def parse(data: bytes, programs: Sequence[Any] = (), design: Design | None = None) -> Saved:
    """What a file holds. Raises JournalError, in one sentence, for a foreign, newer, truncated or damaged file."""
    if not data.startswith(MAGIC) or len(data) < _HEAD.size:
        raise JournalError("this is no journal of sevlab")
    _, number, length = _HEAD.unpack_from(data)
    if number > FORMAT:
        raise JournalError(f"this journal has format {number}, written by a newer sevlab than {__version__}, which reads {FORMAT}")
    end = _HEAD.size + length
    if number < 1 or len(data) < end + _HASH or hashlib.sha256(data[:-_HASH]).digest() != data[-_HASH:]:
        raise JournalError("this journal is damaged: it is cut short, or its check sum does not fit")
    reader = _Reader(memoryview(data)[end:-_HASH], programs, design)
    try:
        body = json.loads(data[_HEAD.size : end])
        journal = reader.journal
        journal.entries += [reader.entry(row) for row in body["entries"]]
        journal.looks += [Look(int(n), int(host), str(what)) for n, host, what in body["looks"]]
        journal.interrupts.update((int(n), int(asked)) for n, asked in body["interrupts"])
        return Saved(journal, int(body["host"]), int(body["began"]), int(body["now"]), str(body["version"]))
    except JournalError:
        raise
    except (ArithmeticError, AttributeError, ImportError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise JournalError(f"this journal says what no journal says: {error}") from None
