"""Locks and flags: who has them, who waits, and in which order they are given back."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL
from typing import Any

import pytest
from kvm.desk import Desk

from sevlab.kvm.call import Lock, Locks, TryLock, Wait
from sevlab.kvm.fd import KvmError, need

RUN, MOVE, BACK, PLAIN, STOP, LEAVE = 1, 2, 3, 4, 5, 6


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
def handler_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_lock_that_is_free_is_taken_and_given_back(desk: Desk) -> None:
    desk.table[MOVE] = desk.take((desk.a, None))

    assert desk.ioctl(MOVE) == 0
    assert (desk.log, desk.holders) == (["all taken"], [])


def test_a_call_that_must_wait_drives_the_one_that_holds_the_lock(desk: Desk) -> None:
    until: list[int] = []

    async def release(caller: Any, arg: int) -> int:
        until.append(1)
        return 0

    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, EINTR)), STOP: release})
    run = desk.begin(RUN)
    run.step(), run.step()
    desk.begin(STOP)

    assert desk.ioctl(MOVE) == 0
    assert desk.log == ["a taken", "a given", "all taken"]


def test_others_are_driven_oldest_first(desk: Desk) -> None:
    def note(caller: Any, arg: int) -> int:
        desk.log.append(str(arg))
        return 0

    async def last(caller: Any, arg: int) -> int:
        await Wait(lambda: len(desk.log) == 3, "three before me")
        return 0

    desk.table.update({PLAIN: note, RUN: last})
    calls = [desk.begin(PLAIN, arg) for arg in (1, 2, 3)]

    assert desk.ioctl(RUN) == 0
    assert desk.log == ["1", "2", "3"]
    assert all(call.state == "done" for call in calls)


def test_others_go_no_further_than_is_needed(desk: Desk) -> None:
    until = [1]
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, None)), PLAIN: lambda caller, arg: 0})
    run, idle = desk.begin(RUN), desk.begin(PLAIN)
    run.step(), run.step()

    desk.ioctl(MOVE)

    assert idle.state == "runnable"


def test_a_flag_is_tried_and_never_waited_for(desk: Desk) -> None:
    desk.table[MOVE] = desk.take((desk.flag, EBUSY), (desk.a, EINTR))
    first = desk.begin(MOVE)
    first.step(), first.step()
    assert desk.holders == ["flag"]

    with pytest.raises(OSError) as no:
        desk.ioctl(MOVE)
    assert no.value.errno == EBUSY
    assert first.finish() == 0
    assert desk.holders == []


def test_the_rung_of_a_flag_is_the_line_that_tried_it(desk: Desk) -> None:
    def lock_both() -> Locks:
        return Locks(
            TryLock(desk.flag, EBUSY),  # the first flag
            TryLock(desk.other, EBUSY),  # the second flag is set already
        )

    async def move(caller: Any, arg: int) -> int:
        async with lock_both():
            return 0

    desk.table[MOVE] = move
    desk.other.holder = desk.begin(PLAIN)
    with pytest.raises(KvmError) as no:
        desk.ioctl(MOVE)

    assert no.value.why == "lock_both: TryLock(desk.other, EBUSY),  # the second flag is set already"


def test_what_was_taken_is_given_back_when_the_next_is_refused(desk: Desk) -> None:
    desk.table[MOVE] = desk.take((desk.a, None), (desk.flag, EBUSY), (desk.other, EBUSY))
    desk.other.holder = desk.begin(PLAIN)

    with pytest.raises(OSError):
        desk.ioctl(MOVE)
    assert desk.holders == ["other"]


def test_a_refusal_under_a_lock_gives_it_back_in_a_step_of_its_own(desk: Desk) -> None:
    async def refuse(caller: Any, arg: int) -> int:
        async with Lock(desk.a):
            need(False, EINVAL)  # always
        return 0

    desk.table[MOVE] = refuse
    call = desk.begin(MOVE)
    call.step(), call.step()
    assert (desk.holders, call.state) == (["a"], "runnable")

    assert call.step() == "done"
    assert desk.holders == []
    assert call.error.errno == EINVAL  # type: ignore[union-attr]


def test_a_bug_in_a_handler_gives_its_locks_back_and_is_no_refusal(desk: Desk) -> None:
    async def bug(caller: Any, arg: int) -> int:
        async with Locks(Lock(desk.a), Lock(desk.b)):
            return 1 // 0

    desk.table[MOVE] = bug
    with pytest.raises(ZeroDivisionError):
        desk.ioctl(MOVE)
    assert desk.holders == []


def test_the_trace_shows_who_held_what_and_who_waited(desk: Desk) -> None:
    until = [1]
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, None))})
    run = desk.begin(RUN)
    run.step(), run.step()
    desk.ioctl(MOVE)

    kinds = [(row["kind"], row["lock"]) for row in desk.kernel.trace.rows() if "lock" in row]
    assert kinds == [(kind, "a") for kind in ("LockTaken", "LockAwaited", "LockGiven", "LockTaken", "LockGiven")]
