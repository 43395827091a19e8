"""Lab `asids`: its exercises, in the order of the lab, and the machines that they are about."""

from __future__ import annotations

from typing import Any

from sevlab import vmm
from sevlab.abi.sev import Activate, Cmd, Handle, LaunchStart, Status, status_name
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab.asids import naples, slot_of, tenant
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row

# ------------------------------------------------------------- asids.next


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
        said, alive = list[Any](), dict[int, vmm.Vm]()
        with Host(naples(es=2, slots=5), seed=7, memory=1 << 30) as host:
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
        return said

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
    look="plots.asid_occupancy(host)",
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
        ),
        Diagnosis(
            "reused",
            _reused,
            "Slot {n} was given back at step {k} but not flushed; it is waiting. The lowest *clean* slot wins.",
        ),
    ),
)


# ------------------------------------------------------------- asids.hostile

DEEDS = ("activate at once", "DF_FLUSH without WBINVD", "activate while in use")


class HostileCase:
    """A Naples with guests in its first plain slots; the one in `slot` was deactivated by a hostile kernel."""

    gives = ("host", "slot", "handle")

    def __init__(self, seed: int) -> None:
        self._seed = seed
        count = 1 + Stream(seed).fork("exercise/asids.hostile").draw("slot", 1)[0] % 6
        self.host = Host("naples", seed=seed, memory=1 << 30)
        guests = [tenant(self.host) for _ in range(count)]
        self.slot, self.handle = slot_of(self.host, guests[-1]), guests[-1].handle
        self.host.mailbox(Cmd.DEACTIVATE, Handle(self.handle))

    def statuses(self) -> dict[str, int]:
        """What the firmware says to each deed, on a machine of its own."""
        host = HostileCase(self._seed).host
        mine, other = LaunchStart(policy=1), LaunchStart(policy=1)
        for one in (mine, other):
            host.mailbox(Cmd.LAUNCH_START, one)
        said = [host.mailbox(Cmd.ACTIVATE, Activate(mine.handle, self.slot)), host.mailbox(Cmd.DF_FLUSH)]
        host.wbinvd()
        host.mailbox(Cmd.DF_FLUSH)
        host.mailbox(Cmd.ACTIVATE, Activate(mine.handle, self.slot))
        said.append(host.mailbox(Cmd.ACTIVATE, Activate(other.handle, self.slot)))
        return dict(zip(DEEDS, said, strict=True))


def _hostile_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(DEEDS):
        return f"A dict with these three keys: {', '.join(map(repr, DEEDS))}."
    if not all(isinstance(status, int) for status in answer.values()):
        return "Give each status as its number."
    return ""


def _name(status: int) -> str:
    return f"{status} {status_name(status)}"


def _hostile_check(case: HostileCase, answer: dict[str, int]) -> Finding:
    return Finding([Row(deed, _name(answer[deed]), _name(status)) for deed, status in case.statuses().items()])


def _hostile_reference(case: HostileCase) -> dict[str, int]:
    return {"activate at once": 15, "DF_FLUSH without WBINVD": 14, "activate while in use": 12}


HOSTILE = Exercise(
    id="asids.hostile",
    title="You are the kernel now",
    minutes=8,
    level="core",
    kind="value",
    ask="A guest was deactivated; its slot {slot} is nobody's. Give it to a guest of your own with the raw mailbox, "
    "skipping what you like. "
    "Which status (a number) does the firmware answer to each deed?\n"
    'answer = {{"activate at once": ..., "DF_FLUSH without WBINVD": ..., "activate while in use": ...}}',
    setup=HostileCase,
    check=_hostile_check,
    reference=_hostile_reference,
    wants=_hostile_wants,
    look="CommandDone in the trace",
    hints=("`host.mailbox(Cmd.ACTIVATE, Activate(handle, slot))` returns the status.", "Scene 3 does all three."),
    diagnoses=(
        Diagnosis(
            "no check",
            lambda case, answer, _: answer[DEEDS[0]] == 0,
            "You left out the kernel's check. The firmware has its own, because you might.",
        ),
        Diagnosis(
            "exchanged",
            lambda case, answer, _: (answer[DEEDS[0]], answer[DEEDS[1]]) == (Status.WBINVD_REQUIRED, Status.DFFLUSH_REQUIRED),
            "ACTIVATE misses the DF_FLUSH; DF_FLUSH misses the WBINVD. Each names what *it* wants.",
        ),
        Diagnosis(
            "invalid",
            lambda case, answer, _: answer[DEEDS[2]] == Status.INVALID_ASID,
            "The number is fine, it is only somebody's: ASID_OWNED.",
        ),
    ),
)


# ------------------------------------------------------------- asids.cgroups

GROUPS = ("/t", "/t/a", "/t/b")
LIMITS = {"/t": 3, "/t/a": 2, "/t/b": 2}


class CgroupsCase:
    """Tenant /t may have 3 guests, /t/a and /t/b 2 each; `launches` says who launches, in its order."""

    gives = ("host", "launches", "limits")
    limits = LIMITS

    def __init__(self, seed: int) -> None:
        self.host = self._machine(seed)
        stream = Stream(seed).fork("exercise/asids.cgroups")
        while True:
            self.launches = ["/t/" + "ab"[byte % 2] for byte in stream.draw("launches", 6)]
            refused, events = self.play()
            if events["/t"] > events["/t/a"] + events["/t/b"] > 0 and self.play(charged=True)[0] != refused:
                break
        self.told = ", ".join(self.launches)

    @staticmethod
    def _machine(seed: int) -> Host:
        return Host("naples", seed=seed, memory=1 << 30, cgroups={path: {"sev": most} for path, most in LIMITS.items()})

    def play(self, *, charged: bool = False) -> tuple[set[int], dict[str, int]]:
        """Who is refused, and the events, by counting; with `charged` a refused guest counts all the same."""
        current, events, refused = dict.fromkeys(GROUPS, 0), dict.fromkeys(GROUPS, 0), set[int]()
        for number, path in enumerate(self.launches, 1):
            full = next((group for group in (path, "/t") if current[group] >= LIMITS[group]), None)
            if full:
                refused.add(number)
                for group in {full, "/t"}:
                    events[group] += 1
            if not full or charged:
                for group in (path, "/t"):
                    current[group] += 1
        return refused, events

    def run(self) -> tuple[set[int], dict[str, int]]:
        """The same, on a machine of its own."""
        host = self._machine(7)
        tried = [attempt(tenant, host, cgroup=path) for path in self.launches]
        refused = {number for number, vm in enumerate(tried, 1) if isinstance(vm, Refusal)}
        return refused, {path: host.kernel.root_cgroup.find(path).events["sev"] for path in GROUPS}


def _cgroups_wants(answer: Any) -> str:
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], set | frozenset):
        return "Two things: the set of the launches that were refused (1 is the first), and a dict of events."
    if not isinstance(answer[1], dict) or set(answer[1]) != set(GROUPS):
        return "The second is a dict: how many events each of /t, /t/a and /t/b counts."
    return ""


def _cgroups_check(case: CgroupsCase, answer: tuple[set[int], dict[str, int]]) -> Finding:
    refused, events = case.run()
    rows = [Row("refused", str(sorted(answer[0])), str(sorted(refused)))]
    return Finding([*rows, *(Row(f"events of {path}", str(answer[1][path]), str(events[path])) for path in GROUPS)])


def _cgroups_reference(case: CgroupsCase) -> tuple[set[int], dict[str, int]]:
    current, events, refused = dict.fromkeys(case.limits, 0), dict.fromkeys(case.limits, 0), set()
    for number, path in enumerate(case.launches, 1):
        full = [group for group in (path, "/t") if current[group] == case.limits[group]]
        if full:
            refused.add(number)
        for group in {full[0], "/t"} if full else ():
            events[group] += 1
        for group in () if full else (path, "/t"):
            current[group] += 1
    return refused, events


def _at_one_level(case: CgroupsCase, answer: tuple[set[int], dict[str, int]], _: Finding) -> bool:
    events = case.play()[1]
    return answer[1]["/t"] == events["/t"] - events["/t/a"] - events["/t/b"]


CGROUPS = Exercise(
    id="asids.cgroups",
    title="Who is refused, who is blamed",
    minutes=6,
    level="core",
    kind="value",
    ask="/t may have 3 guests, /t/a and /t/b 2 each. Six launches, and nobody leaves: {told}. "
    "Which are refused (1 is the first), and what do the three misc.events say?\n"
    'answer = ({{...}}, {{"/t": ..., "/t/a": ..., "/t/b": ...}})',
    setup=CgroupsCase,
    check=_cgroups_check,
    reference=_cgroups_reference,
    wants=_cgroups_wants,
    look="misc.events of the three",
    hints=("A charge is made in the cgroup, then in the one above it, or nowhere.", "The first level that is full says no."),
    diagnoses=(
        Diagnosis(
            "charged",
            lambda case, answer, _: answer[0] == case.play(charged=True)[0],
            "A guest that was refused is charged nowhere: it never got in, and fills no level for those after it.",
        ),
        Diagnosis(
            "one level",
            _at_one_level,
            "In this kernel the level that is full and all above it count the event.",
        ),
        Diagnosis(
            "blamed",
            lambda case, answer, _: any(answer[1][path] > case.play()[1][path] for path in ("/t/a", "/t/b")),
            "Where /t was full, the tenant below it was within its own limit: the event is not its own.",
        ),
    ),
)


EXERCISES = (NEXT, HOSTILE, CGROUPS)
