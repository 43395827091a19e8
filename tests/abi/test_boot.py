"""The boot protocol: where a VMM puts what, and how a guest answers."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.abi import boot
from sevlab.abi.boot import BootHeader, Mailbox


def test_a_kernel_alone_comes_with_a_header_and_an_empty_command_line() -> None:
    assert boot.placement(b"kernel") == [
        (boot.HEADER, BootHeader(kernel_len=6, initrd_len=0, append_len=1).pack()),
        (boot.KERNEL, b"kernel"),
        (boot.APPEND, b"\0"),
    ]


@pytest.mark.parametrize(("size", "gpa"), [(1, 0x1001000), (4096, 0x1001000), (4097, 0x1002000)])
def test_the_initrd_lies_on_the_page_behind_the_kernel(size: int, gpa: int) -> None:
    assert (gpa, b"initrd") in boot.placement(bytes(size), b"initrd", "quiet")


@pytest.mark.parametrize("append", ["console=ttyS0", b"console=ttyS0"])
def test_the_command_line_ends_with_a_nul(append: str | bytes) -> None:
    assert boot.placement(b"k", None, append)[-1] == (boot.APPEND, b"console=ttyS0\0")


@given(kernel=st.integers(1, 3 << 20), initrd=st.integers(0, 3 << 20), append=st.text(max_size=200))
def test_nothing_that_is_put_lies_on_anything_else(kernel: int, initrd: int, append: str) -> None:
    pieces = boot.placement(bytes(kernel), bytes(initrd), append)
    areas = [(boot.MAILBOX, boot.MAILBOX_LIMIT), boot.SECRET_AREA, boot.HASH_AREA, (boot.RESET_BLOCK & -boot.PAGE, boot.PAGE)]
    spans = sorted([(gpa, gpa + len(data)) for gpa, data in pieces] + [(gpa, gpa + size) for gpa, size in areas])

    assert all(end <= start for (_, end), (start, _) in pairwise(spans))
    assert spans[-1][1] <= boot.memory_needed(bytes(kernel), bytes(initrd))


def test_memory_grows_with_what_is_booted() -> None:
    assert boot.memory_needed() == boot.memory_needed(b"kernel", b"initrd") == boot.MEMORY
    assert boot.memory_needed(bytes(1), bytes(20 << 20)) == boot.KERNEL + boot.PAGE + (20 << 20)


def test_a_command_line_that_does_not_fit_is_refused() -> None:
    assert boot.placement(b"k", None, "x" * (boot.APPEND_LIMIT - 1))
    with pytest.raises(ValueError, match="a command line may have"):
        boot.placement(b"k", None, "x" * boot.APPEND_LIMIT)


@pytest.mark.parametrize("which", [0, 1])
def test_a_blob_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch, which: int) -> None:
    monkeypatch.setattr(boot, "BLOB_LIMIT", 10)
    with pytest.raises(ValueError, match="a kernel or initrd may have"):
        boot.placement(*[bytes(11 if number == which else 10) for number in range(2)])


@given(status=st.integers(0, 255), data=st.binary(max_size=300), behind=st.binary(max_size=20))
def test_an_answer_is_read_as_it_was_given(status: int, data: bytes, behind: bytes) -> None:
    assert boot.read_answer(boot.answer(status, data) + behind) == (status, data)


def test_an_answer_that_is_too_long_is_cut() -> None:
    page = boot.answer(boot.ANSWER, bytes(boot.MAILBOX_LIMIT))

    assert len(page) == boot.MAILBOX_LIMIT and boot.read_answer(page) == (boot.ANSWER, bytes(boot.MAILBOX_LIMIT - Mailbox.SIZE))


@pytest.mark.parametrize("page", [b"", b"sevmail", bytes(4096), boot.answer(1, b"x")[:15], b"\0" + boot.answer(1, b"x")])
def test_what_is_no_mailbox_says_nothing(page: bytes) -> None:
    assert boot.read_answer(page) == (0, b"")


def test_a_mailbox_read_in_part_gives_what_is_there() -> None:
    assert boot.read_answer(boot.answer(1, b"abcdef")[:-2]) == (1, b"abcd")
