"""System calls: methods of a process that are entries through the gate, and the rows of the trace that tell of processes."""

from __future__ import annotations

from collections.abc import Callable
from errno import ESRCH
from functools import wraps
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeVar

from sevlab.given import checked
from sevlab.kvm.fd import KvmError
from sevlab.trace import Event, name, u16, u32, u64

if TYPE_CHECKING:
    from sevlab.kvm.process import Process

F = TypeVar("F", bound=Callable[..., Any])

U32, U64 = 0xFFFFFFFF, 0xFFFFFFFF_FFFFFFFF


class ProcessMade(Event, lane="vmm"):
    """A process appeared."""

    pid: u32
    process: name
    cgroup: name


class ProcessGone(Event, lane="vmm"):
    """A process is gone, and the kernel has cleaned up after it."""

    pid: u32
    process: name


class Syscall(Event, lane="vmm"):
    """A process asked its kernel for something, with `a` and `b`, and was answered: `errno` 0, or why not."""

    pid: u32
    what: name
    a: u64
    b: u64
    result: u64
    errno: u16


class Ioctl(Event, lane="vmm"):
    """A process made an ioctl and was answered; `fw` is the firmware's status where the kernel passed one on."""

    pid: u32
    fd: u32
    nr: u32
    arg: u64
    result: u32
    errno: u16
    fw: u32


def entry(method: F) -> F:
    """A method that is a system call: an entry through the gate, by this name in the journal, and a row of the trace.

    What its signature does not let in never comes to the kernel: TypeError.
    """
    name = method.__name__
    what = name.lstrip("_")

    def call(self: Process, *args: Any, **kw: Any) -> Any:
        trace, pid = self._trace, self.pid
        a, b = (*(_shown(value) for value in args[:2]), 0, 0)[:2]
        if self.dead:
            raise KvmError(ESRCH, why=f"the process {self.name} is dead")
        try:
            result = method(self, *args, **kw)
        except OSError as refusal:
            trace.emit(Syscall, pid, what, a, b, 0, refusal.errno or 0)
            raise
        trace.emit(Syscall, pid, what, a, b, result if isinstance(result, int) else 0, 0)
        return result

    @wraps(method)
    def enter(self: Process, *args: Any, **kw: Any) -> Any:
        return self._run(name, self.pid, MethodType(call, self), args, kw)

    enter.syscall = True  # type: ignore[attr-defined]
    return checked(enter)  # type: ignore[return-value]


def _shown(value: Any) -> int:
    """What the trace keeps of an argument: a number, or how many bytes there were."""
    return value & U64 if isinstance(value, int) else len(value) if isinstance(value, bytes) else 0
