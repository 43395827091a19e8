"""Lab `es`: what a sealed guest shows, and what the machine says to each question.

The guests, and what is done to them, are in `sealed`; both are here under one name. The questions
stand in the notebook, the answers here. An answer only looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from sevlab import vmm
from sevlab.abi.ghcb import OFFSETS, VALID_BITS, Ghcb
from sevlab.abi.kvm import KVM_GET_MP_STATE, kvm_mp_state
from sevlab.abi.vmsa import Vmsa, vmsa_page
from sevlab.guest.smp import PAGE, TRAMPOLINE
from sevlab.host import Host
from sevlab.hw.access import Fetched
from sevlab.kvm import designs
from sevlab.kvm.ap import SipiDelivered
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.prediction import Answer
from sevlab.lab.sealed import (
    SAID,
    ask,
    boss,
    call,
    classic,
    classic_ap,
    classically,
    clerk,
    courier,
    disturb,
    false_call,
    foreign_table,
    impossible,
    parked,
    teller,
)
from sevlab.lab.show import Text, table

__all__ = [
    "SAID", "ask", "boss", "call", "classic", "classic_ap", "classically", "clerk", "courier", "disturb", "false_call",
    "foreign_table", "impossible", "parked", "teller",
]  # fmt: skip

STATES = {0: "RUNNABLE", 1: "UNINITIALIZED", 2: "INIT_RECEIVED", 3: "HALTED", 4: "SIPI_RECEIVED", 9: "AP_RESET_HOLD"}
# 6.1 with the hold of 2020: the two never met, and it says so.
POSTED_HOLD = replace(designs.LINUX_6_1, name="6.1, hold as posted", ap_boot=designs.HLT_LOOP_FLAG)
PARTS = ("rax", "rbx", "rcx", "rdx", "rsp", "rip")


# ------------------------------------------------------------------ what is shown


def registers(vm: Any) -> dict[str, str]:
    """Some registers of the first vCPU as KVM_GET_REGS gives them; its errno where it refuses."""
    found = attempt(vm.vcpus[0].registers)
    if isinstance(found, Refusal):
        return dict.fromkeys(PARTS, found.errno_name)
    return {name: f"{getattr(found[0], name):#x}" for name in PARTS}


def side_by_side(vms: Mapping[str, Any]) -> Text:
    """`registers` of several guests, a column each."""
    columns = {title: registers(vm) for title, vm in vms.items()}
    return table([{"register": name, **{title: found[name] for title, found in columns.items()}} for name in PARTS])


def measured(host: Host, eip: int) -> Text:
    """The registers with which QEMU has a processor begin at `eip`, as they are measured: those that are not zero."""
    page = Vmsa.unpack(vmsa_page(eip, signature=host.chip.signature))
    wanted = {"cs.base": page.cs.base, "rip": page.rip, "rdx": page.rdx, "rflags": page.rflags, "cr0": page.cr0, "efer": page.efer}
    return table([{"register": name, "value": f"{value:#x}"} for name, value in wanted.items()])


def vouched(page: Ghcb) -> Text:
    """What a guest vouches for in a GHCB: the fields whose valid bit is set, and what else lies there."""
    rows = []
    for name, bit in VALID_BITS.items():
        value, valid = getattr(page, name), page.is_valid(name)
        if valid or value:
            dot = "●" if valid else "·"
            rows.append({"field": name, "offset": f"{OFFSETS[name]:#x}", "bit": bit, "valid": dot, "value": f"{value:#x}"})
    return table(rows)


def sealed_area(host: Host, vm: Any, number: int = 0) -> int:
    """The hpa of a vCPU's save area: the kernel's own page, so that it is no secret where it lies."""
    return int(host.kernel.vm_of(vm.process, vm.fd).vcpus[number].vmsa_pfn) * PAGE


def states(vm: Any) -> list[str]:
    """The mp_state of every vCPU by name, as KVM_GET_MP_STATE says."""
    found = []
    for vcpu in vm.vcpus:
        state = kvm_mp_state()
        vcpu.ioctl(KVM_GET_MP_STATE, state)
        found.append(STATES.get(state.mp_state, str(state.mp_state)))
    return found


def observed(host: Host, vm: Any, count: int, at: int = 0x1F0) -> list[bytes]:
    """The 16 bytes of the sealed area at `at` after each of `count` runs, as the bus carries them."""
    found = []
    for _ in range(count):
        vm.run()
        found.append(host.probe(sealed_area(host, vm) + at, 16))
    return found


# ------------------------------------------------------------------ answers, part A


def shown(vm: Any) -> Answer:
    """Scene 1: which registers of a plain SEV guest does its host read?"""
    found = registers(vm)
    says = "all" if int(found["rip"], 16) and int(found["rsp"], 16) else "those of the request"
    because = "At each exit the processor leaves them in memory of the host's. SEV encrypts the guest's memory, and this never was."
    return Answer(says, side_by_side({"SEV": vm}), because)


def where_it_runs(plain: Any, sealed: Any) -> Answer:
    """Scene 2: what does KVM_GET_REGS say about a sealed vCPU on Linux 6.1?"""
    found = attempt(sealed.vcpus[0].registers)
    known = not isinstance(found, Refusal) and found[0].rip
    says = "0, and where it runs" if known else "0, and nothing about where it runs"
    says = found.errno_name if isinstance(found, Refusal) else says
    because = "The kernel gives what it last knew: what the guest has shown it for its request, and zeros."
    return Answer(says, side_by_side({"SEV": plain, "SEV-ES": sealed}), because)


def refused_registers(vm: Any) -> Answer:
    """Scene 2: and on 6.12, where VMs have types?"""
    found = attempt(vm.vcpus[0].registers)
    says = found.errno_name if isinstance(found, Refusal) else "0"
    return Answer(says, found if isinstance(found, Refusal) else "", "A refusal is a better answer than a wrong one.")


def tampered(last: Any) -> Answer:
    """Scene 2: one bit of the sealed area was flipped. What becomes of the guest?"""
    says = {"FAIL_ENTRY": "it is not entered", "HLT": "it runs on"}.get(last.name, last.name)
    because = "VMRUN compares a check value that the firmware keeps. Ordinary pages have none: a guest runs on, and reads noise."
    return Answer(says, last.name, because)


def missing(found: Any) -> Answer:
    """Scene 4: what becomes of a guest whose request lacks a bit?"""
    if isinstance(found, Refusal):
        return Answer("its run ends", found, "Until 5.15 a malformed request was the end of KVM_RUN, and of most guests.")
    because = "info1 = 2: not understood. info2 says why; 4 is: something is missing. The guest may ask again."
    return Answer("a polite code" if found[0] == 2 else "an answer", f"info1 = {found[0]}, info2 = {found[1]}", because)


# ------------------------------------------------------------------ answers, part B


def _starts(host: Host, vm: Any, name: str) -> Text:
    number = host.kernel.vm_of(vm.process, vm.fd).number
    vectors = sorted({row["vector"] for row in host.trace.rows(SipiDelivered) if row["vm"] == number})
    places = sorted({row["gpa"] for row in host.trace.rows(Fetched) if row["program"] == name})
    return table([{"SIPI vectors sent": ", ".join(map(hex, vectors)), "first fetch at gpa": ", ".join(map(hex, places))}])


def first_fetch(host: Host, name: str) -> int:
    """Where the program of this name was first fetched from."""
    return int(next(row["gpa"] for row in host.trace.rows(Fetched) if row["program"] == name))


def starts_at(host: Host, vm: Any, vector: int, name: str) -> Answer:
    """Scene 5: where does an AP start?"""
    at = first_fetch(host, name)
    because = {
        True: "The kernel sets CS:IP from the vector, as since 1995. It holds the registers, so it can.",
        False: "The first SIPI runs what was measured. Nobody can change a sealed CS:IP, the sender of a SIPI least of all.",
    }
    old = at == vector << 12
    return Answer("where the vector says" if old else "where it was measured", _starts(host, vm, name), because[old])


def parked_states(found: Sequence[str]) -> Answer:
    """Scene 6: in which state does KVM_GET_MP_STATE show a parked AP?"""
    because = "A state of its own, 9: halted until a SIPI comes. The BSP has executed HLT, which is something else."
    return Answer(found[1], "\n".join(f"vCPU {number}: {state}" for number, state in enumerate(found)), because)


def stray(before: Sequence[str], after: Sequence[str], said: int) -> Answer:
    """Scene 6: every AP was woken by an interrupt. What have they done?"""
    because = "Awake is not the same as called: info2 is 0, so it holds again. The guest decides, and not the wake-up."
    worked = list(before) != list(after) or said
    return Answer("their work" if worked else "parked again", f"before: {', '.join(before)}\nafter:  {', '.join(after)}", because)


def table_kept(host: Host, vm: Any) -> Answer:
    """Scene 6: what does the host know of the jump table?"""
    gpa = host.kernel.vm_of(vm.process, vm.fd).sev.ap_jump_table
    content = vm.read(gpa, 4)
    plain = b"\0\0" + (TRAMPOLINE >> 4).to_bytes(2, "little")
    because = "One number is kept by the host, and given back on request. The table itself lies in private memory."
    says = "its address" if content != plain else "address and content"
    return Answer(says, f"kept by KVM: {gpa:#x}\nread there:  {content.hex(' ')}\nin clear it is {plain.hex(' ')}", because)


def review(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Scene 7: on which kernel are the APs still there after the VMM was replaced?"""
    good = [str(row["kernel"]) for row in rows if row["calls answered"]]
    because = "Only what user space can see can it carry over. A bool beside the vCPU stays behind; a state of its own travels."
    return Answer({0: "neither", 1: good[0] if good else "", 2: "both"}[len(good)], table(rows), because)


def replaced(design: Any, processors: int = 3, seed: int = 7) -> dict[str, Any]:
    """Park APs, replace the VMM under the guest, call them: what the new VMM saw, and how many calls were answered."""
    with Host("rome", design, seed=seed) as host:
        vm = parked(host, processors)
        moved = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))
        seen = states(moved)
        return {"kernel": design.name, "what the new VMM sees": seen[1], "calls answered": call(moved)}


def caught(last: Any, dmesg: Sequence[str]) -> Answer:
    """Scene 8: what does a careful guest do about a lie?"""
    says = {"SYSTEM_EVENT": "it ends, and says why", "INTR": "nothing"}.get(last.name, last.name)
    because = "It checks what it alone can write: who was called, where it put the table, which exceptions a host may ask for."
    return Answer(says, dmesg[-1], because)


def never(said: int, found: Sequence[str]) -> Answer:
    """Scene 8: a host that never runs the AP. What does the guest notice?"""
    because = "It waits. There is no clock that a host could not have stopped as well. Availability is promised by nobody."
    evidence = "\n".join(f"vCPU {number}: {state}" for number, state in enumerate(found))
    return Answer("nothing" if not said else "the call is answered", evidence, because)


def returned(numbers: Sequence[int], found: Sequence[bytes]) -> Answer:
    """Scene 9: what does the bus say of a number in RAX, exit after exit?"""
    rows = [{"exit": str(turn), "rax, on the bus": block.hex()} for turn, block in enumerate(found, 1)]
    same = [found.index(block) for block in found] == [list(numbers).index(number) for number in numbers]
    because = "Same key, same address, same registers: same ciphertext. Sealed against change, and not against being recognised."
    return Answer("when one comes back" if same and len(set(found)) < len(found) else "nothing", table(rows), because)
