"""The journal of a world: every entry from outside, in order, so that it can be repeated.

An entry is (host, what, target, args, kw): which host of the world, what was
done, to whom, and with which arguments as they were before the call. `target` is
0 for the host itself, the pid of a process, or minus the number of a call, which
is that of the entry that began it.

Arguments are kept by content. A Wire becomes Packed, a process Who, bytes of a
page and more lie in a temporary file, made when it is first needed. What an
observer looks at is no entry; a look through the x-ray is kept beside them, since
a grader wants to know.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from weakref import finalize

from sevlab.wire import Wire

OPAQUE = 1 << 63  # the target of an entry that cannot be repeated: a function that only its maker knows
SPOOLED = 4096  # bytes from which on an argument is spooled

# What is kept as it is and needs no look inside.
PLAIN = frozenset({int, str, bool, float, type(None)})

Entry = tuple[int, str, int, tuple[Any, ...], dict[str, Any] | None]


class Packed(NamedTuple):
    """A Wire argument: its class and its bytes."""

    kind: type[Wire]
    data: bytes


class Who(NamedTuple):
    """A process as an argument: its host's number in the world, and its pid."""

    host: int
    pid: int


class Spooled(NamedTuple):
    """Bytes in the spool."""

    spool: Spool
    at: int
    size: int

    def read(self) -> bytes:
        """The bytes."""
        return self.spool.read(self.at, self.size)


class Look(NamedTuple):
    """A look through the x-ray: after which entry, at which host, at what."""

    n: int
    host: int
    what: str


class Spool:
    """Large payloads, appended to a temporary file that goes with its last user."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._file: Any = None
        self.size = 0

    def append(self, data: bytes | bytearray | memoryview) -> Spooled:
        """Keep a copy of `data`."""
        with self._lock:
            if self._file is None:
                import tempfile  # late: it brings a dozen modules along

                self._file = tempfile.TemporaryFile(prefix="sevlab-", buffering=1 << 18)  # noqa: SIM115 - it is open as long as the spool is
                finalize(self, self._file.close)
            at, size = self.size, memoryview(data).nbytes
            self._file.seek(at)
            self._file.write(data)
            self.size += size
            return Spooled(self, at, size)

    def read(self, at: int, size: int) -> bytes:
        """The `size` bytes that were appended at `at`."""
        with self._lock:
            self._file.seek(at)
            return bytes(self._file.read(size))

    def __repr__(self) -> str:
        return f"<Spool: {self.size} bytes>"


class Journal:
    """The entries of a world. `interrupts` says of those that Ctrl-C ended at which question it was heard."""

    def __init__(self, entries: Sequence[Entry] = (), spool: Spool | None = None) -> None:
        self.entries = list(entries)
        self.spool = Spool() if spool is None else spool
        self.looks: list[Look] = []
        self.interrupts: dict[int, int] = {}

    def upto(self, n: int) -> Journal:
        """A journal of the first `n` entries; payloads are shared."""
        first = Journal(self.entries[:n], self.spool)
        first.looks = [look for look in self.looks if look.n <= n]
        first.interrupts = {number: asked for number, asked in self.interrupts.items() if number <= n}
        return first

    def drop(self, n: int) -> None:
        """Forget entry `n`, the last one: it is undone."""
        del self.entries[n - 1 :]
        self.interrupts.pop(n, None)

    # ----------------------------------------------------------- arguments

    def freeze(self, value: Any) -> Any:
        """An argument by content. Raises what packing it raises: ValueError for a number that does not fit its field."""
        kind = value.__class__
        if kind in PLAIN:
            return value
        if kind is tuple or kind is list:
            return tuple([item if item.__class__ in PLAIN else self.freeze(item) for item in value])
        if isinstance(value, Wire):
            return tuple.__new__(Packed, (kind, value.pack()))  # a fifth of a microsecond less
        if isinstance(value, bytes | bytearray | memoryview):
            if len(value) >= SPOOLED:
                return self.spool.append(value)
            return value if kind is bytes else bytes(value)
        if kind is dict:
            return {key: self.freeze(item) for key, item in value.items()}
        if hasattr(value, "journaled"):
            return value.journaled()
        return value

    @staticmethod
    def thaw(value: Any, processes: Mapping[tuple[int, int], Any]) -> Any:
        """The argument that was frozen; `processes` are those of the machine that it is for."""
        kind = value.__class__
        if kind in PLAIN:
            return value
        if kind is Packed:
            return value.kind.unpack(value.data)
        if kind is Spooled:
            return value.read()
        if kind is Who:
            return processes[value]
        if kind is tuple:
            return tuple([Journal.thaw(item, processes) for item in value])
        if kind is dict:
            return {key: Journal.thaw(item, processes) for key, item in value.items()}
        return value

    # ------------------------------------------------------- for those who read it

    def rows(self) -> list[dict[str, Any]]:
        """The entries as dictionaries: n, host, what, target (as text) and arguments."""
        return [
            {"n": n, "host": host, "what": what, "target": _shown(target), "args": [*args, *(kw or {}).values()]}
            for n, (host, what, target, args, kw) in enumerate(self.entries, 1)
        ]

    def __len__(self) -> int:
        return len(self.entries)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return iter(self.rows())

    def __repr__(self) -> str:
        return f"<Journal: {len(self)} entries, {len(self.looks)} looks through the x-ray>"


def _shown(target: int) -> str:
    if target == OPAQUE:
        return "outside"
    return f"process {target}" if target > 0 else f"call {-target}" if target else "host"
