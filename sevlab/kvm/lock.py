"""What a handler may wait for: locks, conditions, and the passing of time.

A handler that waits is a coroutine and awaits nothing but these requests. Who
drives it grants them one at a time (`call.py`).

    async with Lock(vm.lock):                                   # mutex_lock()
    async with Lock(vcpu.mutex, EINTR):                         # mutex_lock_killable()
    async with Locks(TryLock(dst.busy, EBUSY), Lock(dst.lock, EINTR)):
    await Wait(lambda: vcpu.irq, "HLT, no interrupt pending")
    await Tick("the guest computes")
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

from sevlab.kvm.fd import CARRIERS, KvmError, Place
from sevlab.trace import Event, name, u32

if TYPE_CHECKING:
    from sevlab.kvm.call import Call


class LockTaken(Event, lane="kvm"):
    """A call holds a lock from here on."""

    call: u32
    lock: name


class LockAwaited(Event, lane="kvm"):
    """A call found a lock held by another, and waits."""

    call: u32
    lock: name
    holder: u32


class LockGiven(Event, lane="kvm"):
    """A call gave a lock back."""

    call: u32
    lock: name


class Mutex:
    """A lock of the kernel that one call at a time holds; the others wait."""

    __slots__ = ("holder", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.holder: Call | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}, {f'held by {self.holder}' if self.holder else 'free'}>"


class Flag(Mutex):
    """A mark that is tried for, never waited for (atomic_cmpxchg)."""

    __slots__ = ()


class Request:
    """What a handler may await. Whoever drives the call grants it, one step each."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return iter((self,))  # type: ignore[return-value]  # any iterator is awaited

    def ready(self) -> bool:
        """Whether the call can go on."""
        return True

    def grant(self, call: Call) -> None:
        """Give the call what it asked for, or raise KvmError into it."""

    def ended_by(self, call: Call) -> bool:
        """Whether a signal that `call` has received ends this wait."""
        return False

    @property
    def state(self) -> str:
        """What a call that waits here is: runnable, killable, interruptible or uninterruptible."""
        return "runnable"


class Lock(Request):
    """Take a mutex. With a `code` the wait ends with it when the process is killed (mutex_lock_killable)."""

    __slots__ = ("code", "mutex", "place")

    def __init__(self, mutex: Mutex, code: int | None = None) -> None:
        self.mutex = mutex
        self.code = code
        self.place = None if code is None else _caller()

    def ready(self) -> bool:
        return self.mutex.holder is None

    def grant(self, call: Call) -> None:
        self.mutex.holder = call
        call.calls.trace.emit(LockTaken, call.number, self.mutex.name)

    def ended_by(self, call: Call) -> bool:
        return self.code is not None and call.killed

    @property
    def state(self) -> str:
        return "runnable" if self.ready() else "uninterruptible" if self.code is None else "killable"

    def __aenter__(self) -> Lock:
        return self

    def __aexit__(self, kind: type[BaseException] | None, *_: object) -> Request:
        return Unlock(self.mutex) if kind is None else _give_back(self.mutex, kind)

    def __str__(self) -> str:
        return f"waits for {self.mutex.name}, held by {self.mutex.holder}"


class TryLock(Request):
    """Take a flag, or be refused with `code` at once."""

    __slots__ = ("code", "mutex", "place")

    def __init__(self, flag: Flag, code: int) -> None:
        self.mutex = flag
        self.code = code
        self.place = _caller()

    def grant(self, call: Call) -> None:
        if self.mutex.holder is not None:
            raise KvmError(self.code, place=self.place)
        self.mutex.holder = call
        call.calls.trace.emit(LockTaken, call.number, self.mutex.name)

    def __aenter__(self) -> TryLock:
        return self

    def __aexit__(self, kind: type[BaseException] | None, *_: object) -> Request:
        return Unlock(self.mutex) if kind is None else _give_back(self.mutex, kind)

    def __str__(self) -> str:
        return f"tries {self.mutex.name}"


class Unlock(Request):
    """Give a mutex or a flag back: a step like any other, since who comes next depends on when."""

    __slots__ = ("mutex",)

    def __init__(self, mutex: Mutex) -> None:
        self.mutex = mutex

    def grant(self, call: Call) -> None:
        self.mutex.holder = None
        call.calls.trace.emit(LockGiven, call.number, self.mutex.name)

    def __str__(self) -> str:
        return f"gives {self.mutex.name} back"


class _Dropped(Request):
    """What a discarded coroutine awaits on its way out: nothing, since nobody drives it any more."""

    __slots__ = ()

    def __await__(self) -> Generator[Any, None, None]:
        return iter(())  # type: ignore[return-value]  # any iterator is awaited


def _give_back(mutex: Mutex, kind: type[BaseException] | None) -> Request:
    if kind is GeneratorExit:
        mutex.holder = None
        return _Dropped()
    return Unlock(mutex)


class Locks:
    """Several locks and flags in this order, all or none; given back in the opposite order."""

    __slots__ = ("requests", "taken")

    def __init__(self, *requests: Lock | TryLock) -> None:
        self.requests = requests
        self.taken: list[Lock | TryLock] = []

    async def __aenter__(self) -> Locks:
        try:
            for request in self.requests:
                await request
                self.taken.append(request)
        except BaseException as error:
            await self._give_back(type(error))
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._give_back(kind)

    async def _give_back(self, kind: type[BaseException] | None) -> None:
        while self.taken:
            await _give_back(self.taken.pop().mutex, kind)


class Wait(Request):
    """Wait until `ready()` holds; any signal ends it with EINTR. `why` says what is waited for."""

    __slots__ = ("condition", "why")

    def __init__(self, ready: Callable[[], object], why: str) -> None:
        self.condition = ready
        self.why = why

    def ready(self) -> bool:
        return bool(self.condition())

    def ended_by(self, call: Call) -> bool:
        return call.signalled or call.killed

    @property
    def state(self) -> str:
        return "runnable" if self.condition() else "interruptible"

    def __str__(self) -> str:
        return f"waits: {self.why}"


class Tick(Request):
    """A stretch of work is done and there is more: others may go on, and a signal ends it with EINTR."""

    __slots__ = ("why",)

    def __init__(self, why: str) -> None:
        self.why = why

    def ended_by(self, call: Call) -> bool:
        return call.signalled or call.killed

    def __str__(self) -> str:
        return f"goes on: {self.why}"


CARRIERS.update({Locks.__aenter__.__code__, Locks._give_back.__code__, TryLock.grant.__code__})


def _caller() -> Place:
    """The line that made a request: the rung, should the request be refused."""
    frame = sys._getframe(2)
    return Place(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, frame.f_lineno)
