"""The gate: every entry from outside passes here, one at a time.

An entry is what somebody does to the machine: a system call, a host action, a
byte written on the bus. It takes the lock, gets its number, runs to its end,
and gives the lock to whoever has waited longest; then the trace's watchers are
told, and may call the machine in their turn. Hosts that share a trace share one
gate's lock and count, since their order is one order.

Threads: a plain lock would let a running cell starve a widget's callback for
tens of milliseconds, so the lock is handed over. An entry never makes another
entry; one that tries is told so.

Ctrl-C during an entry is held back: it ends the waits that a signal may end, and
KeyboardInterrupt is raised when the entry is over and the machine is whole.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Any, TypeVar

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


class World:
    """What hosts of one trace share: the lock and the count of entries."""

    def __init__(self) -> None:
        self.baton = Baton()
        self.entries = 0
        self.hosts = 0


class Gate:
    """One host's way in. Gates on one trace share a world; `host` is this one's number in it."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.world: World = vars(trace).setdefault("world", World())
        self.host = self.world.hosts
        self.world.hosts += 1

    @property
    def n(self) -> int:
        """How many entries there have been; the number of the one under way."""
        return self.world.entries

    def enter(self, what: str, function: Callable[..., T], *args: Any, **kw: Any) -> T:
        """Run `function(*args, **kw)` as one entry, named `what`, and return or raise what it does.

        Raises RuntimeError when this thread is already inside an entry, KeyboardInterrupt after one
        during which Ctrl-C was pressed.

        The world's journal belongs here and nowhere else: at this point an entry has its name, its
        target (what `function` is bound to) and its arguments, and afterwards its outcome.
        """
        world, trace, baton, me = self.world, self.trace, self.world.baton, get_ident()
        outer = SIGINT.inside
        if main := me == MAIN:
            if (current := getsignal(2)) is not SIGINT.handler:
                SIGINT.install(current)
            SIGINT.inside = True
        try:
            if baton.queue or not baton.lock.acquire(False):
                baton.wait(me)
            baton.owner = me
            try:
                world.entries = trace.entry = world.entries + 1
                trace.host = self.host
                return function(*args, **kw)
            finally:
                baton.give()
        finally:
            if main:
                SIGINT.inside = outer
            trace.tell()
            if main and SIGINT.pending and not outer:
                SIGINT.raise_pending()

    def interrupted(self) -> bool:
        """Whether Ctrl-C was pressed during the entry under way."""
        return SIGINT.pending and get_ident() == MAIN

    def __repr__(self) -> str:
        return f"<Gate: {self.n} entries>"
