"""The life of a key slot."""

from __future__ import annotations

import pytest

from sevlab.psp.asids import Asids, AsidsChanged, AsidState
from sevlab.trace import Trace


def slots() -> Asids:
    made = Asids(15, Trace())
    made.reset(AsidState.DIRTY)
    return made


@pytest.mark.parametrize(("asid", "there"), [(-1, False), (0, False), (1, True), (15, True), (16, False), (1 << 31, False)])
def test_slots_are_numbered_from_1_to_the_chips_last(asid: int, there: bool) -> None:
    assert slots().exists(asid) is there


def test_a_slot_is_clean_after_a_flush_dirty_after_its_guest_and_clean_again_after_another() -> None:
    asids = slots()
    assert not asids.clean(3)

    asids.flush()
    assert asids.clean(3)
    asids.take(3, handle=1)
    assert asids.used(3) and not asids.clean(3)
    asids.flush()
    assert asids.used(3)  # a flush takes no key away
    asids.release(3)
    assert not asids.used(3) and not asids.clean(3)
    asids.flush()

    assert asids.clean(3)


def test_a_flush_tells_of_runs_and_only_of_what_was_dirty() -> None:
    asids = slots()
    asids.flush()
    for asid in (2, 3, 9):
        asids.take(asid, handle=1)
        asids.release(asid)
    seen = asids.trace.seq

    asids.flush()

    rows = asids.trace.rows(AsidsChanged, since=seen)
    assert [(row["first"], row["count"], row["state"]) for row in rows] == [(2, 2, AsidState.CLEAN), (9, 1, AsidState.CLEAN)]


def test_a_flush_of_clean_slots_says_nothing() -> None:
    asids = slots()
    asids.flush()
    seen = asids.trace.seq

    asids.flush()

    assert asids.trace.seq == seen
