"""Lab `move`: guests that are moved, and what the machine says to each question.

Answers (what a card reveals) only look. What changes a machine says so. The two tenants of scenes 4 and 5 are in
`two_tenants`, the two callers of scene 6 in `collision`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sevlab import guest, vmm
from sevlab.abi import boot
from sevlab.abi.kvm import (
    KVM_CHECK_EXTENSION,
    KVM_CREATE_VCPU,
    KVM_ENABLE_CAP,
    KVM_GET_REGS,
    KVM_RUN,
    kvm_regs,
)
from sevlab.guest.programs import SHARED_GPA
from sevlab.host import Host
from sevlab.hw.clock import COSTS
from sevlab.kvm import designs
from sevlab.kvm.process import Process
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.collision import move_from, outcomes
from sevlab.lab.prediction import Answer
from sevlab.lab.show import Text, table
from sevlab.lab.two_tenants import Tenants, pair
from sevlab.psp.firmware import CommandDone
from sevlab.schedules import Explored
from sevlab.vmm import steps
from sevlab.vmm.mirror import bare

V11 = designs.replace(designs.LINUX_6_1, name="linux-6.1 with V11", move=designs.MOVE_V11)
MEMORY = boot.MEMORY
CALLS = frozenset({"Ioctl", "ContextMoved", "VmExit"})  # scene 1: what a picture shall show of the trace
PACKET = 16 << 10  # bytes that SEND_UPDATE takes at a time


def count(vm: vmm.Vm) -> int:
    """What the counting guest last wrote to the page that it shares."""
    return int.from_bytes(vm.read(SHARED_GPA, 8), "little")


def counts(vm: vmm.Vm, times: int) -> list[int]:
    """Wake the counting guest so many times, and note what it says. Changes the machine."""
    said = []
    for _ in range(times):
        vm.run()
        said.append(count(vm))
    return said


# ------------------------------------------------------------- scene 2: what it costs


def _seconds(ns: int) -> str:
    return f"{ns / 1e9:,.1f} s"


def cost(size: int, seed: int = 7) -> dict[str, Any]:
    """A guest of `size` bytes of memory, moved: what it took, and what the firmware's own packets would take. On a "
    "machine of its own."""
    with Host(seed=seed, memory=2 * size + (1 << 30)) as host:
        old = vmm.launch(
            host, program=guest.counter, shared=True, memory=MEMORY, process=host.process("old", memlock=2 * size + MEMORY)
        )
        if size > MEMORY:
            steps.add_memory(old, boot.TOP, size - MEMORY)
        old.finish()
        old.run()
        frame, since = host.hpa(old.process, old.hva(SHARED_GPA)), host.trace.seq
        new = vmm.move(old, to=host.process("new", memlock=2 * size + MEMORY))
        asked = host.trace.rows(CommandDone, since=since)
        moved = host.hpa(new.process, new.hva(SHARED_GPA)) != frame
        packets = -(-size // PACKET)
        each = COSTS["SEND_UPDATE_DATA"]
        return {
            "memory": f"{size >> 20:,} MiB",
            "pages pinned": f"{host.pages.pinned():,}",
            "frames changed": "yes" if moved else "no",
            "firmware commands": len(asked),
            "by packets": _seconds(packets * (each.ns + (each.ns_per_kib * PACKET >> 10))),
        }


# ------------------------------------------------------------- scene 3: the dead source


def dead_calls(old: vmm.Vm) -> Text:
    """Calls on descriptors of a VM whose context was moved away, and one that names it; each with its answer.

    Makes an empty VM in the same process for the last two, and closes it again.
    """
    process, rows = old.process, []

    def call(on: str, what: str, function: Callable[[], Any]) -> None:
        found = attempt(function)
        rows.append({"descriptor": on, "call": what, "answer": found.errno_name if isinstance(found, Refusal) else "0"})

    other = bare(old, process)
    try:
        call("the VM's", "CHECK_EXTENSION", lambda: process.ioctl(old.fd, KVM_CHECK_EXTENSION, 206))
        call("the VM's", "CREATE_VCPU", lambda: process.ioctl(old.fd, KVM_CREATE_VCPU, 7))
        call("the VM's", "GUEST_STATUS", old.status)
        call("its vCPU's", "GET_REGS", lambda: old.vcpus[0].ioctl(KVM_GET_REGS, kvm_regs()))
        call("its vCPU's", "RUN", lambda: old.vcpus[0].ioctl(KVM_RUN))
        call("the VM's", "MOVE from another", lambda: _enable(old.fd, other.fd, process))
        call("another VM's", "MOVE from it", lambda: _enable(other.fd, old.fd, process))
    finally:
        other.close()
    return table(rows)


def _enable(dst: int, src: int, process: Process) -> int:
    return process.ioctl(dst, KVM_ENABLE_CAP, move_from(src))


# ------------------------------------------------------------- the answers


def goes_on(asked: Any, ended: Any) -> Answer:
    """Scene 1: does the count go on after the ioctl alone?

    `asked`: the registers of the old VM's vCPU, or the refusal; `ended`: how the new VM's vCPU came back.
    """
    says = "yes" if not isinstance(ended, Refusal) and ended.name == "HLT" else "no"
    evidence = f"old VM   {asked}\n\nnew VM   {ended}"
    because = (
        "The key, the slot and the pins are there. Memory slots and registers never were the context's: they stayed with a VM "
        "that no longer answers, and nobody can fetch them."
    )
    return Answer(says, evidence, because)


def gap(before: Sequence[int], after: Sequence[int]) -> Answer:
    """Scene 2: what does the guest say after its VMM was killed?"""
    says = f"it goes on with {after[0]}" if after[0] == before[-1] + 1 else f"it begins again with {after[0]}"
    because = (
        "Nothing of the guest was ever in the process that died: memory is in two processes, the vCPU's registers were carried."
    )
    return Answer(says, f"{list(before)} then {list(after)}", because)


def longer(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Scene 2: how many firmware commands does the larger one take?"""
    says = "none" if not rows[-1]["firmware commands"] else str(rows[-1]["firmware commands"])
    because = (
        "A few fields of two structures change hands. By the firmware's own packets, which go to another machine too, "
        "it is minutes; "
        "the guest of 16 GiB would be away for that long."
    )
    return Answer(says, table(rows), because)


def refused_with(calls: Text) -> Answer:
    """Scene 3: what is answered where the dead VM is named as a source?"""
    says = calls.text.splitlines()[-1].split()[-1]
    because = (
        "On its own descriptors the dead VM says EIO. Named by another it is looked at from outside: a VM that is no "
        "SEV guest, EINVAL."
    )
    return Answer(says, calls, because)


def sum_unchanged(two: Tenants, moved: Any) -> Answer:
    """Scene 4: what does MOVE into a full tenant say?"""
    says = moved.errno_name if isinstance(moved, Refusal) else "it succeeds"
    because = (
        "First the new tenant is charged, then the old one released: at the moment of asking /b is full. The other order "
        "could fail half-way: what /a gave up, a third may have taken, and then nobody pays."
    )
    return Answer(says, f"{moved}\n\nmisc.current: {pair(two.current)}", because)


def purse(rows: Sequence[Mapping[str, str]]) -> Answer:
    """Scene 5: who pays on V11 when tenant a's last process is gone?"""
    says = {"a 1, b 0": "a", "a 0, b 1": "b", "a 0, b 0": "nobody"}[rows[0]["old process killed"]]
    because = (
        "The patch copies the pointer to the cgroup. Nothing is lost: when the guest dies, the right tenant is "
        "credited. Until then a, "
        "of whom nothing is left on the machine, pays for b's guest."
    )
    return Answer(says, table(rows), because)


def limit(rows: Sequence[Mapping[str, str]]) -> Answer:
    """Scene 5: what does V11 say when tenant b is full?"""
    says = {"0": "it succeeds"}.get(rows[0]["MOVE says"], rows[0]["MOVE says"])
    return Answer(says, table(rows), "Nobody is charged, so nobody's limit is asked: b may have one guest, and has two.")


def zombie(rows: Sequence[Mapping[str, str]]) -> Answer:
    """Scene 5: what does V11's source say to GET_REGS?"""
    answer = rows[0]["GET_REGS after"]
    because = (
        "The registers look like those of a new processor, the control block behind them is a used one's. The reviewer "
        "had proposed "
        "that reset himself; now he calls it a frankenstate, which really should just die. So the merged source is dead."
    )
    return Answer("it answers" if answer.startswith("RSP") else answer, table(rows), because)


def hangs(found: Explored) -> Answer:
    """Scene 6: do the naive locks hang?"""
    bad = sum(tile.schedules for tile in found.deadlocks)
    says = "never" if not bad else "always" if bad == found.schedules else "in some schedules"
    because = (
        "Each has its own VM's lock and wants the other's. Which schedule comes is nobody's choice; a program that asks"
        " often enough gets one."
    )
    return Answer(says, outcomes(found), because)


def flags(found: Explored) -> Answer:
    """Scene 6: and with flags that are tried?"""
    says = "in some schedules" if found.deadlocks else "never"
    because = (
        "The flags come first and are tried, not waited for: whoever finds one set gives back what it has, and says "
        "EBUSY. Neither call could "
        "have succeeded (both VMs are guests already); what is prevented is a program that hangs the kernel."
    )
    return Answer(says, outcomes(found), because)


def looked_up(vm: vmm.Vm) -> Answer:
    """Scene 7: which descriptor did the kernel look up?"""
    number, name = vm.process.kernel.vm_of(vm.process, vm.fd).sev.fd, vm.process.name
    because = (
        "LAUNCH_START keeps the number of /dev/sev in the VM. The move carries slot, handle, pins and regions, and "
        "forgets that number. "
        "A new VM's is 0."
    )
    numbers = [("the kernel's sev.fd of the VM", number), (f"/dev/sev in {name}", vm.sev)]
    return Answer(str(number), table([{"descriptor": what, "number": at} for what, at in numbers]), because)
