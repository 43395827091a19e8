"""need: one rule, one status. A handler refuses by these two names only.

`Refused` never leaves `psp/`: the mailbox turns it into a status number, and
into a written-back buffer where the command answers even then.
"""

from __future__ import annotations

import linecache
from types import TracebackType

from sevlab.abi.sev import Status
from sevlab.wire import Wire


class Refused(Exception):
    """The firmware says no. `status` says why, `reply` is what it writes back all the same."""

    def __init__(self, status: Status, reply: Wire | None = None) -> None:
        super().__init__(status.name)
        self.status = status
        self.reply = reply

    def rung(self) -> tuple[str, int]:
        """File and line of the rule that said no."""
        return _rung(self.__traceback__)


def _rung(trace: TracebackType | None) -> tuple[str, int]:
    """The innermost frame of a traceback that is not `need` itself."""
    where = ("", 0)
    while trace is not None:
        code = trace.tb_frame.f_code
        if code is not need.__code__:
            where = (code.co_filename, trace.tb_lineno)
        trace = trace.tb_next
    return where


def words(rung: tuple[str, int]) -> str:
    """A rule in words: the remark at the end of its line, or the line itself."""
    rule, _, remark = linecache.getline(*rung).strip().partition("  # ")
    return remark or rule


def need(condition: object, status: Status, reply: Wire | None = None, **answer: int) -> None:
    """Refuse with `status` unless `condition` holds.

    `reply` is the command buffer to write back even so, with the fields named
    in `answer` set: how a caller asks for the length it has to offer.
    """
    if condition:
        return
    for field, value in answer.items():
        setattr(reply, field, value)
    raise Refused(status, reply)
