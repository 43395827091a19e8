"""Time travel: a past machine, a forked one, one from a file; and an entry that is undone."""

from __future__ import annotations

import gc
import io
import os
import signal
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest
from rigs_of_time import begin_move, bytes_of, host, state_of, vms

from sevlab import Host, chips, designs, guest, vmm
from sevlab.abi.kvm import KVM_CREATE_VM
from sevlab.gate import ReadOnly
from sevlab.hw.isa import hlt, pause, store
from sevlab.journal_format import JournalError
from sevlab.trace import Trace
from sevlab.views import XrayTaken
from sevlab.wire import Wire, u64


@guest.program
async def writes(text: bytes) -> None:
    await store(0x2000, text, c=True)
    await hlt()


def launched() -> tuple[Host, Any]:
    one = host(seed=3)
    vm = vmm.launch(one, program=writes, args=(b"a secret of the guest",))
    vm.finish()
    vm.run()
    return one, vm


# ------------------------------------------------------------------ the past


def test_the_making_of_the_host_is_entry_1() -> None:
    one = host()

    assert one.n == 1 and one.journal.rows()[0]["what"] == "host"
    assert one.trace.rows()[-1]["n"] == 1


def test_a_past_machine_is_as_it_was_after_that_entry() -> None:
    one = host()
    process = one.process("qemu")
    hva = process.mmap(1 << 16)
    process.write(hva, b"first")
    n = one.n
    before = state_of(one)
    process.write(hva, b"second")
    process.kill()
    past = one.at(n)

    assert state_of(past) == before
    assert past.dram.read(past.hpa(past.processes["qemu"], hva), 5) == b"first"


def test_a_running_guest_is_in_the_past_what_it_was() -> None:
    one, _ = launched()
    past = one.at(one.n)

    assert state_of(past) == state_of(one)


@pytest.mark.parametrize(
    "act",
    [
        lambda past: past.processes["qemu"].open("/dev/kvm"),
        lambda past: past.process("other"),
        lambda past: past.dram.write(0, b"x"),
        lambda past: past.mailbox(4),
        lambda past: past.processes["qemu"].kill(),
    ],
    ids=["open", "process", "dram.write", "mailbox", "kill"],
)
def test_nothing_can_be_done_to_a_past_machine(act: Any) -> None:
    one = host()
    one.process("qemu")
    one.process("later")
    past = one.at(2)
    before = state_of(past)

    with pytest.raises(
        ReadOnly, match=r"^entry 2 of 3 is past and read only; host\.fork\(2\) makes a machine that goes on from there$"
    ):
        act(past)

    assert state_of(past) == before


def test_a_past_machine_can_be_looked_at_and_closed() -> None:
    one = host()
    one.process("qemu")
    with one.at(2) as past:
        assert past.probe(0, 16) == one.probe(0, 16)
        assert "read only" in repr(past)
    assert "read only" not in repr(one)


@pytest.mark.parametrize("n", [0, -1, 4])
def test_an_entry_that_is_not_there_has_no_past(n: int) -> None:
    one = host()
    one.process("a")
    one.process("b")

    with pytest.raises(IndexError, match=f"^there is no entry {n}: the journal has 3"):
        one.at(n)


def test_what_a_function_did_that_nobody_knows_cannot_be_repeated() -> None:
    one = host()
    one.gate.enter("mine", lambda: None)

    with pytest.raises(JournalError, match=r"^entry 2 \(mine\) was made by a function"):
        one.at(2)
    assert one.at(1).n == 1


@pytest.mark.parametrize("travel", [lambda one: one.at(1), lambda one: one.fork(1), lambda one: one.save(io.BytesIO())])
def test_a_live_machine_has_no_past_and_says_why(travel: Any) -> None:
    one = host()
    one.gate.world.live = "a bridged program has joined it"

    with pytest.raises(RuntimeError, match=r"a bridged program has joined it$"):
        travel(one)


def test_a_look_renumbers_nothing() -> None:
    one = host()
    one.probe(0)
    one.xray.tweak(0)

    assert one.n == 1 and len(one.journal) == 1


def test_past_machines_that_nobody_holds_give_their_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sevlab.replay.Litter.LIMIT", 16 << 20)  # of machines as small as these
    one = host()
    process = one.process("qemu")
    hva = process.mmap(4 << 20)
    process.write(hva, bytes([7]) * (4 << 20))
    gc.disable()  # what Python does of itself comes when it comes
    try:
        alive = [weakref.ref(one.at(one.n)) for _ in range(12)]
        kept = sum(past() is not None for past in alive)
    finally:
        gc.enable()

    assert kept <= 6


# ------------------------------------------------------------------ forks


def test_a_fork_is_live_and_the_two_go_their_own_ways() -> None:
    one = host()
    process = one.process("qemu")
    hva = process.mmap(4096)
    process.write(hva, b"common")
    twin = one.fork()
    assert state_of(twin) == state_of(one)
    twin.processes["qemu"].write(hva, b"theirs")

    assert (one.n, twin.n) == (4, 5)
    assert process.read(hva, 6) == b"common"
    assert state_of(twin.fork()) == state_of(twin)


def test_a_fork_from_the_middle_goes_on_from_there() -> None:
    one = host()
    one.process("a")
    one.process("b")
    twin = one.fork(2)
    twin.process("c")

    assert sorted(twin.processes) == ["a", "c"] and sorted(one.processes) == ["a", "b"]


def test_a_call_that_had_begun_can_be_stepped_in_the_fork() -> None:
    one = host()
    process = one.process("qemu")
    a, b = vms(process, 2, 1)
    call = begin_move(process, b, a)
    call.step()
    twin = one.fork()
    (theirs,) = twin.kernel.calls.begun

    assert (theirs.state, theirs.number) == (call.state, call.number)
    assert theirs.finish() == 0 and not call.done
    assert call.finish() == 0 and state_of(one)["slots"] == state_of(twin)["slots"]


def test_hosts_of_one_world_are_made_anew_together() -> None:
    one = host(seed=1)
    other = host(seed=2, trace=one.trace)
    for where, name in ((one, "a"), (other, "b"), (one, "c")):
        where.process(name).write(where.processes[name].mmap(4096), name.encode())
    twin = other.fork()

    assert [sorted(each.processes) for each in twin.world] == [["a", "c"], ["b"]]
    assert [state_of(each) for each in twin.world] == [state_of(each) for each in one.world]
    assert twin.seed == 2 and twin is twin.world[1]


def test_a_host_that_was_not_there_yet_has_no_past() -> None:
    one = host(seed=1)
    one.process("a")
    other = host(seed=2, trace=one.trace)

    with pytest.raises(IndexError, match=r"^this host was made by entry 3: after entry 2 it was not there yet$"):
        other.at(2)
    assert len(one.at(2).world) == 1


# ------------------------------------------------------------------ x-ray


def test_a_look_through_the_x_ray_is_repeated_in_the_fork_and_kept() -> None:
    one = host()
    one.process("a")
    one.xray.tweak(0x1000)
    one.process("b")
    twin = one.fork()

    assert twin.trace.rows() == one.trace.rows()
    assert [(look.n, look.what) for look in twin.journal.looks] == [(2, "tweak 0x1000")]


def test_a_look_into_the_past_is_one_of_the_present_s() -> None:
    one = host()
    one.process("a")
    one.at(1).xray.tweak(0)

    assert [row["what"] for row in one.trace.rows(XrayTaken)] == ["at 1: tweak 0x0"]
    assert [look.what for look in one.journal.looks] == ["at 1: tweak 0x0"]


# ------------------------------------------------------------------ files


def saved(one: Host) -> bytes:
    file = io.BytesIO()
    one.save(file)
    return file.getvalue()


def test_a_saved_machine_comes_back_as_it_was(tmp_path: Path) -> None:
    one, _ = launched()
    one.xray.tweak(0)
    one.save(tmp_path / "mine.sevlab")
    back = Host.load(tmp_path / "mine.sevlab", programs=[writes])

    assert state_of(back) == state_of(one)
    assert saved(back) == saved(one)


def test_a_missing_program_is_named_in_one_sentence() -> None:
    one, _ = launched()

    with pytest.raises(JournalError, match=r"^the journal runs the guest program writes \([0-9a-f]{12}\.\.\.\): give it, ") as told:
        Host.load(io.BytesIO(saved(one)))
    assert "\n" not in str(told.value)


def test_a_program_of_the_course_need_not_be_given() -> None:
    one = host()
    one.register(guest.hello)

    assert state_of(Host.load(io.BytesIO(saved(one)))) == state_of(one)


def test_a_kernel_of_one_s_own_must_be_given() -> None:
    mine = designs.replace(designs.LINUX_6_1, name="mine", quirks=designs.MENDED)
    one = host(design=mine)

    with pytest.raises(JournalError, match=r"a kernel of its own design, mine \(your own\): give it"):
        Host.load(io.BytesIO(saved(one)))
    assert Host.load(io.BytesIO(saved(one)), design=mine).design is mine


def test_a_chip_of_one_s_own_cannot_be_saved() -> None:
    from dataclasses import replace

    one = host(chip=replace(chips.ROME, max_asid=17))

    with pytest.raises(JournalError, match=r"^entry 1 .host.: a journal file cannot hold"):
        one.save(io.BytesIO())
    assert one.fork().chip.max_asid == 17


def test_a_structure_of_one_s_own_comes_back_as_so_many_bytes() -> None:
    class Mine(Wire):
        """A structure that no layout of ours knows."""

        value: u64 = 0  # 0x00

    one = host()
    one.process("qemu").put(Mine(value=0x1122334455667788))
    back = Host.load(io.BytesIO(saved(one)))

    assert bytes_of(back) == bytes_of(one)


# ------------------------------------------------------------------ threads


def test_entries_of_several_threads_give_the_bytes_of_their_serial_order() -> None:
    one = host()
    hvas = {name: one.process(name).mmap(1 << 16) for name in ("a", "b", "c")}

    def work(name: str) -> None:
        process = one.processes[name]
        kvm = process.open("/dev/kvm")
        for turn in range(40):
            process.write(hvas[name] + turn * 64, f"{name} {turn}".encode())
            process.ioctl(kvm, KVM_CREATE_VM, 0)

    threads = [threading.Thread(target=work, args=(name,)) for name in hvas]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert state_of(one.fork()) == state_of(one)


def test_a_watcher_may_look_and_act_and_travel() -> None:
    one = host(trace=Trace())
    found: list[int] = []

    def watcher(rows: list[dict[str, Any]]) -> None:
        if rows[-1]["n"] == 2:
            found.append(len(one.at(2).processes))
            one.process("from the watcher")

    one.trace.watch(watcher)
    one.process("first")

    assert found == [1] and sorted(one.processes) == ["first", "from the watcher"]


def test_a_look_from_another_thread_waits_for_the_entry_under_way() -> None:
    one = host()
    order: list[str] = []

    def slow() -> None:
        thread = threading.Thread(target=lambda: order.append(f"look {one.probe(0, 4)!r}"))
        thread.start()
        while not one.gate.world.baton.queue:
            pass
        order.append("entry")
        threads.append(thread)

    threads: list[threading.Thread] = []
    one.gate.enter("slow", slow)
    threads[0].join()

    assert order == ["entry", "look b'\\x00\\x00\\x00\\x00'"]


# ------------------------------------------------------------------ Ctrl-C


@guest.program
async def spins() -> None:
    while True:
        await pause()


def test_ctrl_c_ends_a_run_and_the_replay_ends_it_at_the_same_place() -> None:
    before = signal.getsignal(signal.SIGINT)
    one = host()
    vm = vmm.launch(one, program=spins)
    vm.finish()
    timer = threading.Timer(0.03, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            vm.run()
    finally:
        timer.join()
        signal.signal(signal.SIGINT, before)

    assert len(one.journal.interrupts) == 1
    assert state_of(one.fork()) == state_of(one)
    assert state_of(Host.load(io.BytesIO(saved(one)), programs=[spins])) == state_of(one)
