"""A call that may be refused, and the refusal as something to look at instead of a traceback."""

from __future__ import annotations

from collections.abc import Callable
from errno import errorcode
from typing import Any

from sevlab.abi.sev import status_name


class Refusal:
    """What a call was refused with. It is false, so that `if attempt(...)` reads well.

    `errno` and `fw` are the kernel's and the firmware's codes (`fw` None when the
    firmware was not asked), `step` the command, `why` the rung that said no.
    """

    def __init__(self, error: OSError) -> None:
        self.error = error
        self.errno = error.errno or 0
        self.fw: int | None = getattr(error, "fw", None)
        self.step: str = getattr(error, "step", "")
        self.why: str = getattr(error, "why", error.strerror or "")

    @property
    def errno_name(self) -> str:
        return errorcode.get(self.errno, str(self.errno))

    @property
    def fw_name(self) -> str:
        """The firmware's status by name; "" when it was not asked."""
        return "" if self.fw is None else status_name(self.fw)

    def __bool__(self) -> bool:
        return False

    def __repr__(self) -> str:
        at = f" at {self.step}" if self.step else ""
        firmware = f", the firmware said {self.fw_name}" if self.fw else ""
        return f"refused{at}: {self.errno_name}{firmware}\n  {self.why}"


def attempt(call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """What `call(*args, **named)` returns, or the Refusal when kernel or firmware said no.

    Any other exception passes: it is nobody's refusal.
    """
    try:
        return call(*args, **named)
    except OSError as error:
        return Refusal(error)
