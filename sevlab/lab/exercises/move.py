"""Lab `move`: its exercises, in the order of the lab, and the machines that they are about."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab import guest, vmm
from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_ENABLE_CAP,
    KVM_SEV_LAUNCH_START,
    kvm_enable_cap,
)
from sevlab.abi.sev import GuestState
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.kvm.sev_commands import SevCommand
from sevlab.kvm.sev_dev import SevDev
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.move import V11
from sevlab.vmm import steps

# ------------------------------------------------------------- move.errno

MOVES = (
    "x <- x",
    "plain <- plain",
    "SEV <- SEV",
    "plain with 2 vCPUs <- SEV with 4",
    "dead <- SEV",
    "plain <- dead",
    "plain <- closed fd",
    "plain <- /dev/sev",
    "plain <- mirror",
    "mirror <- SEV",
    "plain <- SEV without LAUNCH_START",
    "plain <- SEV, cgroup full",
)


class ErrnoCase:
    """Twelve moves, destination <- source, in an order of the seed's: `moves` are their names."""

    gives = ("host", "moves")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30, cgroups={"/full": {"sev": 0}})
        order = Stream(seed).fork("exercise/move.errno").draw("order", len(MOVES))
        self.moves = [name for _, name in sorted(zip(order, MOVES, strict=True))]
        self.told = "; ".join(self.moves)

    def run(self) -> dict[str, str]:
        """What each is answered, on machines of their own."""
        return {name: _answered(name) for name in self.moves}


class _Bench:
    """One machine for one move: VMs of every kind, made when they are asked for."""

    def __init__(self, host: Host) -> None:
        self.host, self.process = host, host.process("vmm", cgroup="/", memlock=1 << 30)

    def plain(self, vcpus: int = 0) -> vmm.Vm:
        vm = steps.create_vm(self.process, es=False, plain=True)
        steps.add_vcpus(vm, vcpus)
        return vm

    def sev(self, vcpus: int = 0, *, started: bool = True) -> vmm.Vm:
        vm = steps.create_vm(self.process)
        steps.add_vcpus(vm, vcpus)
        if started:
            steps.launch_start(vm, 1)
        return vm

    def mirror(self) -> vmm.Vm:
        vm = self.plain()
        _enable(vm, self.sev().fd, KVM_CAP_VM_COPY_ENC_CONTEXT_FROM)
        return vm

    def dead(self) -> vmm.Vm:
        vm = self.sev()
        _enable(self.plain(), vm.fd)
        return vm


def _enable(dst: vmm.Vm, src: int, cap: int = KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM) -> int:
    return dst.process.ioctl(dst.fd, KVM_ENABLE_CAP, kvm_enable_cap(cap, args=(src, 0, 0, 0)))


def _answered(name: str) -> str:
    with Host(seed=7, memory=1 << 30, cgroups={"/full": {"sev": 0}}) as host:
        bench = _Bench(host)
        make: dict[str, Callable[[], tuple[vmm.Vm, int]]] = {
            "x <- x": lambda: (vm := bench.sev(), vm.fd),
            "plain <- plain": lambda: (bench.plain(), bench.plain().fd),
            "SEV <- SEV": lambda: (bench.sev(), bench.sev().fd),
            "plain with 2 vCPUs <- SEV with 4": lambda: (bench.plain(2), bench.sev(4).fd),
            "dead <- SEV": lambda: (bench.dead(), bench.sev().fd),
            "plain <- dead": lambda: (bench.plain(), bench.dead().fd),
            "plain <- closed fd": lambda: (bench.plain(), 400),
            "plain <- /dev/sev": lambda: (vm := bench.plain(), vm.sev),
            "plain <- mirror": lambda: (bench.plain(), bench.mirror().fd),
            "mirror <- SEV": lambda: (bench.mirror(), bench.sev().fd),
            "plain <- SEV without LAUNCH_START": lambda: (bench.plain(), bench.sev(started=False).fd),
            "plain <- SEV, cgroup full": lambda: (bench.plain(), bench.sev().fd),
        }
        dst, src = make[name]()
        if name.endswith("full"):
            bench.process.cgroup = "/full"
        said = attempt(_enable, dst, src)
        return said.errno_name if isinstance(said, Refusal) else str(said)


def _errno_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(MOVES):
        return "A dict with the twelve names of case.moves as its keys."
    if not all(isinstance(name, str | int) for name in answer.values()):
        return 'Each answer is an errno\'s name, or "0".'
    return ""


def _errno_check(case: ErrnoCase, answer: dict[str, Any]) -> Finding:
    return Finding([Row(name, str(answer[name]), said) for name, said in case.run().items()])


def _errno_reference(case: ErrnoCase) -> dict[str, str]:
    said = dict.fromkeys(case.moves, "EINVAL")
    said |= dict.fromkeys(["plain with 2 vCPUs <- SEV with 4", "plain <- mirror", "plain <- SEV without LAUNCH_START"], "0")
    said |= dict.fromkeys(["plain <- closed fd", "plain <- /dev/sev"], "EBADF")
    said |= {"dead <- SEV": "EIO", "plain <- SEV, cgroup full": "EBUSY"}
    return said


ERRNO = Exercise(
    id="move.errno",
    title="Twelve moves",
    minutes=8,
    level="core",
    kind="value",
    ask="Destination <- source, on Linux 6.1. What does each of these say?\n{told}.\n"
    'A dict: answer = dict.fromkeys(case.moves, "0"), then answer["x <- x"] = ... and so on.',
    setup=ErrnoCase,
    check=_errno_check,
    reference=_errno_reference,
    wants=_errno_wants,
    heads=("destination <- source", "you", "the kernel"),
    look="the ladder of MOVE",
    hints=(
        "Your own descriptor first, then the other's, then both together.",
        "A mirror is an SEV VM. It may be a source.",
        "Nobody asks whether the source was ever launched.",
    ),
    diagnoses=(
        Diagnosis(
            "itself",
            lambda case, answer, _: answer["x <- x"] == "EBUSY",
            "V11 said EBUSY, since its own flag was already set. The merged code asks first whether the two are one.",
        ),
        Diagnosis(
            "dead",
            lambda case, answer, _: (answer["dead <- SEV"], answer["plain <- dead"]) == ("EINVAL", "EIO"),
            "On which descriptor is the call made? Your own VM dead: EIO. The other one dead: it is no longer an SEV VM, EINVAL.",
        ),
        Diagnosis(
            "counts",
            lambda case, answer, _: str(answer["plain with 2 vCPUs <- SEV with 4"]) != "0",
            "For plain SEV the counts need not agree: no registers travel. For SEV-ES they must.",
        ),
    ),
)


# ------------------------------------------------------------- move.cgroup

MOMENTS = ("before", "after the move", "after its death")


class CgroupCase:
    """/a has `a` guests and /b has `b` before all this. One more guest of /a moves to a process in /b."""

    gives = ("host", "a", "b")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30)
        drawn = Stream(seed).fork("exercise/move.cgroup").draw("guests", 2)
        self.a, self.b = drawn[0] % 3, 1 + drawn[1] % 2

    def run(self, design: designs.Design, *, full: bool = False) -> dict[str, Any]:
        """misc.current of both at the three moments, and what MOVE said; on a machine of its own."""
        most = self.b + (not full)
        with Host(design=design, seed=7, memory=1 << 30, cgroups={"/a": {"sev": self.a + 1}, "/b": {"sev": most}}) as host:
            others = [steps.create_vm(host.process(f"a-{n}", cgroup="/a")) for n in range(self.a)]
            others += [steps.create_vm(host.process(f"b-{n}", cgroup="/b")) for n in range(self.b)]
            old = vmm.launch(host, program=guest.counter, shared=True, process=host.process("old", cgroup="/a"))
            to = host.process("new", cgroup="/b")
            books = [self._books(host)]
            said = attempt(vmm.move, old, to=to)
            books.append(self._books(host))
            for process in (old.process, to):
                process.kill()
            books.append(self._books(host))
            return {"books": books, "MOVE": said.errno_name if isinstance(said, Refusal) else "0"}

    @staticmethod
    def _books(host: Host) -> tuple[int, int]:
        a, b = (host.kernel.root_cgroup.find(path).current["sev"] for path in ("/a", "/b"))
        return a, b


KEYS = ("V11", "6.1", "V11, b full", "6.1, b full")


def _cgroup_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(KEYS):
        return f"A dict with these keys: {', '.join(map(repr, KEYS))}."
    for key in KEYS[:2]:
        if not isinstance(answer[key], list | tuple) or len(answer[key]) != 3:
            return f"{key}: three pairs (a, b), before, after the move, and after the guest's death."
    return ""


def _cgroup_check(case: CgroupCase, answer: dict[str, Any]) -> Finding:
    rows = []
    for key, design in (("V11", V11), ("6.1", designs.LINUX_6_1)):
        for moment, you, machine in zip(MOMENTS, answer[key], case.run(design)["books"], strict=True):
            rows.append(Row(f"{key}, {moment}", str(tuple(you)), str(machine)))
        rows.append(Row(f"{key}, b full", str(answer[f"{key}, b full"]), case.run(design, full=True)["MOVE"]))
    return Finding(rows)


def _cgroup_reference(case: CgroupCase) -> dict[str, Any]:
    a, b = case.a, case.b
    return {
        "V11": [(a + 1, b), (a + 1, b), (a, b)],
        "6.1": [(a + 1, b), (a, b + 1), (a, b)],
        "V11, b full": "0",
        "6.1, b full": "EBUSY",
    }


CGROUP = Exercise(
    id="move.cgroup",
    title="Balance the books",
    minutes=6,
    level="core",
    kind="value",
    ask="/a has {a} other guests, /b has {b}, and they stay. One more guest of /a moves to a process in /b, then it dies. "
    "misc.current of (/a, /b) before the move, after it, and after the guest's death? And what does MOVE say when /b is full?\n"
    'answer = {{"V11": [(..., ...), (..., ...), (..., ...)], "6.1": [...], "V11, b full": "0 or an errno", "6.1, b full": ...}}',
    setup=CgroupCase,
    check=_cgroup_check,
    reference=_cgroup_reference,
    wants=_cgroup_wants,
    look="misc.current of both",
    hints=("V11 copies a pointer.", "6.1 charges the caller, then releases whoever paid."),
    diagnoses=(
        Diagnosis(
            "lost",
            lambda case, answer, _: tuple(answer["V11"][1]) in ((case.a, case.b), (case.a, case.b + 1)),
            "Not lost, and not b's: the pointer travelled with the VM, and a is credited when it dies. Until then a "
            "pays for b's guest, "
            "and b's limit was never asked.",
        ),
        Diagnosis(
            "full",
            lambda case, answer, _: str(answer["6.1, b full"]) == "0",
            "Charge first, then release: at the moment of asking, b is full.",
        ),
        Diagnosis(
            "creator",
            lambda case, answer, _: tuple(answer["6.1"][1]) == (case.a + 1, case.b),
            "Charged is whoever makes the call. The VM's creator is nobody in particular.",
        ),
    ),
)


# ------------------------------------------------------------- move.fd0


class Fd0Case:
    """A guest that was moved properly to `new`; its old process is gone. GUEST_STATUS says EBADF."""

    gives = ("host", "new")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30)
        old = vmm.launch(self.host, program=guest.counter, shared=True, name="qemu")
        old.finish()
        old.run()
        process = self.host.process("qemu-2")
        for _ in range(Stream(seed).fork("exercise/move.fd0").draw("files", 1)[0] % 4):
            process.memfd(4096)
        self.new = vmm.move(old, to=process)
        old.process.kill()
        self.since = self.host.trace.seq
        self.sev = self.new.sev

    def devices(self) -> list[int]:
        """The descriptors of the new process that are /dev/sev."""
        return sorted(fd for fd, file in self.new.process.task.fds.items() if isinstance(file, SevDev))

    def commands(self) -> list[dict[str, Any]]:
        """The sub-commands of KVM_MEMORY_ENCRYPT_OP that were tried since the move."""
        return self.host.trace.rows(SevCommand, since=self.since)


def _fd0_check(case: Fd0Case, answer: Any) -> Finding:
    tried = case.commands()
    said = attempt(case.new.status)
    case.since = case.host.trace.seq  # this look of ours is none of the reader's
    state = "" if isinstance(said, Refusal) else GuestState(said.state).name
    rows = [
        Row("GUEST_STATUS", said.errno_name if isinstance(said, Refusal) else "0", "0"),
        Row("state", state or "-", "RUNNING"),
    ]
    return Finding(rows, {"tried": tried})


def _fd0_reference(case: Fd0Case) -> str:
    case.new.process.dup2(case.new.sev, 0)
    return "done"


def _opened_again(case: Fd0Case, answer: Any, found: Finding) -> object:
    more = [fd for fd in case.devices() if fd not in (0, case.sev)]
    return bool(more) and 0 not in case.devices() and {"n": more[-1]}


FD0 = Exercise(
    id="move.fd0",
    title="Make it answer",
    minutes=6,
    level="core",
    kind="state",
    ask="The guest of case.new was moved, and case.new.status() says EBADF. Without touching the kernel, make it "
    "answer: a few calls "
    'of case.new.process. Then lab.check("move.fd0", "done").',
    setup=Fd0Case,
    check=_fd0_check,
    reference=_fd0_reference,
    heads=("what", "it says", "it should say"),
    look="the descriptors of the new process",
    hints=("Scene 7 names the number that the kernel looks up.", "dup2(old, new) closes new and makes it the same file as old."),
    diagnoses=(
        Diagnosis(
            "started",
            lambda case, answer, found: any(row["id"] == KVM_SEV_LAUNCH_START for row in found.facts["tried"]),
            "LAUNCH_START cannot mend it: the guest exists. Only the road to the firmware is lost.",
        ),
        Diagnosis(
            "opened",
            _opened_again,
            "You got descriptor {n}. The kernel looks up number 0.",
        ),
        Diagnosis(
            "asked",
            lambda case, answer, found: bool(found.facts["tried"]),
            "Asking again does not help, and neither does `cmd.sev_fd`: only the two START commands read it. Which "
            "number does the kernel "
            "use now? It is 0 in every VM that a context was moved to.",
        ),
    ),
)


EXERCISES = (ERRNO, CGROUP, FD0)
