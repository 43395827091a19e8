"""Lab `asids`: predict ten slots, and the machine that the script is played on."""

from __future__ import annotations

from typing import Any

from sevlab import vmm
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.tenants import naples, slot_of, tenant


class NextCase:
    """Ten launches and some closes on a machine of five slots: 1 and 2 for SEV-ES, 3 to 5 for plain SEV.

    `script` has ("SEV" or "SEV-ES", n) for the launch of guest n and ("close", n) for its end; `told` is the same in words.
    """

    gives = ("host", "script", "es_slots", "sev_slots")
    es_slots, sev_slots = range(1, 3), range(3, 6)

    def __init__(self, seed: int) -> None:
        self.host = Host(naples(es=2, slots=5), seed=seed, memory=1 << 30)
        stream = Stream(seed).fork("exercise/asids.next")
        while True:
            self.script = self._drawn(stream)
            runs = [self.play(), *(self.play(**{how: True}) for how in ("reuse", "own_kind", "borrow"))]
            if "EBUSY" in runs[0] and all(runs[0] != other for other in runs[1:]):
                break
        self.told = ", ".join(f"close {n}" if what == "close" else f"{n} {what}" for what, n in self.script)

    @staticmethod
    def _drawn(stream: Stream) -> list[tuple[str, int]]:
        script, alive = list[tuple[str, int]](), list[int]()
        for number, (what, who, leaves) in enumerate(zip(*[iter(stream.draw("script", 30))] * 3, strict=True), 1):
            if alive and leaves < 150:
                script.append(("close", alive.pop(who % len(alive))))
            script.append(("SEV-ES" if what < 100 else "SEV", number))
            alive.append(number)
        return script

    def play(self, *, reuse: bool = False, own_kind: bool = False, borrow: bool = False) -> list[Any]:
        """What each launch gets, by counting; with a rule broken: a slot is reused at once, a flush cleans its own "
        "kind, kinds borrow."""
        free, waiting, has, said = set(range(1, 6)), set[int](), dict[int, int](), list[Any]()
        for what, number in self.script:
            if what == "close":
                slot = has.pop(number, 0)
                if slot:
                    (free if reuse else waiting).add(slot)
                continue
            mine = set(range(1, 6)) if borrow else set(self.es_slots if what == "SEV-ES" else self.sev_slots)
            if not free & mine and waiting & mine:
                clean = waiting & mine if own_kind else set(waiting)
                free, waiting = free | clean, waiting - clean
            if free & mine:
                has[number] = min(free & mine)
                free.remove(has[number])
            said.append(has.get(number, "EBUSY"))
        return said

    def run(self) -> list[Any]:
        """What each launch gets, on a machine of its own."""
        host, said = self.played()
        host.close()
        return said

    def played(self) -> tuple[Host, list[Any]]:
        """A machine of its own on which the script was played, and what each launch got."""
        said, alive = list[Any](), dict[int, vmm.Vm]()
        host = Host(naples(es=2, slots=5), seed=7, memory=1 << 30)
        for what, number in self.script:
            if what == "close":
                vm = alive.pop(number, None)
                if vm is not None:
                    vm.process.kill()
                continue
            vm = attempt(tenant, host, es=what == "SEV-ES")
            if not isinstance(vm, Refusal):
                alive[number] = vm
            said.append(vm.errno_name if isinstance(vm, Refusal) else slot_of(host, vm))
        return host, said

    def freed(self, slot: Any, launch: int) -> int:
        """The step of the script (from 1) at which `slot` was last given back before that launch; 0 if never."""
        has, said, last = dict[int, Any](), iter(self.play()), 0
        for step, (what, number) in enumerate(self.script, 1):
            if what == "close":
                last = step if has.pop(number, None) == slot else last
            elif number > launch:
                break
            else:
                has[number] = next(said)
        return last


def _next_wants(answer: Any) -> str:
    if not isinstance(answer, list) or len(answer) != 10:
        return 'This should be a list of ten: a slot\'s number, or "EBUSY", for each launch in its order.'
    return ""


def _next_check(case: NextCase, answer: list[Any]) -> Finding:
    truth = case.run()
    return Finding(
        [Row(f"guest {n}", str(you), str(machine)) for n, (you, machine) in enumerate(zip(answer, truth, strict=True), 1)]
    )


def _next_reference(case: NextCase) -> list[Any]:
    free, waiting = {1, 2, 3, 4, 5}, set[int]()
    has, said = dict[int, int](), list[Any]()
    for what, number in case.script:
        if what == "close":
            waiting |= {has.pop(number)} if number in has else set()
            continue
        mine = set(case.es_slots if what == "SEV-ES" else case.sev_slots)
        if not free & mine and waiting & mine:
            free, waiting = free | waiting, set()
        if free & mine:
            has[number] = min(free & mine)
            free -= {has[number]}
        said.append(has.get(number, "EBUSY"))
    return said


def _reused(case: NextCase, answer: list[Any], found: Finding) -> object:
    """The first launch that differs: it was given a slot that was waiting."""
    for number, (you, row) in enumerate(zip(answer, found.rows, strict=True), 1):
        if not row.ok:
            step = case.freed(you, number)
            return step and you == case.play(reuse=True)[number - 1] and {"n": you, "k": step}
    return False


def _borrowed(case: NextCase, answer: list[Any], _: Finding) -> bool:
    kinds = [what for what, _ in case.script if what != "close"]
    return any(
        isinstance(you, int) and you not in (case.es_slots if kind == "SEV-ES" else case.sev_slots)
        for kind, you in zip(kinds, answer, strict=True)
    )


NEXT = Exercise(
    id="asids.next",
    title="Predict ten slots",
    minutes=5,
    level="core",
    kind="value",
    ask="Five slots: 1 and 2 for SEV-ES, 3 to 5 for plain SEV. Ten guests come, and some go:\n{told}.\n"
    'Which slot does each get? A list of ten: a number, or "EBUSY". A guest that was refused cannot be closed: '
    "then nothing happens.",
    setup=NextCase,
    check=_next_check,
    reference=_next_reference,
    wants=_next_wants,
    look="the timeline of the script",
    hints=(
        "Keep three sets: free, in use, waiting.",
        "The lowest free slot of the kind. If there is none, and one of the kind waits, a flush first.",
        "In use by all of its kind: EBUSY, and no flush.",
    ),
    diagnoses=(
        Diagnosis(
            "borrowed",
            _borrowed,
            "Slots 1 and 2 are for SEV-ES, the rest for plain SEV; neither may borrow.",
        ),
        Diagnosis(
            "one kind",
            lambda case, answer, _: answer == case.play(own_kind=True),
            "One flush makes all waiting slots clean, of both kinds.",
            look="the first flush in the timeline",
        ),
        Diagnosis(
            "reused",
            _reused,
            "Slot {n} was given back at step {k} but not flushed; it is waiting. The lowest *clean* slot wins.",
            look="slot {n} in the timeline",
        ),
    ),
)
