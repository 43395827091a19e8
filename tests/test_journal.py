"""The journal: arguments by content, payloads in a spool, and what it says to those who read it."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.journal import OPAQUE, SPOOLED, Journal, Look, Packed, Spool, Spooled, Who
from sevlab.wire import Wire, u32


class Pair(Wire):
    """A structure with a number and bytes."""

    number: u32 = 0  # 0x00
    data: Annotated[bytes, 4] = b""  # 0x04


class Somebody:
    """What the journal asks a process."""

    def journaled(self) -> Who:
        return Who(1, 7)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.binary(max_size=64)
    | st.binary(min_size=SPOOLED, max_size=SPOOLED + 9),
    lambda inner: st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(VALUES)
def test_law_what_is_frozen_and_thawed_is_what_it_was(value: Any) -> None:
    journal = Journal()

    assert journal.thaw(journal.freeze(value), {}) == value


def test_a_structure_is_kept_as_it_was_and_thawed_into_a_new_one() -> None:
    journal, pair = Journal(), Pair(number=3, data=b"abcd")
    kept = journal.freeze(pair)
    pair.number = 9

    assert kept == Packed(Pair, b"\3\0\0\0abcd")
    assert journal.thaw(kept, {}) == Pair(number=3, data=b"abcd")


def test_a_process_is_kept_by_its_number_and_thawed_into_that_of_the_machine_at_hand() -> None:
    journal, twin = Journal(), object()

    assert journal.thaw(journal.freeze((Somebody(), 1)), {Who(1, 7): twin}) == (twin, 1)


def test_a_process_that_is_not_there_is_not_thawed() -> None:
    with pytest.raises(KeyError):
        Journal().thaw(Who(0, 3), {})


@pytest.mark.parametrize(
    "data", [b"x" * SPOOLED, bytearray(SPOOLED), memoryview(bytes(SPOOLED + 1))], ids=["bytes", "bytearray", "view"]
)
def test_bytes_of_a_page_and_more_go_into_the_spool(data: Any) -> None:
    kept = Journal().freeze(data)

    assert isinstance(kept, Spooled)
    assert kept.read() == bytes(data)


@pytest.mark.parametrize("data", [b"", b"x" * (SPOOLED - 1), bytearray(b"short")])
def test_shorter_bytes_stay_in_memory_as_bytes(data: Any) -> None:
    journal = Journal()

    assert type(journal.freeze(data)) is bytes
    assert journal.spool.size == 0


def test_what_is_in_the_spool_does_not_change_with_the_buffer_it_came_from() -> None:
    data = bytearray(SPOOLED)
    kept = Journal().freeze(data)
    data[:] = b"\xff" * SPOOLED

    assert kept.read() == bytes(SPOOLED)


def test_a_spool_makes_its_file_when_it_is_first_needed() -> None:
    spool = Spool()
    assert spool._file is None

    assert spool.append(b"one").read() == b"one"
    assert spool._file is not None


def test_threads_may_append_to_one_spool() -> None:
    spool, kept = Spool(), []

    def work(number: int) -> None:
        for turn in range(50):
            data = bytes([number, turn]) * 100
            kept.append((data, spool.append(data)))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert all(one.read() == data for data, one in kept)
    assert spool.size == 4 * 50 * 200


def test_a_journal_of_the_first_entries_has_their_looks_and_no_later_ones() -> None:
    journal = Journal([(0, "process", 0, ("qemu",), None), (0, "open", 1, ("/dev/kvm",), None), (0, "kill", 1, (), None)])
    journal.looks += [Look(1, 0, "guest 1"), Look(3, 0, "guest 2")]
    journal.interrupts.update({1: 4, 3: 1})
    first = journal.upto(2)

    assert len(first) == 2 and first.looks == [Look(1, 0, "guest 1")] and first.interrupts == {1: 4}
    assert first.spool is journal.spool


def test_an_entry_that_is_undone_is_gone_with_its_interrupt() -> None:
    journal = Journal([(0, "open", 1, (), None), (0, "close", 1, (), None)])
    journal.interrupts[2] = 1
    journal.drop(2)

    assert len(journal) == 1 and not journal.interrupts


def test_rows_say_who_did_what() -> None:
    journal = Journal([(0, "process", 0, ("qemu",), {"memlock": 5}), (0, "open", 1, ("/dev/kvm",), None)])
    journal.entries += [(0, "step", -2, (), None), (0, "other", OPAQUE, (), None)]

    assert [(row["n"], row["what"], row["target"], row["args"]) for row in journal] == [
        (1, "process", "host", ["qemu", 5]),
        (2, "open", "process 1", ["/dev/kvm"]),
        (3, "step", "call 2", []),
        (4, "other", "outside", []),
    ]
