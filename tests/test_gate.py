"""The gate: one entry at a time, in order, and Ctrl-C only between them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sevlab.gate import Gate, ReadOnly
from sevlab.journal import Packed
from sevlab.trace import Event, Trace, u32
from sevlab.wire import Wire


class Happened(Event, lane="host"):
    """Something happened."""

    what: u32


@pytest.fixture(autouse=True)
def handler_as_before() -> Iterator[None]:
    """The gate stands in front of the SIGINT handler; put it back."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def gate() -> Gate:
    return Gate(Trace())


def test_an_entry_answers_what_its_function_answers(gate: Gate) -> None:
    assert gate.enter("add", lambda a, *, b: a + b, 1, b=2) == 3


def test_entries_are_counted_from_one_and_every_row_carries_its_number(gate: Gate) -> None:
    for what in (7, 8):
        gate.enter("emit", gate.trace.emit, Happened, what)

    assert [(row["n"], row["what"]) for row in gate.trace.rows()] == [(1, 7), (2, 8)]
    assert gate.n == 2


def test_a_refused_entry_counts_and_leaves_the_gate_open(gate: Gate) -> None:
    with pytest.raises(OSError):
        gate.enter("open", open, "/nonexistent/sevlab")

    assert gate.enter("after", lambda: gate.n) == 2


def test_an_entry_from_inside_an_entry_is_told_so_in_one_sentence(gate: Gate) -> None:
    def outer() -> str:
        with pytest.raises(RuntimeError, match="from inside one of its own entries") as told:
            gate.enter("inner", lambda: None)
        return str(told.value)

    sentence = gate.enter("outer", outer)

    assert "\n" not in sentence
    assert gate.n == 1


def test_hosts_of_one_trace_share_the_count_and_the_lock(gate: Gate) -> None:
    other = Gate(gate.trace)
    gate.enter("here", gate.trace.emit, Happened, 1)
    other.enter("there", gate.trace.emit, Happened, 2)

    assert [(row["n"], row["host"]) for row in gate.trace.rows()] == [(1, 0), (2, 1)]
    with pytest.raises(RuntimeError):
        gate.enter("outer", other.enter, "inner", lambda: None)


def test_a_host_knows_the_entry_that_made_it(gate: Gate) -> None:
    second = Gate(gate.trace)
    assert (gate.made, second.made) == (0, 0)

    gate.enter("one", lambda: None)
    gate.enter("two", lambda: None)
    second.enter("three", lambda: None)
    gate.enter("four", lambda: None)

    assert (gate.made, second.made) == (1, 3)


def test_hosts_of_two_traces_know_nothing_of_each_other(gate: Gate) -> None:
    other = Gate(Trace())

    assert gate.enter("outer", other.enter, "inner", lambda: other.n) == 1


# ------------------------------------------------------------------ watchers


def test_a_watcher_is_told_after_the_entry_and_may_make_entries_itself(gate: Gate) -> None:
    seen: list[tuple[int, int]] = []

    def watcher(rows: list[dict[str, int]]) -> None:
        seen.extend((row["n"], row["what"]) for row in rows)
        if rows[-1]["what"] < 3:
            gate.enter("answer", gate.trace.emit, Happened, rows[-1]["what"] + 1)

    gate.trace.watch(watcher)
    gate.enter("emit", gate.trace.emit, Happened, 1)

    assert seen == [(1, 1), (2, 2), (3, 3)]


def test_a_watcher_is_told_of_a_refused_entry_too(gate: Gate) -> None:
    seen: list[int] = []
    gate.trace.watch(lambda rows: seen.extend(row["what"] for row in rows))

    def refused() -> None:
        gate.trace.emit(Happened, 5)
        raise OSError(22, "no")

    with pytest.raises(OSError):
        gate.enter("refused", refused)

    assert seen == [5]


def test_a_watcher_that_raises_harms_nobody(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    gate.trace.watch(lambda rows: 1 / 0)
    gate.enter("emit", gate.trace.emit, Happened, 1)
    gate.enter("emit", gate.trace.emit, Happened, 2)

    assert len(caplog.records) == 1


# ------------------------------------------------------------------- threads


def test_who_waits_longest_is_next_and_nobody_overtakes(gate: Gate) -> None:
    order: list[str] = []
    threads = []

    def hold() -> None:
        for name in ("first", "second", "third"):
            waiting = len(gate.world.baton.queue)
            threads.append(threading.Thread(target=gate.enter, args=(name, order.append, name)))
            threads[-1].start()
            while len(gate.world.baton.queue) == waiting:
                time.sleep(0.001)

    gate.enter("hold", hold)
    gate.enter("again", order.append, "main, who came back at once")
    for thread in threads:
        thread.join()

    assert order == ["first", "second", "third", "main, who came back at once"]


def test_entries_of_many_threads_never_overlap(gate: Gate) -> None:
    inside, seen = [0], []

    def body() -> None:
        inside[0] += 1
        seen.append(inside[0])
        inside[0] -= 1

    def work() -> None:
        for _ in range(200):
            gate.enter("body", body)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert seen == [1] * 800
    assert gate.n == 800
    assert not gate.world.baton.queue


def test_another_thread_inside_is_waited_for_and_is_no_reentry(gate: Gate) -> None:
    began, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        began.set()
        go_on.wait()

    thread = threading.Thread(target=gate.enter, args=("slow", slow))
    thread.start()
    began.wait()
    threading.Timer(0.01, go_on.set).start()

    assert gate.enter("mine", lambda: gate.n) == 2
    thread.join()


# -------------------------------------------------------------------- Ctrl-C


def test_ctrl_c_during_an_entry_comes_when_the_entry_is_over(gate: Gate) -> None:
    steps = []

    def long() -> None:
        steps.append("before")
        signal.raise_signal(signal.SIGINT)
        steps.append(gate.interrupted())

    with pytest.raises(KeyboardInterrupt):
        gate.enter("long", long)

    assert steps == ["before", True]
    assert gate.enter("after", gate.interrupted) is False


def test_ctrl_c_during_an_entry_that_is_refused_wins_over_the_refusal(gate: Gate) -> None:
    def refused() -> None:
        signal.raise_signal(signal.SIGINT)
        raise OSError(4, "interrupted")

    with pytest.raises(KeyboardInterrupt) as raised:
        gate.enter("refused", refused)

    assert isinstance(raised.value.__context__, OSError)


def test_ctrl_c_outside_an_entry_is_what_it_always_was(gate: Gate) -> None:
    gate.enter("once", lambda: None)

    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_a_handler_that_was_set_meanwhile_is_held_back_as_well(gate: Gate) -> None:
    calls = []
    gate.enter("once", lambda: None)
    signal.signal(signal.SIGINT, lambda number, frame: calls.append("theirs"))

    with pytest.raises(KeyboardInterrupt):
        gate.enter("long", signal.raise_signal, signal.SIGINT)
    signal.raise_signal(signal.SIGINT)

    assert calls == ["theirs"]


def test_a_program_that_ignores_ctrl_c_goes_on_ignoring_it(gate: Gate) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gate.enter("long", signal.raise_signal, signal.SIGINT)

    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def test_ctrl_c_is_the_main_thread_s_and_another_thread_s_entry_is_not_interrupted(gate: Gate) -> None:
    answers: list[bool] = []

    def inside() -> None:
        thread = threading.Thread(target=lambda: answers.append(gate.interrupted()))
        signal.raise_signal(signal.SIGINT)
        thread.start()
        thread.join()

    with pytest.raises(KeyboardInterrupt):
        gate.enter("long", inside)

    assert answers == [False]


@given(st.lists(st.sampled_from(["answer", "refuse", "reenter", "interrupt"]), max_size=12))
def test_law_whatever_entries_do_the_gate_is_open_and_the_count_right_afterwards(script: list[str]) -> None:
    gate = Gate(Trace())

    def act(kind: str) -> None:
        match kind:
            case "refuse":
                raise OSError(22, "no")
            case "reenter":
                gate.enter("inner", lambda: None)
            case "interrupt":
                signal.raise_signal(signal.SIGINT)

    expected = {"refuse": OSError, "reenter": RuntimeError, "interrupt": KeyboardInterrupt}
    for kind in script:
        if kind in expected:
            with pytest.raises(expected[kind]):
                gate.enter(kind, act, kind)
        else:
            gate.enter(kind, act, kind)

    assert gate.enter("last", lambda: gate.n) == len(script) + 1


# ------------------------------------------------------------------ the journal


class Argument(Wire):
    """A structure as an argument."""

    value: u32 = 0  # 0x00


def test_an_entry_stands_in_the_journal_with_its_arguments_as_they_were_before_the_call(gate: Gate) -> None:
    argument, data = Argument(value=1), bytearray(b"before")

    def change(argument: Argument, data: bytearray) -> None:
        argument.value, data[:] = 2, b"after!"

    gate.run("change", 0, change, (argument, data))

    assert gate.world.journal.entries == [(0, "change", 0, (Packed(Argument, b"\1\0\0\0"), b"before"), None)]


def test_a_refused_entry_stands_in_the_journal_too(gate: Gate) -> None:
    def refuse() -> None:
        raise OSError(22, "no")

    with pytest.raises(OSError):
        gate.run("refuse", 7, refuse, ())

    assert gate.world.journal.entries == [(0, "refuse", 7, (), None)]


def test_an_argument_that_cannot_be_packed_makes_no_entry(gate: Gate) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        gate.run("ioctl", 1, lambda argument: None, (Argument(value=1 << 40),))

    assert gate.n == 0 and not gate.world.journal.entries


def test_a_look_has_the_lock_and_leaves_no_line_and_no_number(gate: Gate) -> None:
    def look() -> int:
        with pytest.raises(RuntimeError, match="from inside"):
            gate.enter("inner", lambda: None)
        return 5

    assert gate.look(look) == 5
    assert gate.n == 0 and not gate.world.journal.entries


def test_a_look_from_inside_an_entry_is_refused(gate: Gate) -> None:
    def outer() -> None:
        with pytest.raises(RuntimeError, match="from inside"):
            gate.look(lambda: None)

    gate.enter("outer", outer)

    assert gate.n == 1


def test_a_look_that_fails_leaves_the_gate_open(gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError):
        gate.look(lambda: 1 // 0)

    assert gate.enter("after", lambda: 1) == 1


def test_a_sealed_world_refuses_every_entry_and_stays_as_it_is(gate: Gate) -> None:
    done: list[int] = []
    gate.enter("first", done.append, 1)
    gate.world.seal(9)

    with pytest.raises(ReadOnly, match=r"entry 1 of 9 is past and read only; host\.fork\(1\)"):
        gate.enter("second", done.append, 2)

    assert done == [1] and gate.n == 1
    assert gate.look(lambda: gate.n) == 1


def test_what_nobody_can_repeat_is_not_undone_and_its_failure_comes_out(gate: Gate) -> None:
    with pytest.raises(ZeroDivisionError):
        gate.enter("fails", lambda: 1 // 0)

    assert gate.n == 1


def test_ctrl_c_is_kept_with_the_question_at_which_it_was_heard(gate: Gate) -> None:
    heard: list[bool] = []

    def wait() -> None:
        heard.append(gate.interrupted())
        signal.raise_signal(signal.SIGINT)
        heard.append(gate.interrupted())
        heard.append(gate.interrupted())

    with pytest.raises(KeyboardInterrupt):
        gate.enter("wait", wait)

    assert heard == [False, True, True]
    assert gate.world.journal.interrupts == {1: 2}
