"""Lab `asids`: who is refused where three cgroups have limits, and who is blamed."""

from __future__ import annotations

from typing import Any

from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.tenants import tenant

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
    look="/t in the ledger",
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
            look="/t/a in the ledger",
        ),
    ),
)
