"""The explorer: every schedule, each outcome, and a machine that is as it was afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from errno import EBUSY, EINVAL, errorcode
from itertools import permutations
from typing import Any

import pytest
from bare_kernel import BareKernel
from hypothesis import given, settings
from hypothesis import strategies as st
from rigs_of_time import begin_move, host, state_of, vms

from sevlab import designs, explore
from sevlab.host import Host
from sevlab.kvm.call import Call, Flag, Lock, Locks, Mutex, Tick, TryLock, Unlock, Wait
from sevlab.kvm.fd import KvmError
from sevlab.kvm.process import Process
from sevlab.schedules import TICKS, Explored, Search, _end
from sevlab.situation import Situation

NAIVE = designs.replace(designs.LINUX_6_1, name="naive", move=designs.MOVE_NAIVE)


class Rig:
    """A kernel with two locks, two flags and a list that everybody writes to; handlers are scripts of a few words."""

    def __init__(self, *scripts: str) -> None:
        self.kernel = BareKernel()
        self.locks = {name: Mutex(name) for name in "AB"} | {name: Flag(name) for name in "fg"}
        self.shared: list[int] = []
        self.kernel.rig = self  # type: ignore[attr-defined]  # so that a snapshot finds it
        self.process = self.kernel.process()
        self.fd = self.process.open("/dev/test")
        for number, script in enumerate(scripts):
            self.kernel.dev.table[number] = self._handler(number, script)
        self.calls = [self.process.begin(self.fd, number) for number in range(len(scripts))]

    def _handler(self, number: int, script: str) -> Callable[..., Any]:
        async def handler(caller: Any, arg: int) -> int:
            held = []
            for word in script.split():
                match word[0], word[1:]:
                    case "+", name:
                        await Lock(self.locks[name])
                        held.append(name)
                    case "?", name:
                        await TryLock(self.locks[name], EBUSY)  # type: ignore[arg-type]
                        held.append(name)
                    case "-", name:
                        await Unlock(self.locks[name])
                        held.remove(name)
                    case "w", _:
                        self.shared.append(number)
                    case "r", _:
                        value = len(self.shared)
                        await Tick("between read and write")
                        self.shared[:] = [*range(value), number]
                    case "t", _:
                        await Tick("works")
                    case "s", _:
                        await Wait(lambda: self.shared, "something is written")
                    case "m", _:
                        caller.write(arg or self.page, bytes([number + 1]))
                    case "x", _:
                        raise KvmError(EINVAL)
            for name in reversed(held):
                await Unlock(self.locks[name])
            return len(self.shared)

        return handler

    @property
    def page(self) -> int:
        return self._page

    def touch(self) -> Rig:
        """Give the scripts a page to write to (`m`)."""
        self._page = self.process.mmap(4096)
        self.process.write(self._page, b"\xff")
        return self


def found(rig: Rig, **kw: Any) -> Explored:
    return Explored(rig.calls, Search(rig.calls, **kw).run())


def brute(scripts: list[str], limit: int = 5000) -> dict[tuple[str, ...], int]:
    """The outcomes and their counts by running every schedule on a machine of its own: slow and plain."""
    counts: dict[tuple[str, ...], int] = {}
    todo = [""]
    while todo:
        path = todo.pop()
        rig = Rig(*scripts)
        for digit in path:
            rig.calls[int(digit)]._step()
        while able := [number for number, call in enumerate(rig.calls) if call._can()]:
            todo += [f"{path}{number}" for number in able[1:]]  # others' machines; this one takes the first way
            path = f"{path}{able[0]}"
            rig.calls[able[0]]._step()
        ends = tuple(_end(call) for call in rig.calls)
        counts[ends] = counts.get(ends, 0) + 1
        limit -= 1
        assert limit, "too many schedules for the plain way"
    return counts


# ------------------------------------------------------------------ stories


def test_two_locks_in_opposite_orders_deadlock_in_some_schedules() -> None:
    one = found(Rig("+A +B", "+B +A"))

    assert [tile.ends for tile in one.outcomes] == [("done", "done"), ("waits for B", "waits for A")]
    assert [tile.deadlock for tile in one.outcomes] == [False, True]
    assert one.deadlocks[0].schedule == "1122" and one.schedules == 28


def test_two_locks_in_one_order_never_do() -> None:
    one = found(Rig("+A +B", "+A +B"))

    assert [tile.ends for tile in one.outcomes] == [("done", "done")] and not one.deadlocks


def test_flags_that_are_tried_make_it_busy_and_nothing_hangs() -> None:
    one = found(Rig("?f ?g +A +B", "?g ?f +B +A"))

    assert not one.deadlocks
    assert {tile.ends for tile in one.outcomes} == {("done", "done"), ("done", "EBUSY"), ("EBUSY", "done"), ("EBUSY", "EBUSY")}


def test_a_race_without_a_lock_has_two_outcomes() -> None:
    ends = {tile.ends for tile in found(Rig("r", "r")).outcomes}

    assert ends == {("done, 1", "done, 2"), ("done, 2", "done, 1"), ("done, 1", "done, 1")}


def test_who_sleeps_for_what_nobody_brings_about_is_no_deadlock_but_told() -> None:
    one = found(Rig("s", "x"))

    assert [tile.ends for tile in one.outcomes] == [("sleeps: something is written", "EINVAL")] and not one.deadlocks


def test_a_call_that_works_for_ever_is_ended_by_a_signal() -> None:
    one = found(Rig(" ".join("t" * (TICKS + 5)), "w"))

    assert {tile.ends[0] for tile in one.outcomes} == {"EINTR"}


def test_every_schedule_is_listed_when_asked_for() -> None:
    one = found(Rig("+A +B", "+B +A"), all=True)

    assert len(one.every) == one.schedules == 28 and one.situations == 0
    assert one.every["1122"] == "B" and set(one.every.values()) == {"A", "B"}
    assert found(Rig("+A +B", "+B +A")).every == {}


def test_what_is_written_to_memory_counts_and_is_put_back() -> None:
    rig = Rig("m t", "m t m").touch()
    one = found(rig)

    assert rig.process.read(rig.page, 1) == b"\xff"
    assert one.schedules == sum(brute_count(rig) for _ in (1,))


def brute_count(rig: Rig) -> int:
    return Explored(rig.calls, Search(rig.calls, all=True).run()).schedules


def test_the_machine_is_as_it_was() -> None:
    rig = Rig("+A r -A +B w", "+B r -B x", "?f w")
    before = Situation([rig.kernel, *rig.calls])
    rows = rig.kernel.trace.rows()
    found(rig)

    assert before.changed() == []
    assert rig.kernel.trace.rows() == rows
    assert rig.calls[0].finish() == 2


# ------------------------------------------------------------------ laws

WORDS = st.sampled_from(["+A", "+B", "?f", "?g", "w", "r", "t", "s", "x", "+A w -A", "+B r -B"])
SCRIPT = st.lists(WORDS, max_size=3).map(" ".join)


@settings(max_examples=60)
@given(st.lists(SCRIPT, min_size=2, max_size=2))
def test_law_what_is_pruned_changes_no_outcome_and_no_count(scripts: list[str]) -> None:
    pruned, every = found(Rig(*scripts)), found(Rig(*scripts), all=True)

    assert pruned.outcomes == every.outcomes
    assert pruned.schedules == len(every.every)


@settings(max_examples=25)
@given(st.lists(st.lists(WORDS, max_size=2).map(" ".join), min_size=2, max_size=2))
def test_law_the_explorer_finds_what_machines_of_their_own_find(scripts: list[str]) -> None:
    one = found(Rig(*scripts))

    assert {tile.ends: tile.schedules for tile in one.outcomes} == brute(scripts)


@settings(max_examples=20)
@given(st.lists(SCRIPT, min_size=3, max_size=3))
def test_law_three_calls_leave_the_machine_as_it_was(scripts: list[str]) -> None:
    rig = Rig(*scripts)
    before = Situation([rig.kernel, *rig.calls])
    found(rig)

    assert before.changed() == []


# ------------------------------------------------------------------ the kernel's own calls


@pytest.fixture
def movers() -> Iterator[Callable[..., tuple[Host, Process, list[Call]]]]:
    made: list[Host] = []

    def make(
        design: designs.Design, pairs: list[tuple[int, int]], count: int = 2, encrypted: int = 1
    ) -> tuple[Host, Process, list[Call]]:
        one = host(design=design)
        made.append(one)
        process = one.process("qemu")
        fds = vms(process, count, encrypted)
        return one, process, [begin_move(process, fds[to], fds[of]) for to, of in pairs]

    yield make
    for one in made:
        one.close()


def test_naive_locking_of_two_vms_deadlocks(movers: Any) -> None:
    _, _, calls = movers(NAIVE, [(1, 0), (0, 1)])
    seen = explore(*calls)
    (tile,) = seen.deadlocks

    assert tile.ends == ("waits for kvm->lock of VM 1", "waits for kvm->lock of VM 2")
    stuck = seen.replay(tile.schedule)
    assert [call.state for call in stuck.kernel.calls.begun] == ["killable", "killable"]
    assert all(not call.done and call.state == "runnable" for call in calls)


@pytest.mark.parametrize("design", [designs.LINUX_6_1, designs.LINUX_6_12], ids=lambda design: design.name)
def test_the_mark_makes_it_busy_and_never_hangs(movers: Any, design: designs.Design) -> None:
    seen = explore(*movers(design, [(1, 0), (0, 1)])[2])

    assert not seen.deadlocks
    assert {end for tile in seen.outcomes for end in tile.ends} >= {"done", "EBUSY"}


def test_three_calls_among_three_vms() -> None:
    one = host(design=NAIVE)
    process = one.process("qemu")
    fds = vms(process, 3, 2)
    before = state_of(one)
    calls = [begin_move(process, fds[to], fds[of]) for to, of in ((0, 1), (1, 2), (2, 0))]
    seen = explore(*calls)

    assert seen.deadlocks and seen.schedules > 1000 > seen.situations
    assert state_of(one)["bytes"][: 1 << 12] == before["bytes"][: 1 << 12] and one.n == before["n"] + 3


def test_a_schedule_is_replayed_on_a_twin_with_every_row(movers: Any) -> None:
    one, _, calls = movers(designs.LINUX_6_1, [(1, 0), (0, 1)])
    n, seen = one.n, explore(*calls)
    tile = seen.outcomes[0]
    twin = seen.replay(tile.schedule)

    assert twin.n == n + len(tile.schedule) and one.n == n
    assert [row["kind"] for row in twin.trace.rows() if row["n"] > n].count("LockTaken") >= 4
    assert state_of(twin.fork()) == state_of(twin)


def test_finishing_the_calls_straight_is_one_of_the_outcomes(movers: Any) -> None:
    for order in permutations(range(2)):
        _, _, calls = movers(designs.LINUX_6_1, [(1, 0), (0, 1)])
        ends = {tile.ends for tile in explore(*calls).outcomes}
        got = ["", ""]
        for number in order:
            try:
                got[number] = f"done, {result}" if (result := calls[number].finish()) else "done"
            except OSError as refusal:
                got[number] = errorcode[refusal.errno or 0]
        assert tuple(got) in ends


# ------------------------------------------------------------------ refusals


def test_one_call_alone_is_nothing_to_explore(movers: Any) -> None:
    _, _, (call, _) = movers(NAIVE, [(1, 0), (0, 1)])

    for calls in ((), (call,), (call, call)):
        with pytest.raises(ValueError, match="two or more calls"):
            explore(*calls)


def test_a_call_that_has_been_stepped_cannot_be_explored(movers: Any) -> None:
    _, _, calls = movers(NAIVE, [(1, 0), (0, 1)])
    calls[1].step()

    with pytest.raises(ValueError, match=r"^call 2 \(.*\) has been stepped already"):
        explore(*calls)


def test_calls_of_two_worlds_cannot_meet(movers: Any) -> None:
    a, b = movers(NAIVE, [(1, 0)])[2][0], movers(NAIVE, [(1, 0)])[2][0]

    with pytest.raises(ValueError, match="different worlds"):
        explore(a, b)


def test_calls_of_no_host_cannot_be_made_anew() -> None:
    with pytest.raises(ValueError, match="belong to no Host"):
        explore(*Rig("+A", "+A").calls)


@pytest.mark.parametrize(
    ("schedule", "sentence"),
    [
        *[("13", "step 2 of '13' names no call"), ("1x", "names no call"), ("0", "names no call")],
        *[("1" * 60, "call 1 is done"), ("11221", "waits for")],
    ],
)
def test_a_schedule_that_cannot_be_is_refused(movers: Any, schedule: str, sentence: str) -> None:
    design = NAIVE if "waits" in sentence else designs.LINUX_6_1
    seen = explore(*movers(design, [(1, 0), (0, 1)])[2])

    with pytest.raises(ValueError, match=sentence):
        seen.replay(schedule)


def test_a_search_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sevlab.schedules.LIMIT", 50)
    rig = Rig("+A w -A +B w -B", "+B w -B +A w -A")
    before = Situation([rig.kernel, *rig.calls])

    with pytest.raises(RuntimeError, match="after 50 steps there are still schedules left"):
        found(rig, all=True)
    assert before.changed() == []


def test_locks_that_were_given_back_on_the_way_out_are_put_back_too() -> None:
    rig = Rig("+A +B", "+B +A")

    async def nested(caller: Any, arg: int) -> int:
        async with Locks(Lock(rig.locks["A"]), Lock(rig.locks["B"])):
            rig.shared.append(1)
            await Tick("inside")
        return 0

    rig.kernel.dev.table[0] = nested
    found(rig)

    assert all(lock.holder is None for lock in rig.locks.values()) and rig.shared == []
