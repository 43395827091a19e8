"""Calls that wait: steps, locks, signals, deadlocks."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from errno import EBUSY, EINTR, EINVAL, ENOTTY, ESRCH
from typing import Any

import pytest
from bare_kernel import BareKernel, Device
from hypothesis import given
from hypothesis import strategies as st

from sevlab.kvm.call import TICKS, Blocked, Flag, Lock, Locks, Mutex, Tick, TryLock, Wait
from sevlab.kvm.fd import KvmError, need
from sevlab.kvm.process import Process
from sevlab.wire import Wire, u64

RUN, MOVE, BACK, PLAIN, STOP, LEAVE = 1, 2, 3, 4, 5, 6


class Desk:
    """One process, one device, two locks, two flags; `log` is what the handlers wrote down."""

    def __init__(self) -> None:
        self.kernel = BareKernel()
        self.process = self.kernel.process()
        self.fd = self.process.open("/dev/test")
        self.table = self.kernel.dev.table
        self.a, self.b = Mutex("a"), Mutex("b")
        self.flag, self.other = Flag("flag"), Flag("other")
        self.log: list[str] = []

    def begin(self, nr: int, arg: int = 0) -> Any:
        return self.process.begin(self.fd, nr, arg)

    def ioctl(self, nr: int, arg: int = 0) -> int:
        return self.process.ioctl(self.fd, nr, arg)

    def hold(self, mutex: Mutex, until: list[Any], *, code: int | None = None, ticks: bool = False) -> Any:
        """A handler that takes a lock and keeps it until `until` is not empty."""

        async def handler(caller: Any, arg: int) -> int:
            async with Lock(mutex, code):
                self.log.append(f"{mutex.name} taken")
                while not until:
                    await (Tick("the guest computes") if ticks else Wait(lambda: until, "somebody to say so"))
            self.log.append(f"{mutex.name} given")
            return 7

        return handler

    def take(self, *requests: tuple[Any, int | None]) -> Any:
        """A handler that takes these locks and flags in order."""

        async def handler(caller: Any, arg: int) -> int:
            async with Locks(*(TryLock(m, c or EBUSY) if isinstance(m, Flag) else Lock(m, c) for m, c in requests)):
                self.log.append("all taken")
            return 0

        return handler

    @property
    def holders(self) -> list[str]:
        return [lock.name for lock in (self.a, self.b, self.flag, self.other) if lock.holder is not None]


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


# ----------------------------------------------------------------------- locks


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
