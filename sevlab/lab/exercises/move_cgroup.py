"""Lab `move`: one guest that moves between two tenants, and the books of both."""

from __future__ import annotations

from typing import Any

from sevlab import guest, vmm
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.kvm import designs
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.move import V11
from sevlab.vmm import steps

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
    look="/a in the ledger",
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
            look="/b in the ledger",
        ),
        Diagnosis(
            "creator",
            lambda case, answer, _: tuple(answer["6.1"][1]) == (case.a + 1, case.b),
            "Charged is whoever makes the call. The VM's creator is nobody in particular.",
        ),
    ),
)
