"""Files, and how the kernel says no.

A File is what a descriptor stands for. It counts its references: descriptors,
mappings, and whatever in the kernel keeps it. The last one to go releases it,
close never does.
"""

from __future__ import annotations

import errno
import linecache
import os
from errno import ENODEV, ENOTTY
from types import CodeType, TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from sevlab.kvm.mm import Backing
    from sevlab.kvm.task import Task

__all__ = ["File", "KvmError", "Oops", "Place", "need"]


class Place(NamedTuple):
    """The rung of a ladder: where in the source a refusal was made."""

    filename: str
    line: int
    function: str
    end: int  # last line of the statement


class KvmError(OSError):
    """The kernel's refusal, as a C programmer would meet it.

    `errno` is what the system call answers, `fw` the firmware's status (None when
    the firmware was not asked), `why` the rung that said no: its source line with
    the original's words. `why` costs nothing until it is read.
    """

    fw: int | None = None
    _why: str | None = None
    _place: Place | None = None

    def __init__(self, code: int, fw: int | None = None, why: str | None = None, place: Place | None = None) -> None:
        OSError.__init__(self, code, "")
        if fw is not None:
            self.fw = fw
        if why is not None:
            self._why = why
        if place is not None:
            self._place = place

    @property
    def place(self) -> Place | None:
        """The rung that said no; None for an error that was never raised."""
        if self._place is None:
            self._place = _last_rung(self.__traceback__)
        return self._place

    @property
    def why(self) -> str:
        if self._why is None:
            self._why = _words(self.place)
        return self._why

    def __str__(self) -> str:
        number = self.errno or 0
        firmware = "" if self.fw is None else f", firmware status {self.fw:#x}"
        name = f"{errno.errorcode[number]} " if number in errno.errorcode else ""
        return f"[Errno {number}] {name}{os.strerror(number)}{firmware}: {self.why}"


class Oops(KvmError):
    """The kernel itself fell over while it served this process: the process is gone, with a line in the log."""


def need(condition: object, code: int, fw: int | None = None) -> None:
    """One rule of the kernel: unless `condition` holds, the call is refused with `code`."""
    if not condition:
        raise KvmError(code, fw)


# Code that makes or carries refusals and is never the rung itself.
CARRIERS: set[CodeType] = {need.__code__}


def _last_rung(traceback: TracebackType | None) -> Place | None:
    """The last frame of a traceback that is no carrier."""
    found = None
    while traceback is not None:
        if traceback.tb_frame.f_code not in CARRIERS:
            found = traceback
        traceback = traceback.tb_next
    if found is None:
        return None
    code, line = found.tb_frame.f_code, found.tb_lineno
    last = next((end for i, (_, end, _, _) in enumerate(code.co_positions()) if i == found.tb_lasti // 2), line)
    return Place(code.co_filename, line, code.co_name, last or line)


def _words(place: Place | None) -> str:
    """A rung as a sentence: the function, the rule, and the original's words behind it."""
    if place is None:
        return "no reason was recorded"
    rules, notes = [], []
    for number in range(place.line, place.end + 1):
        rule, _, note = linecache.getline(place.filename, number).partition("#")
        rules.append(rule.strip())
        notes.append(note.strip())
    text = " ".join(rule for rule in rules if rule)
    words = " ".join(note for note in notes if note)
    return f"{place.function}: {text}" + (f"  # {words}" if words else "")


class File:
    """What a descriptor stands for, with `refs` references; the maker has the first.

    Subclasses answer `ioctl`, may offer memory to map (`backing`), and undo
    themselves in `release`, which the last `put` calls.
    """

    name = "file"

    def __init__(self) -> None:
        self.refs = 1

    def get(self) -> Any:
        """One reference more; the file itself."""
        if not self.refs:
            raise RuntimeError(f"a reference was taken on {self!r}, which is released")
        self.refs += 1
        return self

    def put(self) -> None:
        """One reference less; the last one releases."""
        if not self.refs:
            raise RuntimeError(f"a reference too many was given back on {self!r}")
        self.refs -= 1
        if not self.refs:
            self.release()

    def release(self) -> None:
        """Undo what the file is: called once, by the last `put`."""

    def ioctl(self, caller: Task, nr: int, arg: int) -> Any:
        """Serve one ioctl: an int, a new File (the process picks its number) or a coroutine of either."""
        raise KvmError(ENOTTY)  # no ioctl of this file

    def backing(self) -> Backing:
        """The memory that mmap of this file maps."""
        raise KvmError(ENODEV)  # the file cannot be mapped

    def __repr__(self) -> str:
        return f"<{self.name}: {self.refs} reference{'s' * (self.refs != 1)}>"
