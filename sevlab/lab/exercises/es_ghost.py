"""Lab `es`, exercise `ghost`: is this vCPU parked? What a VMM can say of it with ioctls only, on two designs."""

from __future__ import annotations

from copy import copy
from typing import Any

from sevlab import vmm
from sevlab.abi.kvm import (
    KVM_GET_MP_STATE,
    KVM_GET_REGS,
    KVM_GET_SREGS,
    KVM_MP_STATE_AP_RESET_HOLD,
    KVM_MP_STATE_HALTED,
    KVM_SET_MP_STATE,
    kvm_mp_state,
)
from sevlab.crypto import Stream
from sevlab.guest.ghcb import cpuid_by_msr, open_ghcb
from sevlab.guest.smp import GHCBS, PAGE, RESET_PAGE, TOPOLOGY, hold, on_vc, start_others, x2apic_on
from sevlab.host import Host
from sevlab.hw.isa import hlt, load, out, program, store
from sevlab.kvm import designs
from sevlab.lab.grading import Diagnosis, Exercise, Finding, NotAttempted, Row, student
from sevlab.lab.sealed import POSTED_HOLD

ROLES = 0x9000  # private: what each processor does, a byte each
PARKED, HALTED, RUNNING = range(3)
WORDS = ("parked", "halted", "running")
ROUNDS = 60  # turns of the VMM's loop: long enough for all to be where they shall be
DESIGNS = (designs.LINUX_6_1, POSTED_HOLD)
SEEN = frozenset({"ioctl", "begin", "read", "write", "put", "get", "mmap", "munmap", "open", "close", "dup", "dup2", "name", "pid"})


@program(vc=on_vc)
async def ghost_ap() -> None:
    """What an AP does here: hold for a reset, halt, or work, as its byte says."""
    number = (await cpuid_by_msr(TOPOLOGY))[3]
    await open_ghcb(GHCBS + number * PAGE)
    await x2apic_on()
    role = (await load(ROLES + number, 1, c=True))[0]
    while True:
        if role == PARKED:
            await hold(GHCBS + number * PAGE)
        elif role == HALTED:
            await hlt()
        else:
            await out(0x80, b"\0")


GHOST_AP = ghost_ap.image().rstrip(b"\0")


@program(vc=on_vc)
async def ghost_bsp(roles: bytes) -> None:
    """Tell each AP its role, start all, and halt."""
    await open_ghcb(GHCBS)
    await x2apic_on()
    await store(RESET_PAGE, GHOST_AP.ljust(PAGE, b"\0"), c=True)
    await store(ROLES, roles, c=True)
    await start_others()
    while True:
        await hlt()


class Window:
    """A VMM's process as such a test may see it: its own system calls. Whoever looks further may, and it is noted."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.calls: list[int] = []
        self.looks: list[int] = []

    def ioctl(self, fd: int, nr: int, arg: Any = 0) -> Any:
        """One ioctl of the process."""
        self.calls.append(nr)
        return self._process.ioctl(fd, nr, arg)

    def __getattr__(self, name: str) -> Any:
        if name not in SEEN:
            self.looks.append(self._process.kernel.gate.n)
        return getattr(self._process, name)


class GhostCase:
    """A guest on Linux 6.1 (`vm`) and the same on the design as posted (`posted`): each AP is parked, halted or running."""

    gives = ("vm", "posted")

    def __init__(self, seed: int) -> None:
        drawn = Stream(seed).fork("exercise/es.ghost").draw("roles", 4)
        roles = [PARKED, HALTED, RUNNING, drawn[0] % 2]
        turn = 1 + drawn[1] % 3
        self.roles = [*roles[turn:], *roles[:turn]]
        self.vm, self.posted = (self._guest(seed, design) for design in DESIGNS)

    def _guest(self, seed: int, design: Any) -> Any:
        host = Host(design=design, seed=seed, memory=1 << 30)
        host.register(ghost_ap)
        args, count = (bytes([HALTED, *self.roles]),), len(self.roles) + 1
        vm = vmm.launch(host, program=ghost_bsp, args=args, policy=5, vcpus=count, irqchip=True)
        vm.finish()
        vm.run(rounds=ROUNDS)
        return vm

    def number(self, role: int) -> int:
        """The first AP of this role."""
        return self.roles.index(role) + 1


def _states(vm: Any) -> list[int]:
    found = []
    for vcpu in vm.vcpus:
        state = kvm_mp_state()
        vcpu.ioctl(KVM_GET_MP_STATE, state)
        found.append(state.mp_state)
    return found


def _right(design: Any, role: int) -> bool | None:
    """What can be known of a vCPU: where a hold has a state of its own all, else only of one that runs."""
    if design.ap_boot.states or role == RUNNING:
        return role == PARKED
    return None


def _ghost_check(case: GhostCase, answer: Any) -> Finding:
    rows, calls, looks = [], set(), []
    for vm, design in zip((case.vm, case.posted), DESIGNS, strict=True):
        window = Window(vm.process)
        theirs, before = copy(vm), _states(vm)
        theirs.process = window
        theirs.vcpus = [type(vcpu)(window, vcpu.index, vcpu.fd, vcpu.run_hva) for vcpu in vm.vcpus]
        for number, role in enumerate(case.roles, 1):
            you = student(answer, theirs, theirs.vcpus[number], answers=False)
            rows.append(Row(f"{design.name}: AP {number}, {WORDS[role]}", str(you), str(_right(design, role))))
        after = _states(vm)
        if after != before:
            rows.append(Row(f"{design.name}: states after your test", str(after), str(before)))
        calls |= set(window.calls)
        looks += window.looks
    if all(row.you == "None" for row in rows) and not calls:
        raise NotAttempted
    facts = {"calls": calls, "looks": looks, "right": all(row.ok for row in rows)}
    if looks:
        rows.append(Row("looks behind the descriptors", str(len(looks)), "0"))
    return Finding(rows, facts)


def _ghost_reference(case: GhostCase) -> Any:
    def parked(vm: Any, vcpu: Any) -> bool | None:
        state = kvm_mp_state()
        vcpu.ioctl(KVM_GET_MP_STATE, state)
        if state.mp_state != KVM_MP_STATE_HALTED:
            return bool(state.mp_state == KVM_MP_STATE_AP_RESET_HOLD)
        try:  # does this kernel know the state at all?
            vcpu.ioctl(KVM_SET_MP_STATE, kvm_mp_state(KVM_MP_STATE_AP_RESET_HOLD))
        except OSError:
            return None  # a hold is a HLT here, and a bool that nobody shows
        vcpu.ioctl(KVM_SET_MP_STATE, state)
        return False

    return parked


def _taken_for_parked(case: GhostCase, answer: Any, found: Finding) -> object:
    for number, role in enumerate(case.roles, 1):
        row = next((row for row in found.rows if row.what.startswith(f"{POSTED_HOLD.name}: AP {number},")), None)
        if role != RUNNING and row is not None and row.you == "True":
            return {"halted": case.number(HALTED), "parked": case.number(PARKED), "n": number}
    return False


def _changed(case: GhostCase, answer: Any, found: Finding) -> bool:
    return any(row.what.endswith("states after your test") for row in found.rows)


GHOST = Exercise(
    id="es.ghost",
    title="The AP nobody can see",
    minutes=8,
    level="core",
    kind="fresh",
    ask="You are the VMM. Write def parked(vm, vcpu), with ioctls only: True, False, or None for \"cannot be known\". It is run on "
    "guests whose APs are parked, halted or running, on Linux 6.1 and with the hold as posted.\n"
    "To try it: case.vm and case.posted, and vcpu is one of vm.vcpus.",
    setup=GhostCase,
    check=_ghost_check,
    reference=_ghost_reference,
    wants=lambda answer: "" if callable(answer) else "A function: def parked(vm, vcpu).",
    heads=("AP", "you", "can be known"),
    look="the states of scene 6",
    hints=(
        "vcpu.ioctl(KVM_GET_MP_STATE, state) fills in state = kvm_mp_state(); both are in sevlab.abi.kvm.",
        "HALTED means something else on a kernel that has a state for the hold. Which call tells the two kernels apart?",
        "KVM_SET_MP_STATE refuses a state that the kernel does not know. Leave the vCPU as you have found it.",
    ),
    diagnoses=(
        Diagnosis(
            "xray",
            lambda case, answer, found: found.facts["right"] and bool(found.facts["looks"]) and {"k": found.facts["looks"][0]},
            "Right, and no VMM has those eyes. Entry {k}.",
        ),
        Diagnosis(
            "registers",
            lambda case, answer, found: bool({KVM_GET_REGS, KVM_GET_SREGS} & found.facts["calls"]),
            "rip = 0 for all of them: a sealed vCPU shows what the kernel last knew, which is nothing.",
        ),
        Diagnosis(
            "halted",
            _taken_for_parked,
            "AP {halted} executed HLT, AP {parked} waits in a hold, both say HALTED. You called AP {n} parked.",
        ),
        Diagnosis(
            "changed",
            _changed,
            "Your test has changed what it looks at: put the state back that was there.",
        ),
        Diagnosis(
            "shy",
            lambda case, answer, found: any(row.you == "None" and not row.ok for row in found.rows),
            "There it can be known: Linux 6.1 has a state for the hold, 9, and one that runs is RUNNABLE on any kernel.",
        ),
    ),
)
