"""What the tests of processes order from a device, and the number of what was refused."""

from __future__ import annotations

from typing import Any

import pytest

from sevlab.wire import Wire, u32, u64

ECHO, MAKE, REFUSE, STORE = 1, 2, 3, 4


class Order(Wire):
    """An argument: a number in, a number out."""

    ask: u32 = 0  # 0x00
    answer: u32 = 0  # 0x04
    where: u64 = 0  # 0x08


def refused(function: Any, *args: Any, **kw: Any) -> int:
    """The errno of a call that must fail."""
    with pytest.raises(OSError) as no:
        function(*args, **kw)
    return no.value.errno or 0
