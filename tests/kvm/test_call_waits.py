"""Waits and how they end: signals, death, deadlocks, and guests that compute for ever."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from errno import EINTR
from typing import Any

import pytest
from kvm.desk import Desk

from sevlab.kvm.call import TICKS, Blocked, Lock, Tick, Wait
from sevlab.kvm.fd import KvmError

RUN, MOVE, BACK, PLAIN, STOP, LEAVE = 1, 2, 3, 4, 5, 6


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
def handler_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


# --------------------------------------------------------------------- signals

STATES = [
    # what it waits at          state              a signal ends it   death ends it
    (lambda d: Lock(d.a),        "uninterruptible", False,             False),
    (lambda d: Lock(d.a, EINTR), "killable",        False,             True),
    (lambda d: Wait(lambda: 0, "nothing"), "interruptible", True,      True),
    (lambda d: Tick("work"),     "runnable",        True,              True),
]  # fmt: skip


@pytest.mark.parametrize(("request_", "state", "signalled", "killed"), STATES)
@pytest.mark.parametrize("death", [False, True])
def test_which_waits_a_signal_ends_and_which_only_death(
    desk: Desk, request_: Any, state: str, signalled: bool, killed: bool, death: bool
) -> None:
    desk.a.holder = desk.begin(PLAIN)
    going = [1]

    async def handler(caller: Any, arg: int) -> int:
        while going:
            await request_(desk)
        return 0

    desk.table[RUN] = handler
    call = desk.begin(RUN)
    call.step()
    assert call.state == state

    if death:
        call.abandon()
    else:
        call.interrupt()
        call.step()
    ends = killed if death else signalled
    assert (call.state == "done") == ends
    if ends:
        assert call.error.errno == EINTR  # type: ignore[union-attr]
    else:
        assert call.state == state


def test_a_signal_before_the_wait_ends_it_when_it_comes(desk: Desk) -> None:
    desk.table[RUN] = desk.hold(desk.a, [])
    call = desk.begin(RUN)
    call.interrupt()

    with pytest.raises(OSError) as no:
        call.finish()
    assert no.value.errno == EINTR
    assert desk.holders == []


def test_what_is_there_is_had_although_a_signal_came(desk: Desk) -> None:
    desk.table[RUN] = desk.hold(desk.a, [1], code=EINTR)
    call = desk.begin(RUN)
    call.interrupt()

    assert call.finish() == 7


def test_an_abandoned_call_that_never_started_never_runs(desk: Desk) -> None:
    desk.table[PLAIN] = lambda caller, arg: desk.log.append("ran") or 0
    call = desk.begin(PLAIN)
    call.abandon()

    assert call.state == "done"
    assert desk.log == []


def test_an_abandoned_call_runs_on_where_death_cannot_end_it(desk: Desk) -> None:
    until: list[int] = []
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, None))})
    run = desk.begin(RUN)
    run.step(), run.step()
    move = desk.begin(MOVE)
    move.step()
    move.abandon()
    assert move.state == "uninterruptible"

    until.append(1)
    run.finish()
    assert move.step() == "runnable"
    assert move.finish() == 0


def test_ctrl_c_ends_the_wait_and_comes_after_the_entry(desk: Desk) -> None:
    def interrupted() -> bool:
        signal.raise_signal(signal.SIGINT)
        return False

    async def handler(caller: Any, arg: int) -> int:
        try:
            await Wait(interrupted, "for ever")
        except KvmError as no:
            desk.log.append(f"errno {no.errno}, {type(no).__name__}")
            raise
        return 0

    async def busy(caller: Any, arg: int) -> int:
        while True:
            await Tick("the guest computes")

    desk.table.update({RUN: handler, STOP: busy})
    desk.begin(STOP)
    with pytest.raises(KeyboardInterrupt):
        desk.ioctl(RUN)

    assert desk.log == [f"errno {EINTR}, KvmError"]
    desk.table[PLAIN] = lambda caller, arg: 0
    assert desk.ioctl(PLAIN) == 0


# ------------------------------------------------------- nobody hangs a notebook


def test_two_calls_that_wait_for_each_other_are_told_so(desk: Desk) -> None:
    desk.table.update({MOVE: desk.take((desk.a, EINTR), (desk.b, EINTR)), BACK: desk.take((desk.b, EINTR), (desk.a, EINTR))})
    one, two = desk.begin(MOVE), desk.begin(BACK)
    for _ in range(2):
        one.step(), two.step()
    assert desk.holders == ["a", "b"]

    with pytest.raises(Blocked) as no:
        one.finish()
    assert no.value.errno == EINTR
    assert no.value.call is one
    assert "waits for b, held by ioctl 0x3 of qemu" in no.value.why
    assert "waits for a, held by ioctl 0x2 of qemu" in no.value.why
    assert two.finish() == 0
    assert desk.holders == []


def test_a_wait_that_nobody_can_end_is_ended(desk: Desk) -> None:
    desk.table[RUN] = desk.hold(desk.a, [])

    with pytest.raises(Blocked, match="somebody to say so") as no:
        desk.ioctl(RUN)
    assert no.value.errno == EINTR
    assert desk.kernel.calls.begun == {}


def test_a_guest_that_computes_for_ever_is_interrupted_after_32_ticks(desk: Desk) -> None:
    ticks = []

    async def run(caller: Any, arg: int) -> int:
        try:
            while True:
                ticks.append(1)
                await Tick("the guest computes")
        except KvmError as no:
            desk.log.append(f"exit reason INTR, errno {no.errno}")
            raise

    desk.table[RUN] = run
    with pytest.raises(Blocked, match="32 ticks"):
        desk.ioctl(RUN)

    assert len(ticks) == TICKS == 32
    assert desk.log == [f"exit reason INTR, errno {EINTR}"]


def test_who_waits_for_a_guest_that_computes_for_ever_waits_32_ticks(desk: Desk) -> None:
    desk.table.update({RUN: desk.hold(desk.a, [], ticks=True), MOVE: desk.take((desk.a, EINTR))})
    run = desk.begin(RUN)
    run.step(), run.step()

    with pytest.raises(Blocked, match=r"waits for a, held by ioctl 0x1 of qemu \(after 32 ticks\)"):
        desk.ioctl(MOVE)
    assert run.state == "runnable"
    assert desk.holders == ["a"]


def test_a_busy_call_does_not_keep_a_younger_one_from_helping(desk: Desk) -> None:
    until: list[int] = []
    desk.table.update({
        RUN: desk.hold(desk.a, [], ticks=True),
        BACK: desk.hold(desk.b, until),
        STOP: lambda caller, arg: until.append(1) or 0,
        MOVE: desk.take((desk.b, EINTR)),
    })  # fmt: skip
    for nr in (RUN, BACK):
        call = desk.begin(nr)
        call.step(), call.step()
    desk.begin(STOP)

    assert desk.ioctl(MOVE) == 0


def test_a_call_at_a_lock_that_no_signal_ends_stays_in_the_kernel(desk: Desk) -> None:
    until: list[int] = []
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, None))})
    run = desk.begin(RUN)
    run.step(), run.step()

    with pytest.raises(Blocked) as no:
        desk.ioctl(MOVE)
    stuck = no.value.call
    assert stuck.state == "uninterruptible"
    assert stuck in desk.kernel.calls.begun

    until.append(1)
    assert run.finish() == 7
    assert stuck.finish() == 0
    assert desk.holders == []


def test_a_call_that_waits_for_itself_is_told_so(desk: Desk) -> None:
    desk.table[MOVE] = desk.take((desk.a, EINTR), (desk.a, EINTR))

    with pytest.raises(Blocked, match="waits for a, held by ioctl 0x2 of qemu"):
        desk.ioctl(MOVE)
    assert desk.holders == []


def test_waits_for_is_what_a_lesson_prints(desk: Desk) -> None:
    desk.table.update({RUN: desk.hold(desk.a, []), MOVE: desk.take((desk.a, None))})
    run, move = desk.begin(RUN), desk.begin(MOVE)
    assert run.waits_for is None
    run.step(), run.step(), move.step()

    assert str(run.waits_for) == "waits: somebody to say so"
    assert str(move.waits_for) == "waits for a, held by ioctl 0x1 of qemu"


def test_a_handler_that_will_not_end_after_a_signal_is_a_bug_and_is_named(desk: Desk) -> None:
    async def stubborn(caller: Any, arg: int) -> int:
        while True:
            try:
                await Wait(lambda: False, "for ever")
            except KvmError:
                desk.log.append("ignored")

    desk.table[RUN] = stubborn
    with pytest.raises(RuntimeError, match="does not end"):
        desk.ioctl(RUN)


def test_a_handler_that_awaits_something_else_is_a_bug_and_is_named(desk: Desk) -> None:
    class Odd:
        def __await__(self) -> Any:
            yield "odd"

    async def wrong(caller: Any, arg: int) -> int:
        await Odd()
        return 0

    desk.table[RUN] = wrong
    with pytest.raises(TypeError, match="odd"):
        desk.ioctl(RUN)


def test_a_world_that_is_thrown_away_with_calls_under_way_makes_no_noise() -> None:
    desk = Desk()
    desk.table.update({RUN: desk.hold(desk.a, []), MOVE: desk.take((desk.b, None), (desk.a, None))})
    calls = [desk.begin(RUN), desk.begin(MOVE)]
    for call in calls:
        call.step(), call.step()
    lock = desk.b
    assert lock.holder is calls[1]

    for call in calls:
        call._work.close()

    assert lock.holder is None
