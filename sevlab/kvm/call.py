"""A system call can wait, so it can be stepped.

A `Call` is a handler under way. No thread sleeps in a call and no event loop
turns: what a call waits for is brought about by the other calls that have begun,
or it does not come about.

    call = process.begin(fd, nr, arg)
    while call.step() == "runnable": ...
    call.waits_for                                              # <Lock: waits for vm-1.lock, held by ...>
    call.finish()                                               # drives the others until it can go on
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINTR
from types import CoroutineType
from typing import TYPE_CHECKING, Any
from weakref import WeakValueDictionary

from sevlab.kvm.fd import File, KvmError
from sevlab.kvm.lock import Flag, Lock, LockAwaited, Locks, Mutex, Request, Tick, TryLock, Unlock, Wait

if TYPE_CHECKING:
    from sevlab.gate import Gate
    from sevlab.kvm.process import Process
    from sevlab.kvm.task import Task

__all__ = ["Blocked", "Call", "Calls", "Flag", "Lock", "Locks", "Mutex", "Request", "Tick", "TryLock", "Unlock", "Wait"]

TICKS = 32  # how long a call is driven for without what it waits for
PATIENCE = 1000  # how many waits a signal ends in one call before that is called a bug


class Blocked(KvmError):
    """The call could not go on, and nobody who could help: answered as after a signal, EINTR.

    `call` is the call; where its wait is one that no signal ends, it stays in the
    kernel and goes on when it can.
    """

    def __init__(self, why: str, call: Call) -> None:
        super().__init__(EINTR, why=why)
        self.call = call


class Call:
    """One system call under way.

    `state` is runnable, killable (at a Lock that death ends), interruptible (at a
    Wait), uninterruptible (at any other Lock) or done. To be started is a step.
    """

    done = False
    result: Any = None
    error: Exception | None = None  # what `finish` raises
    file: File | None = None  # what the call is made on; whoever sets it holds a reference
    signalled = False
    killed = False
    end: Callable[[Call], None] | None = None  # told when the call is done
    _ended = 0  # how many waits a signal has ended
    _request: Request | None = None

    def __init__(self, calls: Calls, task: Task, nr: int, work: Any) -> None:
        """`work` is a coroutine, or a function of this Call that the first step runs: it answers an int, a File or a coroutine."""
        self.calls = calls
        self.task = task
        self.nr = nr
        self.number = calls.trace.entry
        self._work = work

    # ------------------------------------------------------ from outside

    @property
    def state(self) -> str:
        if self.done:
            return "done"
        if self._request is None or self._request.ended_by(self):
            return "runnable"
        return self._request.state

    @property
    def waits_for(self) -> Request | None:
        """The request that cannot be granted now, as `print` shows it; None for a call that can go on."""
        return None if self.state in ("runnable", "done") else self._request

    def step(self) -> str:
        """Go on to the next request, if that can be done; the state after it.

        A refusal of the call is its result (`error`) and is raised by `finish` only.
        """
        return self.calls.gate.run("step", -self.number, self._step_once, ())  # type: ignore[no-any-return]

    def finish(self) -> Any:
        """Drive the call to its end, and others where it waits for them: its result, or its refusal raised.

        Raises Blocked when nobody can bring about what it waits for.
        """
        return self.calls.gate.run("finish", -self.number, self._finish, ())

    def interrupt(self) -> None:
        """A signal for the calling thread: it ends a Wait and a Tick, now or later, with EINTR."""
        self.calls.gate.run("interrupt", -self.number, self._signal, ())

    def abandon(self) -> None:
        """The calling thread is killed: all its waits that death can end do end, and kernel code runs on.

        Where it cannot, the call stays in the kernel and goes on when others let it.
        """
        self.calls.gate.run("abandon", -self.number, self._abandon, ())

    def __str__(self) -> str:
        return f"ioctl {self.nr:#x} of {self.task.name}"

    def __repr__(self) -> str:
        return f"<Call {self.number}: {self}, {self.state}{f', {self._request}' if self.waits_for else ''}>"

    # ------------------------------------------------------- from inside

    def _signal(self) -> None:
        self.signalled = True

    def _step_once(self) -> str:
        self._step()
        return self.state

    def _can(self) -> bool:
        request = self._request
        return not self.done and (request is None or request.ready() or request.ended_by(self))

    def _step(self, once: bool = True) -> bool:
        """One step, or unless `once` as many as need no waiting. False when the call is done or must wait."""
        request = self._request
        if self.done:
            return False
        if request is None:
            self._begin(once)
        elif request.ended_by(self) and (isinstance(request, Tick) or not request.ready()):
            code = request.code if isinstance(request, Lock) and request.code else EINTR
            self._end_wait(KvmError(code, why=f"a signal ended the call: {self} {request}"), once)
        elif request.ready():
            self._resume(self._grant(request), once)
        else:
            return False
        return True

    def _begin(self, once: bool) -> None:
        if callable(self._work):
            try:
                outcome = self._work(self)
            except Exception as error:
                return self._close(error=error)
            if isinstance(outcome, (int, File)):  # a union would be made anew each time
                return self._close(outcome)
            self._work = outcome
        self._resume(None, once)

    def _grant(self, request: Request) -> KvmError | None:
        try:
            request.grant(self)
        except KvmError as refusal:
            return refusal
        return None

    def _end_wait(self, error: KvmError, once: bool) -> None:
        """End a wait with a refusal. Kernel code leaves then, sooner or later; what does not is a bug."""
        self._ended += 1
        if self._ended > PATIENCE:
            self._close(error=RuntimeError(f"{self} does not end after a signal: it {self._request}"))
        else:
            self._resume(error, once)

    def _resume(self, error: KvmError | None, once: bool) -> None:
        """Run the handler to its next request or its end; unless `once`, grant what can be granted at once and go on."""
        while True:
            try:
                request = self._work.send(None) if error is None else self._work.throw(error)
            except StopIteration as end:
                return self._close(end.value)
            except Exception as refusal:
                return self._close(error=refusal)
            if not isinstance(request, Request):
                return self._close(error=TypeError(f"{self} awaited {request!r}, which is no request of sevlab.kvm.lock"))
            self._request = request
            if once or request.__class__ is Tick or not request.ready():
                break
            try:
                request.grant(self)
                error = None
            except KvmError as refusal:
                error = refusal
        if isinstance(request, Lock) and not request.ready():
            holder = request.mutex.holder
            self.calls.trace.emit(LockAwaited, self.number, request.mutex.name, holder.number if holder else 0)

    def _close(self, result: Any = None, error: Exception | None = None) -> None:
        self.done = True
        self._request = None
        self.result, self.error = result, error
        self.calls.begun.pop(self, None)
        if self.end is not None:
            self.end(self)

    def _finish(self) -> Any:
        ticks = 0
        if self._work.__class__ is CoroutineType and self._request is None and not self.done:
            self._resume(None, once=False)
        else:
            self._step(once=False)
        while not self.done:
            self.calls.begun.setdefault(self)  # it stays in the kernel as long as it waits
            if self.calls.gate.interrupted():
                self.signalled = True
            moved, ticked = self.calls.round(self)
            own = isinstance(self._request, Tick)
            ticks += own or ticked
            helpless = not self._can() and not moved
            if helpless or (ticks >= TICKS and (own or not self._can())):
                self._block(ticks)
            self._step(once=False)
        if self.error is not None:
            raise self.error
        return self.result

    def _block(self, ticks: int) -> None:
        """Nobody brings about what this call waits for: answer it as after a signal."""
        request = self._request
        assert request is not None
        others = "; ".join(f"{call} {call._request}" for call in self.calls.begun if call is not self and call._request is not None)
        why = f"{self} {request}" + (f" (after {ticks} ticks)" if ticks >= TICKS else "") + (f"; {others}" if others else "")
        blocked = Blocked(why, self)
        self.calls.kept[self.number] = self  # the caller has it now, by the refusal
        if request.state == "uninterruptible":
            raise blocked
        self.signalled = True
        self._end_wait(blocked, once=False)

    def _abandon(self) -> None:
        self.signalled = self.killed = True
        if self._request is None and not self.done and callable(self._work):
            return self._close(error=KvmError(EINTR, why="the caller was killed before the call began"))
        while self._step():
            pass


class Calls:
    """The calls that have begun on one kernel, oldest first; and the numbers of its processes.

    `made` and `kept` are the processes and calls that a user may hold. When the machine is made anew in place,
    they are `old`, and come back as what they were: the same objects.
    """

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self.trace = gate.trace
        self.begun: dict[Call, None] = {}
        self.made: WeakValueDictionary[int, Process] = WeakValueDictionary()  # by pid
        self.kept: WeakValueDictionary[int, Call] = WeakValueDictionary()  # by number
        self.old: tuple[dict[int, Process], dict[int, Call]] | None = None
        self._pids = 0

    def again(self, task: Task, nr: int, work: Any) -> Call:
        """A Call of the entry under way: the old object, where somebody may hold one."""
        assert self.old is not None
        call = self.old[1].get(self.trace.entry)
        if call is None:
            return Call(self, task, nr, work)
        vars(call).clear()
        call.__init__(self, task, nr, work)  # type: ignore[misc]
        return call

    def old_process(self) -> Process | None:
        """The process that had the next pid, where somebody may hold it."""
        assert self.old is not None
        return self.old[0].get(self._pids + 1)

    def new_pid(self) -> int:
        self._pids += 1
        return self._pids

    def round(self, waiting: Call) -> tuple[bool, bool]:
        """Let every other call go on, oldest first, to its next tick or wait; stop when `waiting` can go on.

        Answers whether anybody moved, and whether anybody ticked.
        """
        moved = ticked = False
        for call in list(self.begun):
            while call is not waiting and call._step():
                moved = True
                if waiting._can() and not isinstance(waiting._request, Tick):
                    return moved, ticked
                if isinstance(call._request, Tick):
                    ticked = True
                    break
        return moved, ticked
