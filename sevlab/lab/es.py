"""Lab `es`: what a sealed guest shows, and what the machine says to each question.

The guests, and what is done to them, are in `sealed`; both are here under one name. The questions
stand in the notebook, the answers here. An answer only looks.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple

from sevlab import vmm
from sevlab.abi import ghcb
from sevlab.abi.ghcb import OFFSETS, Ghcb
from sevlab.abi.kvm import KVM_GET_MP_STATE, kvm_mp_state
from sevlab.abi.vmsa import Vmsa, vmsa_page
from sevlab.guest.smp import PAGE, TRAMPOLINE
from sevlab.host import Host
from sevlab.hw.access import Fetched
from sevlab.kvm import vmgexit
from sevlab.kvm.ap import SipiDelivered
from sevlab.kvm.designs import Design
from sevlab.kvm.ghcb import Snapshot
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.ladders import Rungs
from sevlab.lab.prediction import Answer
from sevlab.lab.sealed import (
    POSTED_HOLD,
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
    exchange,
    false_call,
    foreign_table,
    impossible,
    parked,
    press,
    teller,
)
from sevlab.lab.show import Structure, Text, layout, table
from sevlab.lab.views import Picture, View, facts

__all__ = [
    "POSTED_HOLD", "SAID", "ask", "boss", "call", "classic", "classic_ap", "classically", "clerk", "courier", "disturb",
    "exchange", "false_call", "foreign_table", "impossible", "parked", "press", "teller",
]  # fmt: skip

STATES = {0: "RUNNABLE", 1: "UNINITIALIZED", 2: "INIT_RECEIVED", 3: "HALTED", 4: "SIPI_RECEIVED", 9: "AP_RESET_HOLD"}
PARTS = ("rax", "rbx", "rcx", "rdx", "rsp", "rip")
CODES = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")
ASKED = ("rax", "rcx", "rdx", "rbx", "xcr0")
AREA = ("cs", "efer", "cr0", "rflags", "rip", "rsp", "rax", "rcx", "rdx", "rbx")
AREA_NOTES = {"cs": "selector, attributes, limit, base", "rip": "the next instruction"}
# What the guest and KVM say to each other, and what becomes of processors: kinds of rows, for lanes(kinds=).
SPOKEN = frozenset({"VmExit", "VmgexitEnter", "VmgexitExit", "VmgexitMsrEnter", "Held", "JumpTable", "Logged"})
STARTED = frozenset({"Message", "MpState", "SipiDelivered", "Held"})
RULES = {
    "now.usage": "the usage field is not 0",
    "not all(map(now.valid, CODE_FIELDS))": "exit code, info1 or info2 lacks its bit",
    "row is None": "KVM knows no such exit code",
    "row.handler is None or not all(map(now.valid, row.needs(now)))": "a field that it needs lacks its bit",
}


# ------------------------------------------------------------------ what is shown


def registers(vm: Any) -> dict[str, str]:
    """Some registers of the first vCPU as KVM_GET_REGS gives them; its errno where it refuses."""
    found = attempt(vm.vcpus[0].registers)
    if isinstance(found, Refusal):
        return dict.fromkeys(PARTS, found.errno_name)
    return {name: f"{getattr(found[0], name):#x}" for name in PARTS}


def side_by_side(columns: Mapping[str, Mapping[str, str]]) -> Text:
    """The `registers` of several guests, a column each."""
    return table([{"register": name, **{title: found[name] for title, found in columns.items()}} for name in PARTS])


def measured(host: Host, eip: int) -> Vmsa:
    """The save area with which QEMU has a processor begin at `eip`, as it is measured."""
    return Vmsa.unpack(vmsa_page(eip, signature=host.chip.signature))


def save_area(host: Host, vm: Any, number: int = 0) -> Vmsa:
    """A vCPU's save area as its host reads it: of a plain guest the kernel's own copy, of a sealed one the bytes in memory."""
    vcpu = host.kernel.vm_of(vm.process, vm.fd).vcpus[number]
    return Vmsa.unpack(host.probe(sealed_area(host, vm, number), PAGE) if vcpu.vmsa_pfn else vcpu.vmsa_page())


def area(page: Vmsa, beside: Vmsa | None = None, names: tuple[str, str] = ("this", "beside"), title: str = "") -> Structure:
    """The registers of a save area that the lab speaks of, alone or with another area beside it.

    Beside another one the registers have no notes: what they are was said of the first.
    """
    title = title or ("save area" if beside is None else f"save area, {names[0]}")
    return layout(page, AREA_NOTES if beside is None else None, only=AREA, beside=beside, names=names, title=title)


def vouched(page: Ghcb, title: str = "GHCB") -> Structure:
    """A request as its host reads it: a dot where the guest vouches for a field, a ring where bytes were left over."""
    shown = tuple(name for name in (*CODES, *ASKED) if page.is_valid(name) or getattr(page, name))
    return layout(page, only=tuple(sorted(shown, key=OFFSETS.__getitem__)), title=title, writers=dict.fromkeys(shown, "G"))


def answered(page: Ghcb, request: Ghcb) -> Structure:
    """The page after the answer beside the request: who wrote each field last, and for which the host vouches now."""
    fields = sorted({*CODES, *ASKED} - {"xcr0"}, key=OFFSETS.__getitem__)
    writers = {name: "K" if page.is_valid(name) else "G" for name in fields}
    return layout(page, only=fields, beside=request, names=("answer", "request"), writers=writers, title="GHCB after the answer")


def checks(request: Ghcb, *kernels: Design) -> Rungs:
    """The checks that KVM makes of a request, in their order, and how they went on each of these kernels (at most two).

    The rules are those of `sevlab.kvm.vmgexit.validate`: each is one of its questions.
    """
    columns = []
    for design in kernels:
        vcpu: Any = SimpleNamespace(vm=SimpleNamespace(kernel=SimpleNamespace(design=design)))
        page = request.pack()
        now = Snapshot(request.ghcb_usage, int.from_bytes(page[OFFSETS["valid_bitmap"] :][:16], "little"), request.sw_exit_code,
                       request.sw_exit_info_1, request.sw_exit_info_2, request.sw_scratch, page)  # fmt: skip
        ends = "told to the guest" if design.ghcb.polite else "ends KVM_RUN, EINVAL"
        columns.append((f"{design.name}: {ends}", _rungs(vcpu, now)))
    return Rungs("VMGEXIT", columns)


def _rungs(vcpu: Any, now: Snapshot) -> list[dict[str, str]]:
    """The questions of `validate`, read from its source: passed, then the one that it answers with, then those never asked."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(vmgexit.validate)))
    values: dict[str, Any] = {"vcpu": vcpu, "now": now}
    found, asking = [], True
    for line in tree.body[0].body:  # type: ignore[attr-defined]
        if isinstance(line, ast.Assign) and asking:
            exec(compile(ast.Module([line], []), "<validate>", "exec"), vars(vmgexit), values)
        if not isinstance(line, ast.If):
            continue
        rule, code = ast.unparse(line.test), ast.unparse(line.body[0].value)  # type: ignore[attr-defined]
        refused = asking and bool(eval(rule, vars(vmgexit), values))
        state = "refused" if refused else "passed" if asking else "unasked"
        asking = asking and not refused
        short = f"info2 {getattr(ghcb, code)}"
        source = f"sev_es_validate_vmgexit: {rule}"
        row = {"words": RULES[rule], "code": short, "state": state, "by": "kernel", "letter": "K", "source": source, "fw": ""}
        found.append(row)
    return found


def area_lens(host: Host, vm: Any, number: int = 0) -> View:
    """The first 1,024 bytes of a sealed vCPU's save area: what the bus carries, and, as an x-ray, what it means."""
    n = 1024

    def hpa() -> int:
        return sealed_area(host, vm, number)

    def widget(made: Any) -> Any:
        asid = host.kernel.vm_of(vm.process, vm.fd).sev.asid
        eyes = [
            made.Eye("the bus", lambda at: at.dram.read(hpa(), n), "B", False, "", "carries"),
            made.Eye("the guest's key", lambda at: at.xray.read(asid, hpa(), n), "G", True, "", "reads"),
        ]
        lens = made.Lens(eyes, host=host, where=f"save area of vCPU {number} · hpa {hpa():#x}", facts=facts(host), title="lens")
        lens.got_select("", lens.key(0, 0x1F0 // 16))  # where RAX lies
        return lens

    def text() -> str:
        found = Picture("lens", [f"save area of vCPU {number}", f"hpa {hpa():#x}", *facts(host)])
        found.row("0x1f0, rax", host.dram.read(hpa() + 0x1F0, 16).hex(" "))
        found.row("0x170, rip", host.dram.read(hpa() + 0x170, 16).hex(" "))
        return str(found)

    return View("lens", widget, text)


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


def shown(found: Mapping[str, str]) -> Answer:
    """Scene 1: which registers of a plain SEV guest does its host read? `found`: its `registers`."""
    says = "all" if int(found["rip"], 16) and int(found["rsp"], 16) else "those of the request"
    because = "At each exit the processor leaves them in memory of the host's. SEV encrypts the guest's memory, and this never was."
    return Answer(says, side_by_side({"SEV": found}), because)


def where_it_runs(plain: Mapping[str, str], sealed: Mapping[str, str]) -> Answer:
    """Scene 2: what does KVM_GET_REGS say about a sealed vCPU on Linux 6.1? Given are the `registers` of both."""
    rip = sealed["rip"]
    says = "0, and nothing about where it runs" if rip == "0x0" else "0, and where it runs" if rip.startswith("0x") else rip
    because = "The kernel gives what it last knew: what the guest has shown it for its request, and zeros."
    return Answer(says, side_by_side({"SEV": plain, "SEV-ES": sealed}), because)


def refused_registers(found: Any) -> Answer:
    """Scene 2: and on 6.12, where VMs have types? `found`: the registers, or the refusal."""
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


def table_of(host: Host, vm: Any) -> tuple[int, bytes]:
    """Where the kernel thinks the jump table is, a gpa, and the four bytes that the VMM reads there."""
    gpa = int(host.kernel.vm_of(vm.process, vm.fd).sev.ap_jump_table)
    return gpa, vm.read(gpa, 4)


def table_kept(gpa: int, content: bytes) -> Answer:
    """Scene 6: what does the host know of the jump table? Given is its `table_of`."""
    plain = b"\0\0" + (TRAMPOLINE >> 4).to_bytes(2, "little")
    because = "One number is kept by the host, and given back on request. The table itself lies in private memory."
    says = "its address" if content != plain else "address and content"
    return Answer(says, f"kept by KVM: {gpa:#x}\nread there:  {content.hex(' ')}\nin clear it is {plain.hex(' ')}", because)


def review(rows: Sequence[Mapping[str, Any]]) -> Answer:
    """Scene 7: on which kernel are the APs still there after the VMM was replaced?"""
    good = [str(row["kernel"]) for row in rows if row["calls answered"]]
    because = "Only what user space can see can it carry over. A bool beside the vCPU stays behind; a state of its own travels."
    return Answer({0: "neither", 1: good[0] if good else "", 2: "both"}[len(good)], table(rows), because)


class Replaced(NamedTuple):
    """A machine on which the VMM was replaced under parked APs: the entry before, and what came of it."""

    host: Host
    before: int
    row: dict[str, Any]


def replaced(design: Any, processors: int = 3, seed: int = 7) -> Replaced:
    """Park APs, replace the VMM under the guest, call them: what the new VMM saw, and how many calls were answered."""
    host = Host("rome", design, seed=seed)
    vm = parked(host, processors)
    before = host.n
    moved = vmm.move(vm, to=host.process("qemu-2", memlock=1 << 30))
    seen = states(moved)
    return Replaced(host, before, {"kernel": design.name, "what the new VMM sees": seen[1], "calls answered": call(moved)})


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
