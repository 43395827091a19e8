"""Lab `move`: twelve moves, destination and source, and what each is answered."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab import vmm
from sevlab.abi.kvm import (
    KVM_CAP_VM_COPY_ENC_CONTEXT_FROM,
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_ENABLE_CAP,
    kvm_enable_cap,
)
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.vmm import steps

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
    look="the rung: the destination is an SEV guest already, or the source is none",
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
            look="the rung: both are one VM, one of them is being moved, or a signal came",
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
            look="the rung: the two SEV-ES guests have not equally many vCPUs",
        ),
    ),
)
