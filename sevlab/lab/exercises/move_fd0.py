"""Lab `move`: a moved guest whose status cannot be asked for, and the number that mends it."""

from __future__ import annotations

from typing import Any

from sevlab import guest, vmm
from sevlab.abi.kvm import (
    KVM_SEV_LAUNCH_START,
)
from sevlab.abi.sev import GuestState
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.kvm.sev_commands import SevCommand
from sevlab.kvm.sev_dev import SevDev
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row


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
    look="fd 0 of qemu-2",
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
            look="fd {n} of qemu-2",
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
