"""Laws over random scripts of system calls: two processes, a few VMs, anything in any order, and a kill at the end.

Whatever they do: no handler falls over, nothing is left behind, no slot is handed
out dirty, and no plaintext of a private page lies on the bus.
"""

from __future__ import annotations

from errno import errorcode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sev_rig import Rig

from sevlab.abi import kvm as abi
from sevlab.kvm import designs
from sevlab.kvm.asid import USED, AsidFreed, AsidsFlushed, AsidTaken

SECRET = b"0123456789abcdef" * 256  # a page, every block of it known
MENDED = designs.LINUX_6_1_FIXED

STEPS = [
    "vm", "init", "es_init", "start", "update", "measure", "finish", "status", "vcpu", "vmsa", "register", "unregister", "slot",
    "dbg", "mirror", "move", "close", "close_sev", "dup", "send", "fork", "kill", "run",
]  # fmt: skip
# Every script begins with an encrypted VM in one process and a plain one in each, or most would only be refused.
OPENING = [("vm", 0, 0, 0), ("init", 0, 0, 0), ("start", 0, 0, 0), ("vm", 0, 0, 0), ("vm", 1, 0, 0)]
Script = list[tuple[str, int, int, int]]
STEP = st.tuples(st.sampled_from(STEPS), st.integers(0, 1), st.integers(0, 3), st.integers(0, 3))
SCRIPTS = st.lists(STEP, max_size=30).map(lambda script: OPENING + script)
KERNELS = [designs.LINUX_5_13, designs.LINUX_6_1, designs.LINUX_6_12, designs.POSTED]


class Player:
    """Plays a script: small numbers choose among the descriptors that there are."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.processes = [rig.qemu, rig.kernel.process("other", memlock=16 << 20)]
        self.vms: list[tuple[int, int]] = []  # (which process, descriptor)
        self.vcpus: list[tuple[int, int]] = []
        self.sev = {0: rig.sev, 1: self.processes[1].open("/dev/sev")}
        self.loaded: set[int] = set()  # whose first page was loaded into a guest
        self.pages = {who: process.mmap(0x4000) for who, process in enumerate(self.processes)}
        for who, process in enumerate(self.processes):
            process.write(self.pages[who], SECRET + SECRET)

    def play(self, script: Script) -> list[str]:
        """The outcome of each step: 0 or an errno's name."""
        return [self.step(*step) for step in script]

    def step(self, what: str, who: int, one: int, two: int) -> str:
        try:
            getattr(self, f"do_{what}", self.command)(what, who, one, two)
        except OSError as no:
            return errorcode.get(no.errno or 0, str(no.errno))
        return "0"

    def pick(self, things: list[tuple[int, int]], number: int) -> tuple[int, int]:
        return things[number % len(things)] if things else (0, 999)

    def do_vm(self, what: str, who: int, one: int, two: int) -> None:
        process = self.processes[who]
        self.vms.append((who, process.ioctl(process.open("/dev/kvm"), abi.KVM_CREATE_VM, 0)))

    def command(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        page = self.pages[owner]
        ids: dict[str, tuple[int, Any]] = {
            "init": (abi.KVM_SEV_INIT, 0),
            "es_init": (abi.KVM_SEV_ES_INIT, 0),
            "start": (abi.KVM_SEV_LAUNCH_START, abi.kvm_sev_launch_start(policy=4 * (two & 1))),
            "update": (abi.KVM_SEV_LAUNCH_UPDATE_DATA, abi.kvm_sev_launch_update_data(page, 0x1000)),
            "measure": (abi.KVM_SEV_LAUNCH_MEASURE, abi.kvm_sev_launch_measure(page + 0x2000, 48)),
            "finish": (abi.KVM_SEV_LAUNCH_FINISH, 0),
            "status": (abi.KVM_SEV_GUEST_STATUS, abi.kvm_sev_guest_status()),
            "vmsa": (abi.KVM_SEV_LAUNCH_UPDATE_VMSA, 0),
            "dbg": (abi.KVM_SEV_DBG_ENCRYPT, abi.kvm_sev_dbg(page + 0x1000, page + 0x2000 + two, 16 + two)),
        }
        id, data = ids[what]
        self.rig.op(fd, id, data, sev_fd=self.sev[owner], process=self.processes[owner])
        if what == "update":
            self.loaded.add(owner)

    def do_vcpu(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        self.vcpus.append((owner, self.processes[owner].ioctl(fd, abi.KVM_CREATE_VCPU, two)))

    def do_run(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vcpus, one)
        self.processes[owner].ioctl(fd, abi.KVM_RUN)

    def do_register(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        nr = abi.KVM_MEMORY_ENCRYPT_REG_REGION if what == "register" else abi.KVM_MEMORY_ENCRYPT_UNREG_REGION
        self.processes[owner].ioctl(fd, nr, abi.kvm_enc_region(self.pages[owner], 0x1000 << two % 2))

    do_unregister = do_register

    def do_slot(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        region = abi.kvm_userspace_memory_region(two % 2, 0, 0x1000 * two, 0x4000 * (two & 1), self.pages[owner])
        self.processes[owner].ioctl(fd, abi.KVM_SET_USER_MEMORY_REGION, region)

    def do_mirror(self, what: str, who: int, one: int, two: int) -> None:
        (owner, fd), (other, source) = self.pick(self.vms, one), self.pick(self.vms, two)
        process = self.processes[owner]
        if other != owner:
            source = self.processes[other].send_fd(source, process)
        cap = abi.KVM_CAP_VM_COPY_ENC_CONTEXT_FROM if what == "mirror" else abi.KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM
        process.ioctl(fd, abi.KVM_ENABLE_CAP, abi.kvm_enable_cap(cap, args=(source, 0, 0, 0)))

    do_move = do_mirror

    def do_close(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms if two % 2 else self.vcpus, one)
        self.processes[owner].close(fd)

    def do_close_sev(self, what: str, who: int, one: int, two: int) -> None:
        self.processes[who].close(self.sev[who])

    def do_dup(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        self.processes[owner].dup2(fd, 20 + two)

    def do_send(self, what: str, who: int, one: int, two: int) -> None:
        owner, fd = self.pick(self.vms, one)
        self.processes[owner].send_fd(fd, self.processes[1 - owner])

    def do_fork(self, what: str, who: int, one: int, two: int) -> None:
        child = self.processes[who].fork()
        if two % 2:
            child.kill()

    def do_kill(self, what: str, who: int, one: int, two: int) -> None:
        if who and one == two:
            self.processes[who].kill()


def played(script: Script, design: designs.Design = MENDED, chip: str = "naples") -> tuple[Rig, Player, list[str]]:
    rig = Rig(design, chip)
    player = Player(rig)
    return rig, player, player.play(script)


@given(SCRIPTS)
def test_whatever_two_processes_do_nothing_is_left_when_they_are_gone(script: Script) -> None:
    rig, _, _ = played(script)
    rig.close()

    rig.check_balance()


@given(SCRIPTS, st.sampled_from(["naples", "rome", "milan"]))
def test_no_block_of_a_page_that_was_loaded_lies_on_the_bus_in_clear(script: Script, chip: str) -> None:
    _, player, _ = played(script, chip=chip)
    for owner in player.loaded:
        process = player.processes[owner]
        if not process.dead:
            assert b"0123456789abcdef" not in process.read(player.pages[owner], 0x1000)


@given(SCRIPTS)
def test_no_slot_is_handed_out_while_it_waits_for_a_flush(script: Script) -> None:
    rig, _, _ = played(script)
    dirty: set[int] = set()
    for row in rig.rows(AsidTaken, AsidFreed, AsidsFlushed):
        if row["kind"] == "AsidFreed":
            dirty.add(row["asid"])
        elif row["kind"] == "AsidsFlushed" and not row["errno"]:
            dirty.clear()
        elif row["kind"] == "AsidTaken":
            assert row["asid"] not in dirty


@given(SCRIPTS)
def test_a_used_slot_has_a_living_vm_and_a_firmware_guest_a_slot(script: Script) -> None:
    rig, _, _ = played(script)
    pool = rig.kernel.asids
    for asid, state in enumerate(pool.states):
        if state == USED:
            assert pool.owners[asid] in rig.kernel.vms
    slots = [guest.asid for guest in rig.psp.guests.values() if guest.asid]

    assert len(slots) == len(set(slots))
    assert all(pool.states[asid] == USED for asid in slots)


@given(SCRIPTS)
def test_the_same_script_has_the_same_outcome_and_the_same_trace(script: Script) -> None:
    (one, _, first), (two, _, second) = played(script), played(script)

    assert first == second
    assert one.rows() == two.rows()


@pytest.mark.parametrize("design", KERNELS, ids=lambda design: design.name)
def test_a_long_script_ends_on_every_kernel_with_errnos_only(design: designs.Design) -> None:
    script = [(STEPS[i * 7 % len(STEPS)], i % 2, i * 5 % 4, i * 3 % 4) for i in range(120)]
    _, _, outcomes = played(script, design)

    assert len(outcomes) == 120
    assert {"0", "EINVAL", "EBADF"} <= set(outcomes)
