"""Calls that wait: steps, locks, signals, deadlocks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL, ENOTTY, ESRCH
from typing import Any

import pytest
from bare_kernel import Device
from hypothesis import given
from hypothesis import strategies as st
from kvm.desk import Desk

from sevlab.kvm.call import Blocked, Lock, Wait
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.process import Process
from sevlab.wire import Wire, u64

RUN, MOVE, BACK, PLAIN, STOP, LEAVE = 1, 2, 3, 4, 5, 6


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.fixture(autouse=True)
def handler_as_before() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


# ----------------------------------------------------------------------- steps


def test_to_be_started_is_a_step(desk: Desk) -> None:
    desk.table[PLAIN] = lambda caller, arg: desk.log.append("ran") or arg
    call = desk.begin(PLAIN, 5)
    assert (call.state, desk.log) == ("runnable", [])

    assert call.step() == "done"
    assert desk.log == ["ran"]
    assert call.finish() == 5


def test_each_request_is_a_step_and_giving_back_is_one_too(desk: Desk) -> None:
    desk.table[MOVE] = desk.take((desk.a, EINTR))
    call = desk.begin(MOVE)

    states = []
    while call.state != "done":
        call.step()
        states.append((call.state, desk.holders))
    assert states == [("runnable", []), ("runnable", ["a"]), ("done", [])]


def test_a_step_of_a_call_that_waits_changes_nothing(desk: Desk) -> None:
    desk.table[RUN] = desk.hold(desk.a, [])
    call = desk.begin(RUN)
    for _ in range(2):
        call.step()

    assert [call.step() for _ in range(3)] == ["interruptible"] * 3
    assert desk.log == ["a taken"]


def test_a_step_of_a_call_that_is_done_changes_nothing(desk: Desk) -> None:
    desk.table[PLAIN] = lambda caller, arg: desk.log.append("ran") or 0
    call = desk.begin(PLAIN)

    assert [call.step(), call.step()] == ["done", "done"]
    assert desk.log == ["ran"]


def test_finish_twice_answers_twice(desk: Desk) -> None:
    desk.table[PLAIN] = lambda caller, arg: arg
    call = desk.begin(PLAIN, 3)

    assert (call.finish(), call.finish()) == (3, 3)


def test_a_refusal_is_the_call_s_result_and_only_finish_raises_it(desk: Desk) -> None:
    def refuse(caller: Any, arg: int) -> None:
        need(False, EINVAL)  # never

    desk.table[PLAIN] = refuse
    call = desk.begin(PLAIN)
    assert call.step() == "done"
    assert isinstance(call.error, KvmError)

    with pytest.raises(KvmError, match="never"):
        call.finish()


def test_a_descriptor_is_looked_up_when_the_call_starts_and_kept_to_its_end(desk: Desk) -> None:
    until: list[int] = []
    desk.table[RUN] = desk.hold(desk.a, until)
    early, late = desk.begin(RUN), desk.begin(RUN)
    early.step()
    refs = desk.kernel.dev.refs
    desk.process.close(desk.fd)
    assert desk.kernel.dev.refs == refs - 1

    until.append(1)
    assert early.finish() == 7
    with pytest.raises(OSError) as no:
        late.finish()
    assert no.value.errno == 9
    assert desk.kernel.dev.refs == 1


def test_a_plain_handler_makes_no_call(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sevlab.kvm.process.Call", None)
    desk.table[PLAIN] = lambda caller, arg: 0

    assert desk.ioctl(PLAIN) == 0


def test_a_coroutine_may_answer_a_file_and_the_process_picks_its_number(desk: Desk) -> None:
    made = Device()

    async def make(caller: Any, arg: int) -> Device:
        async with Lock(desk.a):
            return made

    desk.table[PLAIN] = make
    number = desk.ioctl(PLAIN)

    assert desk.process.fds[number] is made
    assert made.refs == 1


# ------------------------------------------------------------------- arguments


class Pair(Wire):
    """Two numbers."""

    a: u64 = 0  # 0x00
    b: u64 = 0  # 0x08


def test_a_structure_is_read_back_when_the_call_is_done_and_not_before(desk: Desk) -> None:
    async def answer(caller: Any, arg: int) -> int:
        caller.write(arg, Pair(1, 2).pack())
        await Wait(lambda: desk.log, "the log")
        return 0

    desk.table[RUN] = answer
    pair = Pair(9, 9)
    call = desk.process.begin(desk.fd, RUN, pair)
    call.step()
    assert pair == Pair(9, 9)

    desk.log.append("now")
    call.finish()
    assert pair == Pair(1, 2)


def test_a_structure_is_read_back_from_a_refused_call_as_well(desk: Desk) -> None:
    async def answer(caller: Any, arg: int) -> int:
        caller.write(arg, Pair(1, 2).pack())
        raise KvmError(EBUSY)

    desk.table[RUN] = answer
    pair = Pair()
    with pytest.raises(OSError):
        desk.process.ioctl(desk.fd, RUN, pair)

    assert pair == Pair(1, 2)


def test_calls_under_way_have_a_slot_each(desk: Desk) -> None:
    async def answer(caller: Any, arg: int) -> int:
        await Wait(lambda: desk.log, "the log")
        a, b = Pair.FORMAT.unpack(caller.read(arg, 16))
        caller.write(arg, Pair(b, a).pack())
        return 0

    desk.table[RUN] = answer
    pairs = [Pair(n, n + 1) for n in range(100)]
    calls = [desk.process.begin(desk.fd, RUN, pair) for pair in pairs]
    for call in calls:
        call.step()
    desk.log.append("now")
    for call in calls:
        call.finish()

    assert pairs == [Pair(n + 1, n) for n in range(100)]


# ------------------------------------------------------------ death of a process


def test_kill_ends_what_death_can_end_and_the_process_is_gone_with_its_last_call(desk: Desk) -> None:
    until: list[int] = []
    victim = desk.kernel.process("victim")
    fd = victim.open("/dev/test")
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, None)), BACK: desk.hold(desk.b, [])})
    run = desk.begin(RUN)
    run.step(), run.step()
    waits, stuck = victim.begin(fd, BACK), victim.begin(fd, MOVE)
    waits.step(), waits.step(), stuck.step()

    victim.kill()
    assert (waits.state, stuck.state) == ("done", "uninterruptible")
    assert "victim" in desk.kernel.processes
    with pytest.raises(OSError) as no:
        victim.ioctl(fd, PLAIN)
    assert no.value.errno == ESRCH

    until.append(1)
    run.finish()
    stuck.finish()
    assert "victim" not in desk.kernel.processes
    assert victim.fds == {}


def test_a_file_made_for_a_process_that_died_meanwhile_is_released(desk: Desk) -> None:
    made = Device()
    until: list[int] = []

    async def make(caller: Any, arg: int) -> Device:
        async with Lock(desk.a):
            return made

    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: make})
    victim = desk.kernel.process("victim")
    run = desk.begin(RUN)
    run.step(), run.step()
    call = victim.begin(victim.open("/dev/test"), MOVE)
    call.step()
    victim.kill()
    until.append(1)
    run.finish()
    call.finish()

    assert made.released == 1


def test_an_unknown_ioctl_begun_is_refused_at_its_first_step(desk: Desk) -> None:
    call = desk.begin(LEAVE)
    call.step()

    assert call.error.errno == ENOTTY  # type: ignore[union-attr]


# ------------------------------------------------------------------------ laws

SCRIPTS = st.lists(
    st.lists(st.tuples(st.sampled_from("abfo"), st.booleans()), min_size=1, max_size=4),
    min_size=1,
    max_size=4,
)


@given(SCRIPTS, st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["step", "interrupt", "abandon"])), max_size=40))
def test_law_whatever_the_order_locks_and_references_balance_and_everything_ends(
    programs: list[list[tuple[str, bool]]], schedule: list[tuple[int, str]]
) -> None:
    desk = Desk()
    locks = {"a": desk.a, "b": desk.b, "f": desk.flag, "o": desk.other}
    for nr, program in enumerate(programs):
        desk.table[nr] = desk.take(*((locks[name], EINTR if killable else None) for name, killable in program))
    calls = [desk.begin(nr) for nr in range(len(programs))]
    for who, what in schedule:
        getattr(calls[who % len(calls)], what)()
    for call in calls:
        try:
            call.finish()
        except Blocked as blocked:
            # Only calls that wait for a lock no signal ends may stay, and they hold or await something.
            assert call.done or blocked.call.state == "uninterruptible"
        except OSError as no:
            assert no.errno in (EINTR, EBUSY)

    alive = [call for call in calls if not call.done]
    assert all(lock.holder in alive for lock in locks.values() if lock.holder)
    assert list(desk.kernel.calls.begun) == alive
    assert desk.kernel.dev.refs == 2 + len(alive)


@given(st.integers(0, 2**32 - 1))
def test_law_the_same_schedule_gives_the_same_trace(seed: int) -> None:
    def play() -> list[dict[str, Any]]:
        desk, state = Desk(), seed
        desk.table.update({MOVE: desk.take((desk.a, EINTR), (desk.b, None)), BACK: desk.take((desk.b, EINTR), (desk.a, EINTR))})
        calls = [desk.begin(MOVE), desk.begin(BACK)]
        while state:
            calls[state & 1].step()
            state >>= 1
        for call in calls:
            try:
                call.finish()
            except OSError:
                continue
        return desk.kernel.trace.rows()

    assert play() == play()


def test_processes_of_one_kernel_may_wait_for_each_other(desk: Desk) -> None:
    other: Process = desk.kernel.process("other")
    until = [1]
    desk.table.update({RUN: desk.hold(desk.a, until), MOVE: desk.take((desk.a, EINTR))})
    run = other.begin(other.open("/dev/test"), RUN)
    run.step(), run.step()

    assert desk.ioctl(MOVE) == 0
