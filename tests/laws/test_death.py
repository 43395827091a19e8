"""kill -9 at any point: inside every system call that can be under way, at each of its steps, alone and against another.

Whoever dies, the other process goes on, no lock and no mark stays held, and when both are gone nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sev_rig import Rig

from sevlab.abi import kvm as abi
from sevlab.hw.isa import hlt, load, program
from sevlab.kvm import designs
from sevlab.kvm.call import Call
from sevlab.kvm.process import Process

PAGE = 0x1000
TOP = 0xFFFF_F000
MENDED = designs.LINUX_6_1_FIXED
KINDS = ("plain", "sev", "es")
SIDES = ("mine", "theirs")


@program
async def rests() -> None:
    while True:
        await hlt()


@program
async def spins() -> None:
    while True:
        await load(PAGE, 8)


class Party:
    """One VMM with a guest of its own (`kind`), two ordinary VMs beside it, and descriptors of the peer's two VMs."""

    def __init__(self, rig: Rig, process: Process, kind: str, code: Any, memory: int) -> None:
        self.rig, self.process, self.memory = rig, process, memory
        self.es = kind == "es"
        self.sev = rig.sev if process is rig.qemu else process.open("/dev/sev")
        kvm = rig.kvm if process is rig.qemu else process.open("/dev/kvm")
        self.guest, self.spare, self.empty = (process.ioctl(kvm, abi.KVM_CREATE_VM, 0) for _ in range(3))
        if kind != "plain":
            rig.op(self.guest, abi.KVM_SEV_ES_INIT if self.es else abi.KVM_SEV_INIT, sev_fd=self.sev, process=process)
            start = abi.kvm_sev_launch_start(policy=4 * self.es)
            rig.op(self.guest, abi.KVM_SEV_LAUNCH_START, start, sev_fd=self.sev, process=process)
        if self.es:  # its vCPUs wait in the kernel, and the spare VM has as many to take them over
            process.ioctl(self.guest, abi.KVM_CREATE_IRQCHIP)
        self.top = process.mmap(PAGE)
        process.write(self.top, rig.soc.programs.add(code))
        for number, (gpa, size, hva) in enumerate(((0, 4 * PAGE, memory), (TOP, PAGE, self.top))):
            slot = abi.kvm_userspace_memory_region(number, 0, gpa, size, hva)
            process.ioctl(self.guest, abi.KVM_SET_USER_MEMORY_REGION, slot)
        self.vcpus = [process.ioctl(self.guest, abi.KVM_CREATE_VCPU, number) for number in range(2)]
        self.spares = [process.ioctl(self.spare, abi.KVM_CREATE_VCPU, number) for number in range(2)] if self.es else []
        if kind != "plain":
            process.ioctl(self.guest, abi.KVM_MEMORY_ENCRYPT_REG_REGION, abi.kvm_enc_region(memory, 2 * PAGE))
            data = abi.kvm_sev_launch_update_data(self.top, PAGE)
            rig.op(self.guest, abi.KVM_SEV_LAUNCH_UPDATE_DATA, data, sev_fd=self.sev, process=process)
        if self.es:
            rig.op(self.guest, abi.KVM_SEV_LAUNCH_UPDATE_VMSA, sev_fd=self.sev, process=process)
        self.theirs: tuple[int, int] = (0, 0)  # the peer's guest, and its spare VM

    def meet(self, peer: Party) -> None:
        self.theirs = peer.process.send_fd(peer.guest, self.process), peer.process.send_fd(peer.spare, self.process)

    def begin(self, what: str) -> Call:
        fd, nr, arg = CALLS[what](self)
        return self.process.begin(fd, nr, arg)

    def cmd(self, id: int, data: Any = 0, vm: int | None = None) -> tuple[int, int, Any]:
        at = self.process.put(data) if data else 0
        return self.guest if vm is None else vm, abi.KVM_MEMORY_ENCRYPT_OP, abi.kvm_sev_cmd(id=id, data=at, sev_fd=self.sev)

    def take(self, cap: int, vm: int, source: int) -> tuple[int, int, Any]:
        return vm, abi.KVM_ENABLE_CAP, abi.kvm_enable_cap(cap, args=(source, 0, 0, 0))

    def slot(self, size: int) -> abi.kvm_userspace_memory_region:
        return abi.kvm_userspace_memory_region(0, 0, 0, size, self.memory)


COPY, MOVE = abi.KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, abi.KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM
CALLS: dict[str, Callable[[Party], tuple[int, int, Any]]] = {
    "INIT": lambda me: me.cmd(abi.KVM_SEV_INIT, vm=me.empty),
    "ES_INIT": lambda me: me.cmd(abi.KVM_SEV_ES_INIT, vm=me.empty),
    "LAUNCH_START": lambda me: me.cmd(abi.KVM_SEV_LAUNCH_START, abi.kvm_sev_launch_start()),
    "LAUNCH_UPDATE_DATA": lambda me: me.cmd(abi.KVM_SEV_LAUNCH_UPDATE_DATA, abi.kvm_sev_launch_update_data(me.memory, 4 * PAGE)),
    "LAUNCH_UPDATE_VMSA": lambda me: me.cmd(abi.KVM_SEV_LAUNCH_UPDATE_VMSA),
    "LAUNCH_MEASURE": lambda me: me.cmd(abi.KVM_SEV_LAUNCH_MEASURE, abi.kvm_sev_launch_measure(me.memory, 48)),
    "LAUNCH_FINISH": lambda me: me.cmd(abi.KVM_SEV_LAUNCH_FINISH),
    "GUEST_STATUS": lambda me: me.cmd(abi.KVM_SEV_GUEST_STATUS, abi.kvm_sev_guest_status()),
    "DBG_DECRYPT": lambda me: me.cmd(abi.KVM_SEV_DBG_DECRYPT, abi.kvm_sev_dbg(me.memory + 8, me.memory + 2 * PAGE, PAGE)),
    "DBG_ENCRYPT": lambda me: me.cmd(abi.KVM_SEV_DBG_ENCRYPT, abi.kvm_sev_dbg(me.memory + 8, me.memory + 2 * PAGE, PAGE)),
    "REG_REGION": lambda me: (me.guest, abi.KVM_MEMORY_ENCRYPT_REG_REGION, abi.kvm_enc_region(me.memory, 4 * PAGE)),
    "UNREG_REGION": lambda me: (me.guest, abi.KVM_MEMORY_ENCRYPT_UNREG_REGION, abi.kvm_enc_region(me.memory, 2 * PAGE)),
    "COPY": lambda me: me.take(COPY, me.empty, me.theirs[0]),
    "COPY of one's own": lambda me: me.take(COPY, me.empty, me.guest),
    "MOVE": lambda me: me.take(MOVE, me.spare, me.theirs[0]),
    "MOVE of one's own": lambda me: me.take(MOVE, me.spare, me.guest),
    "MOVE onto a VM in use": lambda me: me.take(MOVE, me.guest, me.theirs[0]),
    "MOVE of a mirror, if it is one": lambda me: me.take(MOVE, me.spare, me.empty),
    "CREATE_VM": lambda me: (me.process.open("/dev/kvm"), abi.KVM_CREATE_VM, 0),
    "CREATE_VCPU": lambda me: (me.guest, abi.KVM_CREATE_VCPU, 5),
    "CREATE_IRQCHIP": lambda me: (me.empty, abi.KVM_CREATE_IRQCHIP, 0),
    "a slot goes": lambda me: (me.guest, abi.KVM_SET_USER_MEMORY_REGION, me.slot(0)),
    "KVM_RUN": lambda me: (me.vcpus[0], abi.KVM_RUN, 0),
    "KVM_RUN of the other vCPU": lambda me: (me.vcpus[1], abi.KVM_RUN, 0),
    "GET_REGS": lambda me: (me.vcpus[0], abi.KVM_GET_REGS, abi.kvm_regs()),
}


class World:
    """Two such parties on one host, in cgroups of their own; calls that have begun; and the balance at the end."""

    def __init__(self, kind: str, code: Any = rests) -> None:
        self.rig = Rig(MENDED, cgroups={"/a": {}, "/b": {}}, cgroup="/a")
        other = self.rig.kernel.process("other", cgroup="/b", memlock=16 << 20)
        self.parties = [Party(self.rig, process, kind, code, process.mmap(4 * PAGE)) for process in (self.rig.qemu, other)]
        for me, peer in (self.parties, self.parties[::-1]):
            me.meet(peer)
        self.vms = list(self.rig.kernel.vms.values())
        self.calls: list[Call] = []

    def begin(self, who: int, what: str) -> None:
        self.calls.append(self.parties[who].begin(what))

    def step(self, which: int) -> bool:
        """One step of a call, if it can make one."""
        call = self.calls[which]
        if call.state in ("done", "interruptible", "killable", "uninterruptible"):
            return False
        call.step()
        return True

    def kill(self, who: int) -> None:
        """SIGKILL: at once every call of the process is over, but those at a lock that no death ends; and so is the process."""
        process = self.parties[who].process
        process.kill()
        left = [call.state for call in self.calls if call.task is process.task and not call.done]
        assert set(left) <= {"uninterruptible"}
        assert (process.name in self.rig.kernel.processes) == bool(left)

    def end(self) -> None:
        """Finish what is under way, see that nobody holds anything, then let both go and look at the balance."""
        for call in self.calls:
            call.interrupt()  # a guest that never leaves, a vCPU that nobody wakes
        for call in self.calls:
            if not call.done:
                try:
                    call.finish()
                except OSError:
                    call.abandon()
        for call in self.calls:  # one may have waited for a younger one
            if not call.done:
                call.abandon()
        assert all(call.done for call in self.calls) and not self.rig.kernel.calls.begun
        for vm in self.vms:
            held = [lock for lock in (vm.lock, vm.migration_in_progress, *(vcpu.mutex for vcpu in vm.vcpus)) if lock.holder]
            assert not held
        dead = [party.process for party in self.parties if party.process.dead]
        assert not any(process.name in self.rig.kernel.processes for process in dead)
        for party in self.parties:
            if not party.process.dead:  # whoever is left can still ask for everything
                party.process.ioctl(party.process.ioctl(party.process.open("/dev/kvm"), abi.KVM_CREATE_VM, 0), abi.KVM_CREATE_VCPU)
        self.rig.close()
        self.rig.check_balance()


def steps_of(kind: str, what: str, code: Any) -> int:
    """How many steps a call makes until it is done or waits; a few of a guest that never leaves."""
    world, count, most = World(kind, code), 0, 4 if code is spins else 99
    world.begin(0, what)
    while count < most and world.step(0):
        count += 1
    world.end()
    return count


@pytest.mark.parametrize("victim", SIDES)
@pytest.mark.parametrize("what", CALLS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_process_killed_at_any_step_of_any_call_leaves_nothing(kind: str, what: str, victim: str) -> None:
    for code in (spins, rests) if what.startswith("KVM_RUN") else (rests,):
        for point in range(steps_of(kind, what, code) + 1):
            world = World(kind, code)
            world.begin(0, what)
            for _ in range(point):
                world.step(0)
            world.kill(SIDES.index(victim))
            world.end()


@settings(max_examples=80)
@given(
    st.sampled_from(KINDS),
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from(sorted(CALLS))), min_size=2, max_size=4),
    st.lists(st.integers(0, 3), max_size=24),
    st.integers(0, 1),
    st.booleans(),
)
def test_law_calls_of_two_processes_and_a_kill_at_any_point_of_any_schedule(
    kind: str, calls: list[tuple[int, str]], schedule: list[int], victim: int, both: bool
) -> None:
    world = World(kind, spins)
    for who, what in calls:
        world.begin(who, what)
    for which in schedule:
        world.step(which % len(calls))
    for who in (victim, 1 - victim) if both else (victim,):
        world.kill(who)

    world.end()
