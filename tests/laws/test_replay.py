"""Law: whatever is done to a machine, its journal makes the same machine again: bytes, rows, key slots."""

from __future__ import annotations

import io
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from rigs_of_time import MOVE, begin_move, host, state_of, vms

from sevlab import Host
from sevlab.abi.kvm import (
    KVM_CREATE_VCPU,
    KVM_CREATE_VM,
    KVM_ENABLE_CAP,
    KVM_MEMORY_ENCRYPT_OP,
    KVM_MEMORY_ENCRYPT_REG_REGION,
    KVM_SEV_GUEST_STATUS,
    KVM_SEV_INIT,
    KVM_SEV_LAUNCH_START,
    kvm_enable_cap,
    kvm_enc_region,
    kvm_sev_cmd,
    kvm_sev_launch_start,
)
from sevlab.kvm.call import Call
from sevlab.kvm.process import Process

NAMES = ("a", "b", "c")
STEP = st.tuples(
    st.sampled_from(
        [
            *(
                "process",
                "open",
                "close",
                "dup",
                "send",
                "vm",
                "vcpu",
                "init",
                "launch",
                "status",
                "region",
                "move",
                "begin",
                "step",
            ),
            *("finish", "interrupt", "abandon", "write", "big", "read", "mmap", "munmap", "fork", "kill", "compact"),
            *("remap", "poke", "mailbox", "wrong", "look"),
        ]
    ),
    st.sampled_from(NAMES),
    st.integers(0, 7),
    st.integers(0, 7),
)


class Player:
    """Does one step of a script to a machine. What the machine refuses is refused; other errors are entries undone."""

    def __init__(self) -> None:
        self.host = host(cgroups={"/t": {"sev": 2}})
        self.calls: list[Call] = []
        self.hvas: dict[str, int] = {}
        for name, encrypted in (("a", 1), ("b", 0)):
            vms(self.host.process(name, memlock=16 << 12), 2, encrypted)  # descriptors 3 to 6

    def play(self, what: str, name: str, i: int, j: int) -> None:
        if what == "process":
            self._tried(lambda: self.host.process(name, cgroup="/t" if i % 2 else "/"))
        elif what == "mailbox":
            self._tried(lambda: self.host.mailbox(4 + i))
        elif what == "poke":
            self.host.dram.write(i << 12 | j << 4, bytes([i, j] * 8))
        elif what == "look":
            self.host.probe(i << 12, 16)
            self.host.xray.tweak(j << 12)
        elif what in ("step", "finish", "interrupt", "abandon"):
            if self.calls:
                self._tried(getattr(self.calls[i % len(self.calls)], what))
        elif name in self.host.processes:
            process = self.host.processes[name]
            self._tried(lambda: getattr(self, f"_{what}")(process, i + 3, j + 3))

    def _tried(self, act: Any) -> None:
        try:
            act()
        except (OSError, TypeError, ValueError):
            return

    def _open(self, process: Process, i: int, j: int) -> None:
        process.open(("/dev/kvm", "/dev/sev", "/dev/none")[i % 3])

    def _close(self, process: Process, i: int, j: int) -> None:
        process.close(i)

    def _dup(self, process: Process, i: int, j: int) -> None:
        process.dup2(i, j)

    def _send(self, process: Process, i: int, j: int) -> None:
        process.send_fd(i, self.host.processes.get(NAMES[j % 3], process))

    def _vm(self, process: Process, i: int, j: int) -> None:
        process.ioctl(process.open("/dev/kvm"), KVM_CREATE_VM, 0)

    def _vcpu(self, process: Process, i: int, j: int) -> None:
        process.ioctl(i, KVM_CREATE_VCPU, j - 3)

    def _init(self, process: Process, i: int, j: int) -> None:
        process.ioctl(i, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_INIT, sev_fd=process.open("/dev/sev")))

    def _launch(self, process: Process, i: int, j: int) -> None:
        start = process.put(kvm_sev_launch_start(policy=1))
        process.ioctl(i, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_LAUNCH_START, data=start, sev_fd=j))

    def _status(self, process: Process, i: int, j: int) -> None:
        process.ioctl(i, KVM_MEMORY_ENCRYPT_OP, kvm_sev_cmd(id=KVM_SEV_GUEST_STATUS, data=process.put(bytes(12)), sev_fd=j))

    def _region(self, process: Process, i: int, j: int) -> None:
        process.ioctl(i, KVM_MEMORY_ENCRYPT_REG_REGION, kvm_enc_region(addr=self._memory(process), size=j << 12))

    def _move(self, process: Process, i: int, j: int) -> None:
        process.ioctl(i, KVM_ENABLE_CAP, kvm_enable_cap(cap=MOVE, args=(j, 0, 0, 0)))

    def _begin(self, process: Process, i: int, j: int) -> None:
        self.calls.append(begin_move(process, i, j))

    def _memory(self, process: Process) -> int:
        if process.name not in self.hvas:
            self.hvas[process.name] = process.mmap(16 << 12)
        return self.hvas[process.name]

    def _mmap(self, process: Process, i: int, j: int) -> None:
        self.hvas[process.name] = process.mmap(i << 12, fd=process.memfd(j << 12) if i % 2 else -1)

    def _munmap(self, process: Process, i: int, j: int) -> None:
        process.munmap(self._memory(process) + (i << 12), j << 12)

    def _write(self, process: Process, i: int, j: int) -> None:
        process.write(self._memory(process) + (i << 8), bytes([j]) * 100)

    def _big(self, process: Process, i: int, j: int) -> None:
        process.write(self._memory(process) + i, bytes([i, j]) * 3000)

    def _read(self, process: Process, i: int, j: int) -> None:
        process.read(self._memory(process), i << j)

    def _fork(self, process: Process, i: int, j: int) -> None:
        process.fork(NAMES[i % 3] if j % 2 else None)

    def _kill(self, process: Process, i: int, j: int) -> None:
        process.kill()

    def _compact(self, process: Process, i: int, j: int) -> None:
        self.host.compact(process, self._memory(process), j << 12)

    def _remap(self, process: Process, i: int, j: int) -> None:
        self.host.act("npt.drop")(process, i, j, 1)

    def _wrong(self, process: Process, i: int, j: int) -> None:
        process.open()  # type: ignore[call-arg]


def same(one: Host, other: Host) -> None:
    """The two are one machine; an observer's looks, which are no entries, leave rows in one of them only."""
    ours, theirs = state_of(one), state_of(other)
    for state in (ours, theirs):
        state["rows"] = [{**row, "seq": 0} for row in state["rows"] if row["kind"] != "Probed"]
    for what in ours:
        assert ours[what] == theirs[what], what


@settings(max_examples=60)
@given(st.lists(STEP, max_size=40), st.data())
def test_law_a_journal_makes_the_same_machine_again(script: list[tuple[str, str, int, int]], data: st.DataObject) -> None:
    player = Player()
    one = player.host
    at = data.draw(st.integers(0, len(script)))
    for step in script[:at]:
        player.play(*step)
    n, middle = one.n, state_of(one)
    for step in script[at:]:
        player.play(*step)

    same(one, one.fork())
    past = one.at(n)
    assert (past.n, past.trace.now) == (n, middle["now"])
    for what in ("bytes", "slots", "guests", "pages", "processes", "cgroups", "dmesg"):
        assert state_of(past)[what] == middle[what], what


@settings(max_examples=25)
@given(st.lists(STEP, max_size=30))
def test_law_a_file_makes_the_same_machine_again(script: list[tuple[str, str, int, int]]) -> None:
    player = Player()
    one = player.host
    for step in script:
        player.play(*step)
    file = io.BytesIO()
    one.save(file)
    file.seek(0)

    same(one, Host.load(file))


@settings(max_examples=25)
@given(st.lists(STEP, max_size=25), st.lists(STEP, max_size=10))
def test_law_an_entry_undone_has_never_been(
    script: list[tuple[str, str, int, int]], after: list[tuple[str, str, int, int]]
) -> None:
    players = Player(), Player()
    plain, undone = players[0].host, players[1].host
    for step in script:
        players[0].play(*step)
        players[1].play(*step)
    process = next(iter(undone.processes.values()), None)
    if process is not None:
        players[1].play("wrong", process.name, 0, 0)
    same(plain, undone)
    for step in after:
        players[0].play(*step)
        players[1].play(*step)

    same(plain, undone)
