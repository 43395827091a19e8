"""A ladder is read from the handler's own source: nothing is added, nothing forgotten, the order is the source's."""

from __future__ import annotations

from errno import EBUSY, EINVAL
from typing import Any

import pytest

from sevlab.abi.sev import Status
from sevlab.kvm import designs, sev_commands, sev_dev, system, vm
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.ladder import CODES, Rung, ladder
from sevlab.kvm.sev_init import guest_init2
from sevlab.psp.commands import COMMANDS as FIRMWARE


def example(a: int, b: dict[int, int], take: Any) -> int:
    """Nothing in a docstring is a rung: need(a, EINVAL)  # no."""
    need(a, EINVAL)  # !a
    need(
        a > 1,
        EBUSY,
    )  # a is too small
    found = take(a)  # EFAULT
    other = take(b)  # EBUSY, ENOMEM: nothing left
    if found is None:
        raise KvmError(EINVAL)  # !found
    with take(a) as x, take(b):  # EIO or EBADF
        need(x, Status.INVALID_LEN)  # type: ignore[arg-type]
    try:
        take(other)
    except OSError as no:
        raise KvmError(EBUSY) from no  # whatever it was
    text = "# EFAULT"  # a remark that names no code
    return take(text)  # INVALID_GUEST


LINE = example.__code__.co_firstlineno

EXPECTED = [
    Rung(LINE + 2, "a", "EINVAL", "!a"),
    Rung(LINE + 3, "a > 1", "EBUSY", "a is too small"),
    Rung(LINE + 7, "found = take(a)", "EFAULT", ""),
    Rung(LINE + 8, "other = take(b)", "EBUSY, ENOMEM", "nothing left"),
    Rung(LINE + 10, "not (found is None)", "EINVAL", "!found"),
    Rung(LINE + 11, "take(a) as x; take(b)", "EIO, EBADF", ""),
    Rung(LINE + 12, "x", "INVALID_LEN", "type: ignore[arg-type]"),
    Rung(LINE + 16, "", "EBUSY", "whatever it was"),
    Rung(LINE + 18, "return take(text)", "INVALID_GUEST", ""),
]


def test_a_ladder_has_every_rung_once_and_in_the_order_of_the_source() -> None:
    assert ladder(example) == EXPECTED


def test_a_handler_without_rules_has_an_empty_ladder() -> None:
    def nothing() -> None:
        """# EINVAL"""

    assert ladder(nothing) == []


@pytest.mark.parametrize("thing", [len, 5, None, "text"], ids=str)
def test_what_has_no_source_has_no_ladder(thing: Any) -> None:
    with pytest.raises(TypeError):
        ladder(thing)


def test_a_rung_of_a_real_handler_carries_the_kernels_words() -> None:
    assert ladder(guest_init2)[3][1:] == ("not vm.created", "EINVAL", "kvm->created_vcpus")


TABLES = {
    "sub-commands": [row for design in designs.DESIGNS.values() for row in sev_commands.commands(design).values()],
    "/dev/sev": list(sev_dev.COMMANDS.values()),
    "VM": list(vm.IOCTLS.values()),
    "/dev/kvm": list(system.IOCTLS.values()),
    "firmware": list(FIRMWARE.values()),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_handler_of_every_table_has_a_ladder_whose_codes_exist(table: str) -> None:
    for row in TABLES[table]:
        for rung in ladder(row.handler):
            assert set(rung.code.split(", ")) <= CODES, rung


def test_lines_of_a_ladder_point_into_the_file() -> None:
    import inspect

    source = inspect.getsource(sev_dev).splitlines()

    for row in sev_dev.COMMANDS.values():
        for rung in ladder(row.handler):
            assert rung.note.split(";")[0] in source[rung.line - 1]
