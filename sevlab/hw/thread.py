"""A thread: a guest program under way, as data.

A thread is its program, the arguments it began with, and the log of everything
its instructions have given it. The live coroutine is a cache of that, and can be
rebuilt from it at any moment: for a copied guest, a moved one, a past one.

A *moment* is a thread as it once was. User space meets it as a value of RSP:
who puts old registers back runs the guest from there again, which is legal, and
is the replay attack.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from sevlab.hw.isa import VC, Fault, Instruction
from sevlab.hw.program import Program
from sevlab.trace import Trace


class TripleFault(Exception):
    """The guest has no handler for what happened: SHUTDOWN."""


class Thread:
    """A program under way: `program`, `args`, and `log`, what each of its awaits received, in order.

    A Fault in the log was raised where it stands. `pending` is the instruction the program waits for.
    """

    __slots__ = ("args", "frames", "interrupted", "log", "pending", "program", "returned", "send")

    def __init__(self, program: Program, args: tuple[Any, ...] = (), log: tuple[Any, ...] | list[Any] = ()) -> None:
        self.program = program
        self.args = args
        self.log = list(log)
        self.frames: list[Coroutine[Any, Any, Any]] = []  # the program, and on top of it a #VC handler under way
        self.pending: Instruction = ()
        self.interrupted: Instruction = ()  # what a #VC handler answers for ...
        self.returned: Any = None  # ... and what the last frame that ended gave to the one below
        self.send: Callable[[Any], Instruction] | None = None

    def rebuild(self) -> None:
        """Bring the live coroutine to where the log says the thread is."""
        self.frames = [self.program.function(*self.args)]
        self._go(None, raised=False)  # to its first instruction
        for value in self.log:
            self._receive(value)

    def step(self, value: Any) -> Instruction:
        """Give the pending instruction its result (a Fault is raised there): the next instruction.

        Raises TripleFault when there is none, and whatever error of Python the program makes. The thread
        then stands before this step, to be rebuilt.
        """
        try:
            if value.__class__ is Fault:
                instruction = self._receive(value)
            else:
                instruction = self.pending = self.send(value)  # type: ignore[misc]  # what _go does where no frame ends
        except StopIteration as end:
            instruction = self._unwind(end.value, raised=False)
        except Fault as fault:
            instruction = self._unwind(fault, raised=True)
        except BaseException:
            self.send = None
            raise
        self.log.append(value)
        return instruction

    def _receive(self, value: Any) -> Instruction:
        if value.__class__ is not Fault:
            return self._go(value, raised=False)
        if value.vector == VC and self.program.handler is not None and len(self.frames) == 1:
            self.interrupted = self.pending
            handler: Coroutine[Any, Any, Any] = self.program.handler(self.pending)
            self.frames.append(handler)
            return self._go(None, raised=False)
        return self._go(value, raised=True)

    def _go(self, value: Any, *, raised: bool) -> Instruction:
        """Run the topmost frame to its next instruction; one that ends hands its result to the frame below."""
        while True:
            top = self.frames[-1]
            try:
                # A copy is raised: an exception that was caught keeps the frames it went through alive.
                self.pending = top.throw(Fault(value.vector, value.error)) if raised else top.send(value)
                self.send = top.send
                return self.pending
            except StopIteration as end:
                value, raised = end.value, False
            except Fault as fault:
                value, raised = fault, True
            self._pop(value, raised)

    def _pop(self, value: Any, raised: bool) -> None:
        """The topmost frame has ended, with a result or a Fault."""
        del self.frames[-1]
        self.returned = value
        if not self.frames:
            raise self._end(value if raised else None)

    def _unwind(self, value: Any, *, raised: bool) -> Instruction:
        """Go on in the frame below the one that has ended."""
        try:
            self._pop(value, raised)
            return self._go(value, raised=raised)
        except BaseException:
            self.send = None
            raise

    def _end(self, fault: Fault | None = None) -> TripleFault:
        self.send = None
        return TripleFault(f"{self.program.name} has no handler for {fault}" if fault else f"{self.program.name} ran off its end")

    def __repr__(self) -> str:
        return f"<Thread: {self.program.name}, {len(self.log)} instructions>"


class Moment(NamedTuple):
    """A thread as it once was: the same registers continue it, as often as one likes.

    `log` is the thread's own, which only grows; the moment is its first `length` entries. `skip` says that RIP
    was past the pending instruction.
    """

    program: Program
    args: tuple[Any, ...]
    log: list[Any]
    length: int
    skip: bool

    def thread(self) -> Thread:
        """A copy of the thread at this moment, to be run."""
        return Thread(self.program, self.args, self.log[: self.length])


class Moments:
    """The moments of a world: each is named by an RSP, minted when somebody first reads the registers."""

    def __init__(self) -> None:
        self._all: list[Moment] = []

    BASE = 0x5EB0_0000_0000

    def mint(self, thread: Thread, skip: bool) -> int:
        """Name this moment of a thread: the RSP that stands for it."""
        self._all.append(Moment(thread.program, thread.args, thread.log, len(thread.log), skip))
        return self.BASE + 16 * len(self._all)

    def find(self, rsp: int) -> Moment | None:
        """The moment an RSP stands for, or None."""
        number, rest = divmod(rsp - self.BASE, 16)
        return self._all[number - 1] if not rest and 0 < number <= len(self._all) else None


_WORLDS: WeakKeyDictionary[Trace, Moments] = WeakKeyDictionary()


def moments(trace: Trace) -> Moments:
    """The moments of the world whose hosts share this trace."""
    return _WORLDS.setdefault(trace, Moments())
