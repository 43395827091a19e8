"""A guest program's own mistake: an exception of Python that its code, or an instruction it awaited, ended with.

A real guest would have met something of its processor's. Here the program is Python, and whoever wrote it
wants to be told where: the machine stands before the instruction, and the original is the cause.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterator
from types import CodeType, TracebackType
from typing import Any

from sevlab.hw.thread import Thread

INSTRUCTIONS = "sevlab.hw.isa"  # where an instruction is made of its operands: the line that called it says more


class GuestError(RuntimeError):
    """A guest program made a mistake of Python: which program, at which line, and what. `__cause__` is the original."""


def mistake(thread: Thread, error: Exception) -> GuestError | None:
    """The error that tells of `error`, met while `thread` ran; None for a refusal of the kernel's, which is none of the guest's."""
    program = thread.program
    codes = {one.__code__ for one in (program.function, program.handler) if one is not None}
    places = list(_raised(error.__traceback__, codes))
    if not places and isinstance(error, OSError):
        return None
    places = places or list(_awaiting(thread.frames[-1] if thread.frames else None))
    where = f" at `{places[-1]}`" if places else ""
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return GuestError(f"the guest program {program.name} made a mistake{where}: {what}")


def _raised(trace: TracebackType | None, codes: set[CodeType]) -> Iterator[str]:
    """The lines of a program, and of what it calls, that an exception came through."""
    inside = False
    while trace is not None:
        frame = trace.tb_frame
        inside = inside or frame.f_code in codes
        if inside and frame.f_globals.get("__name__") != INSTRUCTIONS:
            yield _line(frame.f_code, trace.tb_lineno)
        trace = trace.tb_next


def _awaiting(coroutine: Any) -> Iterator[str]:
    """The lines at which a program, and what it awaits, stands."""
    while coroutine is not None and getattr(coroutine, "cr_frame", None) is not None:
        frame = coroutine.cr_frame
        if frame.f_globals.get("__name__") != INSTRUCTIONS:
            yield _line(frame.f_code, frame.f_lineno)
        coroutine = coroutine.cr_await


def _line(code: CodeType, number: int) -> str:
    return linecache.getline(code.co_filename, number).strip() or f"line {number - code.co_firstlineno} of {code.co_name}"
