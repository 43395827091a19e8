"""Time travel: machines made from a journal, by doing its entries again.

The same entries give the same bytes, rows and key slots, since nothing in the
machine comes from anywhere but its seed and its entries. What is new in a
replay: a trace and a world of its own, or, when an entry is undone, the very
objects that the user holds, put back to where they were.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from io import TextIOBase
from pathlib import Path
from typing import IO, Any

from sevlab import given, journal_format
from sevlab.gate import World, _not_recorded
from sevlab.host import Host
from sevlab.hw.thread import moments
from sevlab.journal import OPAQUE, PLAIN, Entry, Journal
from sevlab.journal_format import JournalError
from sevlab.kvm.designs import Design
from sevlab.trace import Trace
from sevlab.views import XrayTaken

__all__ = ["JournalError", "fork", "load", "past", "rebuild", "save"]

SYSCALLS = frozenset({"ioctl", "begin"})  # beside the methods that sevlab.kvm.syscall.entry has marked
CALLS = frozenset({"step", "finish", "interrupt", "abandon"})


class Repeat:
    """Does entries again on hosts that are being made anew: `make(number, settings)` makes one.

    `processes` and `calls` are those that the repeated entries have made, which later ones name.
    """

    def __init__(self, hosts: Sequence[Host], make: Callable[[int, dict[str, Any]], object]) -> None:
        self.hosts = hosts
        self.make = make
        self.processes: dict[tuple[int, int], Any] = {}  # by host and pid
        self.calls: dict[int, Any] = {}  # by number
        self._methods: dict[str, Callable[..., Any]] = {}

    def entry(self, n: int, entry: Entry) -> None:
        """Do entry `n` again. Its refusal, which it was then too, is no error.

        Raises JournalError for an entry that names what is not there, or cannot be repeated.
        """
        host, what, target, args, kw = entry
        for value in args:
            if value.__class__ not in PLAIN:
                args = Journal.thaw(args, self.processes)
                break
        named = Journal.thaw(kw, self.processes) if kw else {}
        try:
            if 0 < target < OPAQUE:
                process = self.processes.get((host, target))
                made = (self._methods.get(what) or self._method(n, what, target, process))(process, *args, **named)
            elif target:
                made = self._call(n, what, target)()
            elif what == "host":
                made = self.make(host, named)
            else:
                made = self.hosts[host].act(what)(*args, **named)
        except OSError as refusal:
            call = getattr(refusal, "call", None)
            if call is not None:
                self.calls[call.number] = call
            return
        if what in ("process", "fork"):
            self.processes[host, made.pid] = made
        elif what == "begin":
            self.calls[n] = made

    def _method(self, n: int, what: str, pid: int, process: Any) -> Callable[..., Any]:
        """The system call of this name, as a function of a process."""
        if process is None:
            raise JournalError(f"entry {n}: {what} of process {pid}, which no entry has made")
        method: Any = getattr(type(process), what, None)
        if what not in SYSCALLS and not hasattr(method, "syscall"):
            raise JournalError(f"entry {n}: {what} is no system call")
        self._methods[what] = method
        return method  # type: ignore[no-any-return]

    def _call(self, n: int, what: str, target: int) -> Callable[[], Any]:
        if target == OPAQUE:
            raise JournalError(f"entry {n} ({what}) was made by a function that the journal does not know")
        call = self.calls.get(-target)
        if call is None or what not in CALLS:
            raise JournalError(f"entry {n}: {what} of call {-target}, which no entry has begun")
        return getattr(call, what)  # type: ignore[no-any-return]


def rebuild(host: Host) -> None:
    """Make all hosts of a world anew, in place, from their journal: an entry was undone.

    Hosts, processes and calls stay the objects they were.
    """
    world, hosts = host.gate.world, host.world
    old = [(dict(one.kernel.calls.made), dict(one.kernel.calls.kept)) if hasattr(one, "kernel") else None for one in hosts]
    vars(moments(world.trace)).clear()
    moments(world.trace).__init__()  # type: ignore[misc]

    def make(number: int, settings: dict[str, Any]) -> None:
        hosts[number].act("host")(**settings)
        hosts[number].kernel.calls.old = old[number]

    repeat = Repeat(hosts, make)
    for n, entry in enumerate(world.journal.entries, 1):
        repeat.entry(n, entry)
    for one in hosts:
        if hasattr(one, "kernel"):
            one.kernel.calls.old = None
            _LITTER.more(one.kernel.frames.fresh << 12)


def _twins(journal: Journal, began: int, ring: int | None) -> World:
    """The world that a journal makes: hosts, trace and all."""
    trace = Trace(ring=ring)
    trace.now = began
    world = trace.world = World(trace)
    world.journal, world.append, world.replaying = journal, _not_recorded, True
    looks = {look.n: [other for other in journal.looks if other.n == look.n] for look in journal.looks}
    repeat = Repeat(world.members, lambda number, settings: Host(trace=trace, **settings))
    for n, entry in enumerate(journal.entries, 1):
        try:
            repeat.entry(n, entry)
        except JournalError:
            raise
        except Exception as error:
            raise JournalError(f"entry {n} ({entry[1]}) cannot be repeated: {type(error).__name__}: {error}") from error
        for look in looks.get(n, ()):
            trace.host = look.host
            trace.emit(XrayTaken, look.what)
    world.append, world.replaying = journal.entries.append, False
    _LITTER.more(sum(host.kernel.frames.fresh << 12 for host in world.members))
    return world


class Litter:
    """How much memory machines took that were made since the last sweep.

    A machine's parts point at one another, so that one nobody holds any more stays until the garbage collector comes by;
    it counts objects and not their bytes, and a slider over `host.at(n)` would fill the memory before it did.
    """

    LIMIT = 64 << 20

    def __init__(self) -> None:
        self.size = 0

    def more(self, size: int) -> None:
        """Note a machine of so many bytes; sweep when there may be too many."""
        self.size += size
        if self.size > self.LIMIT:
            self.size = size
            gc.collect()


_LITTER = Litter()


def _back_to(host: Host, n: int) -> tuple[Host, int]:
    """A twin of `host` as it was after entry `n`, and how many entries there are by now."""
    world, number = host.gate.world, host.gate.host
    if world.live:
        raise RuntimeError(f"this machine has no past to go back to: {world.live}")
    total, journal = host.gate.look(lambda: (world.entries, world.journal.upto(n)))
    if not 1 <= n <= total:
        raise IndexError(f"there is no entry {n}: the journal has {total}, and the making of the host is entry 1")
    if (made := host.gate.made) > n:
        raise IndexError(f"this host was made by entry {made}: after entry {n} it was not there yet")
    twins = _twins(journal, world.began, world.trace.ring)
    found: Host = twins.members[number]
    return found, total


def past(host: Host, n: int) -> Host:
    """See Host.at."""
    twin, total = _back_to(host, n)
    for one in twin.world:
        one.present = host if host.present is None else host.present
    twin.gate.world.seal(total)
    return twin


def fork(host: Host, n: int) -> Host:
    """See Host.fork."""
    return _back_to(host, n)[0]


def save(host: Host, file: str | Path | IO[bytes]) -> None:
    """See Host.save."""
    world = host.gate.world
    _file(file, "write")
    if world.live:
        raise RuntimeError(f"this machine cannot be saved: {world.live}")
    journal, now = host.gate.look(lambda: (world.journal.upto(world.entries), world.trace.now))
    data = journal_format.dump(journal, host=host.gate.host, began=world.began, now=now)
    if isinstance(file, str | Path):
        Path(file).write_bytes(data)
    else:
        file.write(data)


def _file(file: Any, what: str) -> None:
    """Refuse what is no path and no file of bytes. Raises TypeError."""
    if isinstance(file, TextIOBase) or not (isinstance(file, str | Path) or hasattr(file, what)):
        raise TypeError(f"a journal's file is a path, or a file open for bytes, not {given.shown(file)}")


def load(file: str | Path | IO[bytes], programs: Sequence[Any] = (), design: Design | None = None) -> Host:
    """See Host.load."""
    _file(file, "read")
    data = Path(file).read_bytes() if isinstance(file, str | Path) else file.read()
    saved = journal_format.parse(data, programs, design)
    world = _twins(saved.journal, saved.began, None)
    if world.trace.now != saved.now or saved.host >= len(world.members):
        raise JournalError(f"repeated here, this journal makes another machine than the one saved by sevlab {saved.version}")
    found: Host = world.members[saved.host]
    return found
