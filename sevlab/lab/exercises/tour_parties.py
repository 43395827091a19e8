"""`tour.parties`: who does what with one key. Four answers from the trace of a launch, the last from trying it."""

from __future__ import annotations

from collections.abc import Set
from typing import Any

from sevlab import vmm
from sevlab.abi.sev import Cmd, Handle
from sevlab.host import Host
from sevlab.hw.engine import KeyInstalled
from sevlab.kvm.asid import AsidTaken
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import search
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.tour import GPA, notepad, private, steps
from sevlab.psp.launch import GuestMade

WHO = ("kernel", "psp", "engine", "guest", "owner", "vmm")
THINGS = {
    "slot": "chooses the number of the key slot",
    "made": "made the memory key",
    "keeps": "keeps the memory key where it is used",
    "private": "decides page by page what is private",
    "stop": "can stop the guest for ever",
}
LANES = {"kvm": "kernel", "psp": "psp", "engine": "engine"}  # the trace's lane of an event, and whose it is


class PartiesCase:
    """An SEV guest that has stored a sentence under its key; its trace says who did what."""

    gives: tuple[str, ...] = ("host", "vm")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.host = Host(seed=seed, memory=1 << 30)
        self.vm = vmm.launch(self.host, program=notepad, args=(b"who holds my key",), name="vm-b")
        self.vm.finish()
        self.vm.run()
        self.slot = self.host.trace.rows(AsidTaken)[-1]["asid"]

    def done_by(self) -> dict[str, set[str]]:
        """Who did each of the five things on this machine."""
        events = {"slot": AsidTaken, "made": GuestMade, "keeps": KeyInstalled}
        found = {what: {LANES[self.host.trace.rows(event)[-1]["lane"]]} for what, event in events.items()}
        found["private"] = self._who_wrote_the_c_bit()
        found["stop"] = {who for who in WHO if self._stopped_by(who)}
        return found

    def _who_wrote_the_c_bit(self) -> set[str]:
        """The bit stands in a table that makes sense to the guest alone: whoever reads it as the VMM does finds noise."""
        open_to_all = int(steps(self.vm, levels=1)[0]["entry"], 16) & 0xFFF == 3
        return {"vmm"} if open_to_all or not private(self.host, self.vm) else {"guest"}

    def _stopped_by(self, who: str) -> bool:
        """Whether a guest like this one has stopped for good once `who` has done what is in its power, on a machine of its own."""
        if who not in ("kernel", "vmm"):
            return False  # the owner is far away; the chip does what it is asked
        twin = PartiesCase(self.seed + 1)
        if who == "kernel":
            twin.host.mailbox(Cmd.DEACTIVATE, Handle(twin.vm.handle))
        else:
            twin.vm.process.kill()
        last = attempt(twin.vm.run)
        return isinstance(last, Refusal) or last.name != "HLT"


def _said(value: Any) -> set[str]:
    return set(value) if isinstance(value, Set | list | tuple) else {value}


def _check(case: PartiesCase, answer: dict[str, Any]) -> Finding:
    return Finding([Row(THINGS[what], _words(_said(answer[what])), _words(who)) for what, who in case.done_by().items()])


def _words(who: Set[str]) -> str:
    return ", ".join(sorted(who))


def _wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(THINGS):
        return f"Give a dict with the keys {', '.join(map(repr, THINGS))}."
    for what, value in answer.items():
        odd = [one for one in (value if isinstance(value, Set | list | tuple) else [value]) if one not in WHO]
        if odd or (what != "stop" and not isinstance(value, str)):
            return f"{what!r}: {odd[0] if odd else value!r} is not one of {', '.join(WHO)}."
    return "" if _said(answer["stop"]) else "Somebody can: 'stop' names one party or a set of them."


def _reference(case: PartiesCase) -> dict[str, Any]:
    return {"slot": "kernel", "made": "psp", "keeps": "engine", "private": "guest", "stop": {"kernel", "vmm"}}


def _kernel_made_it(case: PartiesCase, answer: Any, found: Finding) -> object:
    if answer["made"] != "kernel":
        return False
    twin = PartiesCase(case.seed)  # the x-ray is ours, and not to be counted as the reader's
    return {"n": case.slot, "copies": len(search(twin.host, twin.host.xray.guest(twin.vm.handle).vek))}


PARTIES = Exercise(
    id="tour.parties",
    title="Who holds what",
    minutes=4,
    level="core",
    kind="value",
    ask="case.vm is an SEV guest. Which party chose its key slot, made its memory key, keeps that key where it\n"
    "is used, decides page by page what is private, can stop the guest for ever?\n"
    "answer = {{'slot': ..., 'made': ..., 'keeps': ..., 'private': ..., 'stop': {{...}}}}\n"
    "Each is one of kernel, psp, engine, guest, owner, vmm; 'stop' is the set of all who can.",
    setup=PartiesCase,
    check=_check,
    reference=_reference,
    wants=_wants,
    look="LAUNCH_START in the trace",
    hints=(
        "The letter in front of an event in lab.lanes(case.host) is the party that did it.",
        "The C-bit stands in a page table. Whose, and who else could read it?",
        "Stopping takes no skill: whom does the guest need in order to run at all?",
    ),
    diagnoses=(
        Diagnosis(
            "kernel",
            _kernel_made_it,
            "The kernel chose slot {n}. Search all memory for the key, the kernel's with it: {copies} copies. The PSP made it "
            "in LAUNCH_START.",
        ),
        Diagnosis(
            "vmm",
            lambda case, answer, _: answer["private"] == "vmm" and {"gpa": f"{GPA:#x}"},
            "The VMM launched it, but bit C of gpa {gpa} is set in a page table that the VMM cannot read.",
        ),
        Diagnosis(
            "alone",
            lambda case, answer, _: _said(answer["stop"]) == {"vmm"},
            "So can the kernel: it need only never schedule the vCPU. Availability is promised by nobody.",
        ),
    ),
)
