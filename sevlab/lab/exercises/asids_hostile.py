"""Lab `asids`: the kernel that skips a step, and what the firmware says to it."""

from __future__ import annotations

from typing import Any

from sevlab.abi.sev import Activate, Cmd, Handle, LaunchStart, Status, status_name
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.tenants import slot_of, tenant

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
    look="the last ACTIVATE in the trace",
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
            look="the last DF_FLUSH in the trace",
        ),
        Diagnosis(
            "invalid",
            lambda case, answer, _: answer[DEEDS[2]] == Status.INVALID_ASID,
            "The number is fine, it is only somebody's: ASID_OWNED.",
        ),
    ),
)
