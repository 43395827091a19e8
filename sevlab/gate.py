"""The gate: every entry from outside passes here, one at a time.

An entry is what somebody does to the machine: a system call, a host action, a
byte written on the bus. It takes the lock, gets its number and its line in the
world's journal, runs to its end, and gives the lock to whoever has waited longest; then the trace's watchers are
told, and may call the machine in their turn. Hosts that share a trace share one
gate's lock and count, since their order is one order.

Threads: a plain lock would let a running cell starve a widget's callback for
tens of milliseconds, so the lock is handed over. An entry never makes another
entry; one that tries is told so.

Ctrl-C during an entry is held back: it ends the waits that a signal may end, and
KeyboardInterrupt is raised when the entry is over and the machine is whole.

An observer's look is no entry: it has the lock, and leaves no line.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, TypeVar

from sevlab.journal import OPAQUE, PLAIN, Entry, Journal
from sevlab.trace import Trace

try:
    # The C function: signal.getsignal() spends a microsecond on turning a handler into an enum.
    from _signal import getsignal  # type: ignore[import-not-found]
except ImportError:  # pragma: no cover
    from signal import getsignal

T = TypeVar("T")

MAIN = threading.main_thread().ident


class Baton:
    """A lock that is handed over: whoever waits longest has it next, and nobody overtakes.

    `owner` is the thread inside. Taken by `if baton.queue or not baton.lock.acquire(False): baton.wait(me)`,
    which costs no call where nobody is in the way, then `baton.owner = me`; given back by `give`.
    """

    __slots__ = ("lock", "owner", "queue")

    def __init__(self) -> None:
        self.owner: int | None = None
        self.lock = threading.Lock()
        self.queue: deque[Any] = deque()

    def wait(self, me: int) -> None:
        """Have the lock after everybody who waits already. Raises RuntimeError when this thread has it."""
        if self.owner == me:
            raise RuntimeError("the machine was called from inside one of its own entries: only what is outside may call it")
        ticket = threading.Lock()
        ticket.acquire()
        self.queue.append(ticket)
        self._hand_over()  # it may have been given back meanwhile
        ticket.acquire()

    def give(self) -> None:
        """Hand the lock to whoever waits longest, or leave it free."""
        self.owner = None
        self.lock.release()
        if self.queue:
            self._hand_over()

    def _hand_over(self) -> None:
        """If the lock is free, take it in the name of the first in the queue and wake it."""
        while self.queue and self.lock.acquire(False):
            try:
                ticket = self.queue.popleft()
            except IndexError:
                self.lock.release()
                continue
            ticket.release()
            return


class Sigint:
    """Ctrl-C of this program: held back while the main thread is inside a machine.

    A program has one signal handler, so this is the one object that machines share.
    """

    def __init__(self) -> None:
        self.inside = False
        self.pending = False
        self._before: Any = signal.default_int_handler
        self.handler = self._handle  # one bound method, so that it can be recognised

    def install(self, current: Any) -> None:
        """Stand in front of the handler that is there. One that ignores Ctrl-C, or is no Python function, stays."""
        if callable(current):
            self._before = current
            signal.signal(signal.SIGINT, self.handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.inside:
            self.pending = True
        else:
            self._before(number, frame)

    def raise_pending(self) -> None:
        """Raise the KeyboardInterrupt that was held back."""
        self.pending = False
        raise KeyboardInterrupt


SIGINT = Sigint()


class ReadOnly(RuntimeError):
    """The machine is a past one: it can be looked at, and nothing can be done to it."""


class World:
    """What hosts of one trace share: the lock, the count of entries and their journal.

    `members` are the hosts in the order of their making (None for a gate without
    one). `rebuild`, set by the first host, makes all of them anew from the
    journal, in place. `live`, if set, says why the journal cannot be repeated.
    """

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.baton = Baton()
        self.journal = Journal()
        self.append: Callable[[Entry], object] = self.journal.entries.append
        self.entries = 0
        self.began = trace.now
        self.members: list[Any] = []
        self.rebuild: Callable[[], object] | None = None
        self.replaying = False
        self.live = ""
        self._polled = (0, 0)  # in which entry, and how often it was asked whether Ctrl-C came

    def undo(self) -> None:
        """Take the entry under way back, by making the machine anew without it."""
        if self.rebuild is None:
            return
        n, trace = self.entries, self.trace
        self.journal.drop(n)
        on, now, self.replaying = trace.on, trace.now, True
        trace.on, self.append = False, _not_recorded
        try:
            self.entries, trace.entry, trace.now = 0, 0, self.began
            self.rebuild()
        except BaseException:
            trace.now = now
            raise
        finally:
            trace.on, self.append, self.replaying = on, self.journal.entries.append, False
        trace.forget(n)

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed during the entry under way; when it is repeated, at the same question as then."""
        n, asked = self._polled
        asked = asked + 1 if n == self.entries else 1
        self._polled = self.entries, asked
        interrupts = self.journal.interrupts
        if self.replaying:
            return asked >= interrupts.get(self.entries, asked + 1)
        if SIGINT.pending and get_ident() == MAIN:
            interrupts.setdefault(self.entries, asked)
            return True
        return False

    def seal(self, total: int) -> None:
        """Make this world a past one, entry so many of `total`: what is done to it raises ReadOnly from now on."""

        def refuse(entry: Entry) -> None:
            n = self.entries
            raise ReadOnly(f"entry {n} of {total} is past and read only; host.fork({n}) makes a machine that goes on from there")

        self.append = refuse


def _not_recorded(entry: Entry) -> None:
    """What is repeated stands in a journal already."""


class Gate:
    """One host's way in. Gates on one trace share a world; `host` is this one's number in it."""

    def __init__(self, trace: Trace, member: Any = None) -> None:
        self.trace = trace
        if trace.world is None:
            trace.world = World(trace)
        self.world: World = trace.world
        self.host = len(self.world.members)
        self.world.members.append(member)

    @property
    def n(self) -> int:
        """How many entries there have been; the number of the one under way."""
        return self.world.entries

    @property
    def made(self) -> int:
        """The entry that made this host, before which there is nothing to go back to; 0 when it has made none."""
        return next((n for n, entry in enumerate(self.world.journal.entries, 1) if entry[0] == self.host), 0)

    def enter(self, what: str, function: Callable[..., T], *args: Any, **kw: Any) -> T:
        """Run `function(*args, **kw)` as one entry that the journal names and cannot repeat; return or raise what it does."""
        return self.run(what, OPAQUE, function, args, kw)  # type: ignore[no-any-return]

    def run(
        self, what: str, target: int, function: Callable[..., Any], args: tuple[Any, ...], kw: dict[str, Any] | None = None
    ) -> Any:
        """Run `function(*args, **kw)` as one entry, and return or raise what it does.

        The journal keeps `what` was done to `target` (see sevlab.journal) with which arguments, by content, as they are
        before the call. Raises RuntimeError when this thread is already inside an entry, ReadOnly on a past machine,
        KeyboardInterrupt after an entry during which Ctrl-C was pressed. Any exception that is no OSError undoes the entry.
        """
        world, trace, baton, me = self.world, self.trace, self.world.baton, get_ident()
        kept = args
        for value in args:
            if value.__class__ not in PLAIN:
                kept = world.journal.freeze(args)
                break
        entry = (self.host, what, target, kept, world.journal.freeze(kw) if kw else None)
        outer = SIGINT.inside
        if main := me == MAIN:
            if (current := getsignal(2)) is not SIGINT.handler:
                SIGINT.install(current)
            SIGINT.inside = True
        try:
            if baton.queue or not baton.lock.acquire(False):
                if world.replaying and baton.owner == me:
                    world.entries = trace.entry = world.entries + 1
                    trace.host = self.host
                    return function(*args, **kw) if kw else function(*args)
                baton.wait(me)
            baton.owner = me
            try:
                world.append(entry)
                world.entries = trace.entry = world.entries + 1
                trace.host = self.host
                try:
                    return function(*args, **kw) if kw else function(*args)
                except OSError:
                    raise
                except BaseException:
                    world.undo()
                    raise
            finally:
                baton.give()
        finally:
            if main:
                SIGINT.inside = outer
            if trace.watched:
                trace.tell()
            if main and SIGINT.pending and not outer:
                SIGINT.raise_pending()

    def look(self, function: Callable[..., T], *args: Any) -> T:
        """Run `function(*args)` with the machine at rest: an observer's look, which is no entry and counts for none.

        Raises RuntimeError inside an entry.
        """
        baton, me = self.world.baton, get_ident()
        if baton.queue or not baton.lock.acquire(False):
            baton.wait(me)
        baton.owner = me
        try:
            self.trace.host = self.host
            return function(*args)
        finally:
            baton.give()

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed during the entry under way."""
        return self.world.interrupted()

    def __repr__(self) -> str:
        return f"<Gate: {self.n} entries>"
