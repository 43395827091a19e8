"""Break it yourself: a call made anew on machines of its own, with whichever of its rungs a reader wants made wrong.

    lab.breakable("LAUNCH_START")
    lab.breakable("COPY_ENC_CONTEXT_FROM", beside=designs.LINUX_5_13)

Displayed, a ladder with a switch for each rung: set some, guess the answer, call. A fault
is a change in how the call is prepared, so that kernel and firmware find it by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from sevlab import owner, vmm
from sevlab.abi.kvm import KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, KVM_ENABLE_CAP, kvm_enable_cap
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.kvm.process import Process
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.ladders import Column, Rungs, ladder
from sevlab.vmm import steps

POLICY, OTHER = 1, 3  # what the owner means, and what a host says instead
NEWER = 0xFF00_0001  # POLICY, and firmware that nobody has
MEMORY = 32 << 20  # bytes that a process here may lock


class Breakable(NamedTuple):
    """A call that can be broken: `make(host, faults)` makes it; each fault is named by what its rung says."""

    faults: frozenset[str]
    make: Callable[[Host, frozenset[str]], Any]


# ------------------------------------------------------------- LAUNCH_START

NOT_SEV, MIRRORS = "the VM is no SEV guest", "the VM is a mirror, which may not do this"
SHORT_SESSION, SHORT_CERT = "no session by its length", "no certificate by its length"
NOT_THE_DEVICE = "the descriptor is no /dev/sev"
WRAP, MEANT, NEWER_API = "WRAP_MAC does not match", "POLICY_MAC does not match", "the owner wants newer firmware"


def _start(host: Host, faults: frozenset[str]) -> Any:
    """A LAUNCH_START with an owner's session."""
    meant = NEWER if NEWER_API in faults else POLICY
    with Host(host.chip, seed=8) as elsewhere:
        theirs = elsewhere.chain()["pdh"]
    session = owner.new_session(theirs if WRAP in faults else host.chain()["pdh"], policy=meant, seed=1)
    godh, blob = session.godh, session.session
    parts = godh[:-1] if SHORT_CERT in faults else godh, blob[:-1] if SHORT_SESSION in faults else blob
    process = host.process("qemu", memlock=2 * MEMORY)
    vm = steps.create_vm(process, plain=NOT_SEV in faults)
    if MIRRORS in faults:
        vm = _mirror_of(process)
    if NOT_THE_DEVICE in faults:
        vm.sev = vm.kvm
    return attempt(steps.launch_start, vm, meant ^ (POLICY ^ OTHER if MEANT in faults else 0), parts)


def _mirror_of(process: Process) -> vmm.Vm:
    """A mirror of a guest that is being launched."""
    source = steps.create_vm(process)
    steps.launch_start(source, POLICY)
    made = steps.create_vm(process, plain=True)
    made.ioctl(KVM_ENABLE_CAP, kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(source.fd, 0, 0, 0)))
    return made


# ------------------------------------------------------------- COPY

NO_VM, ONE_VM, SEV_ALREADY, PLAIN_SOURCE, MIRROR_SOURCE, HAS_VCPU = (
    "the descriptor is no VM", "source and destination are one VM", "the destination is an SEV guest already",
    "the source is no SEV guest", "the source is a mirror itself", "the VM has a vCPU already",
)  # fmt: skip


def _copy(host: Host, faults: frozenset[str]) -> Any:
    """A COPY from one VM into another of the same process."""
    process = host.process("qemu", memlock=2 * MEMORY)
    if MIRROR_SOURCE in faults and PLAIN_SOURCE not in faults:
        source = _mirror_of(process)
    else:
        source = steps.create_vm(process, plain=PLAIN_SOURCE in faults)
        if PLAIN_SOURCE not in faults:
            steps.launch_start(source, POLICY)
    made = source if ONE_VM in faults else steps.create_vm(process, plain=SEV_ALREADY not in faults)
    if HAS_VCPU in faults:
        steps.add_vcpus(made, 1)
    fd = made.sev if NO_VM in faults else source.fd
    enable = kvm_enable_cap(KVM_CAP_VM_COPY_ENC_CONTEXT_FROM, args=(fd, 0, 0, 0))
    return attempt(made.ioctl, KVM_ENABLE_CAP, enable)


CALLS: Mapping[str, Breakable] = {
    "LAUNCH_START": Breakable(
        frozenset({NOT_SEV, MIRRORS, NOT_THE_DEVICE, SHORT_SESSION, SHORT_CERT, WRAP, MEANT, NEWER_API}), _start
    ),
    "COPY_ENC_CONTEXT_FROM": Breakable(
        frozenset({NO_VM, ONE_VM, SEV_ALREADY, PLAIN_SOURCE, MIRROR_SOURCE, HAS_VCPU}), _copy
    ),
}  # fmt: skip


# ------------------------------------------------------------- the ladder


def breakable(name: str, *, design: designs.Design = designs.LINUX_6_1, beside: designs.Design | None = None) -> Rungs:
    """The ladder of a call that a reader can break: each commit makes it on a new machine of each design.

    Raises LookupError for a call that has no such preparation here.
    """
    if name not in CALLS:
        raise LookupError(f"{name} cannot be broken here; there are {', '.join(CALLS)}")
    kernels = [design, *([beside] if beside is not None else [])]
    call = CALLS[name]
    fresh = ladder(name, design=design, beside=beside)
    words = [row["words"] for row in fresh.columns[0][1]]

    def broken(wrong: frozenset[int]) -> list[Column]:
        asked = frozenset(words[number] for number in wrong)
        if unknown := sorted(asked - call.faults):
            raise ValueError(f"“{unknown[0]}” is not a reader's to make wrong here: that is the machine's own state")
        return [_went(name, call, kernel, asked) for kernel in kernels]

    return Rungs(fresh.name, fresh.columns, broken, frozenset(i for i, said in enumerate(words) if said in call.faults))


def _went(name: str, call: Breakable, design: designs.Design, faults: frozenset[str]) -> Column:
    """The column of one kernel, after the call was made on a machine of its own."""
    with Host(chip="rome", seed=7, design=design, memory=1 << 30) as host:
        answer = call.make(host, faults)
        if isinstance(answer, Refusal):
            return ladder(answer, design=design).columns[0]
    rows = ladder(name, design=design).columns[0][1]
    return design.name, [{**row, "state": "passed"} for row in rows]
