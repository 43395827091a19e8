"""Lab `asids`: what the machine says to each question, and where a card's "look at" leads.

Answers (what a card reveals) only look: where a question is what would happen, they try it on a twin of the machine. The
tenants are in `tenants`, the machines that forgot a rule in `forgetful`, the day that is to be planned in `bookings`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sevlab import vmm
from sevlab.abi.sev import Activate, Cmd, Handle, status_name
from sevlab.guest.programs import SECRET
from sevlab.host import Host
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bookings import Booking, par
from sevlab.lab.exercises import find
from sevlab.lab.forgetful import Window
from sevlab.lab.look import Look
from sevlab.lab.prediction import Answer
from sevlab.lab.reader import reader
from sevlab.lab.show import table
from sevlab.lab.tenants import books, everybody_leaves, slot_of, slots, tenant
from sevlab.lab.views_timeline import timeline

ORDERS = frozenset({"CommandDone", "Wbinvd"})  # scene 3: of the trace, what a hostile kernel does and is answered


def next_slot(host: Host, freed: int) -> Answer:
    """Scene 1: which slot does the next tenant get after slot `freed` was given back?"""
    because = f"The lowest free one. Slot {freed} is lower, and nobody has it; but it is not free, it waits. Scene 3 says for what."
    with host.fork() as twin:
        return Answer(str(slot_of(twin, tenant(twin))), slots(twin), because)


def sixteenth(host: Host) -> Answer:
    """Scene 2: what is the sixteenth guest told?"""
    with host.fork() as twin:
        refusal = attempt(tenant, twin)
    says = refusal.errno_name if isinstance(refusal, Refusal) else "it gets a slot"
    because = (
        "The kernel counts before it searches: a guest is charged in its cgroup and up to the root, which has the fifteen that the "
        "machine has. A flush would help nobody, and none is made."
    )
    return Answer(says, refusal, because)


def free_then(host: Host) -> Answer:
    """Scene 2: how many slots are free when everybody has left?"""
    because = (
        "Every guest has given its slot back and none of them is free. To flush costs all cores their caches, so the kernel "
        "puts it off until somebody has to."
    )
    with everybody_leaves(host.fork()) as twin:
        return Answer(str(twin.asids.counts()["free"]), slots(twin), because)


def after_flush(host: Host) -> Answer:
    """Scene 2: how many slots are free after one more launch?"""
    with host.fork() as twin:
        tenant(twin)
        made, free, now = twin.asids.flushes - host.asids.flushes, twin.asids.counts()["free"], slots(twin)
    because = (
        f"It found none free, so the kernel made {made} flush, for all slots at once; then it took the lowest. That is "
        f"the sawtooth."
    )
    return Answer(str(free), now, because)


def held(host: Host, vm: vmm.Vm) -> Answer:
    """Scene 1: is the slot given back when the VM's descriptor is closed and a vCPU's is not?"""
    used = {slot for slot, number in host.asids.used().items()}
    because = "The vCPU's descriptor holds the VM, the VM holds the slot. A slot is given back when nobody holds the VM any more."
    return Answer("no" if used else "yes", f"{vm.process.name} still has fd {vm.vcpus[0].fd}, vCPU 0\n\n{slots(host)}", because)


def status(code: int, because: str = "") -> Answer:
    """Scene 3: a status of the firmware by its name."""
    reasons = {
        "DFFLUSH_REQUIRED": "The kernel's books were not asked; the firmware keeps its own. This slot was used since "
        "the last DF_FLUSH.",
        "WBINVD_REQUIRED": "A core may still hold lines of the slot that was given back. DF_FLUSH wants them written back first.",
        "ASID_OWNED": "The number is fine, it is only somebody's: one slot, one key.",
        "SUCCESS": "All that the firmware wanted was done, in its order.",
    }
    name = status_name(code)
    return Answer(name, f"firmware status {code:#x}", because or reasons.get(name, ""))


def leaked(row: Mapping[str, Any]) -> Answer:
    """Scene 4: what did the next tenant read?"""
    found = row["found"]
    if isinstance(found, Refusal):
        return Answer("a refusal", found, "ACTIVATE was asked for a slot that the kernel took for clean. The second net holds.")
    if found == SECRET:
        because = (
            "The processor found the line in its cache, by address and slot, and never asked memory. A cache knows nothing of keys."
        )
        return Answer("the first guest's diary", f"{found!r}", because)
    because = "The line was not there. Memory was asked, and what it holds was decrypted with another key."
    return Answer("noise", f"{found!r}", because)


def window(rows: Mapping[str, Window]) -> Answer:
    """Scene 5: where does a DEACTIVATE spoil the DF_FLUSH? `rows`: each place and what came of it."""
    bad = [place for place, run in rows.items() if run.status != "SUCCESS"]
    because = (
        "Before: covered by the WBINVD. After: it waits for the next flush. In between, the caches were emptied too early for it. "
        "So the kernel holds a lock from WBINVD to DF_FLUSH, and every DEACTIVATE wants it too."
    )
    evidence = table([{"the DEACTIVATE falls": place, "DF_FLUSH says": run.status} for place, run in rows.items()])
    return Answer(" and ".join(bad) or "nowhere", evidence, because)


def other_kind(host: Host) -> Answer:
    """Scene 6: what becomes of one more SEV-ES guest?"""
    with host.fork() as twin:
        refusal, now = attempt(tenant, twin, es=True), slots(twin)
    says = refusal.errno_name if isinstance(refusal, Refusal) else "it gets a slot of plain SEV"
    because = (
        "Each kind is counted by itself, and neither may borrow: the firmware compares the slot's number with the "
        "BIOS's border when "
        "it activates a guest."
    )
    return Answer(says, f"{refusal}\n\n{now}", because)


def both_kinds(host: Host) -> Answer:
    """Scene 6: everybody leaves, an SEV-ES guest arrives: which waiting slots does that flush clean?"""
    with everybody_leaves(host.fork()) as twin:
        tenant(twin, es=True)
        waiting, now = {es: twin.asids.counts(es)["reclaimable"] for es in (True, False)}, slots(twin)
    says = "both" if not any(waiting.values()) else "SEV only" if waiting[True] else "SEV-ES only"
    return Answer(says, now, "WBINVD and DF_FLUSH know no kinds: they empty all caches of everything.")


def tenants_refused(host: Host, launches: Mapping[str, str]) -> Answer:
    """Scene 7: which launches are refused? `launches`: what each is called, and in which cgroup it is made, in their order."""
    with host.fork() as twin:
        no = [name for name, group in launches.items() if isinstance(attempt(tenant, twin, cgroup=group), Refusal)]
        now = books(twin)
    because = (
        "The third found /t/a full, the fifth found /t full, although /t/b had room. The level that is full counts an "
        "event, and all above it."
    )
    return Answer(" and ".join(no) or "none", now, because)


def charged_until(host: Host, group: str) -> Answer:
    """Scene 7: is a cgroup still charged for its guests' slots when they have left and the slots wait?"""
    with host.fork() as twin:
        for process in list(twin.processes.values()):
            if process.task.cgroup.path == group:
                process.kill()
        current, now = twin.kernel.root_cgroup.find(group).current["sev"], f"{slots(twin)}\n\n{books(twin)}"
    because = "The charge ends with the VM, not with the flush. A waiting slot is nobody's, and nobody pays for it."
    return Answer("no" if current == 0 else "yes", now, because)


def fewest(bookings: Sequence[Booking]) -> Answer:
    """Scene 8: with how few flushes does everybody run?"""
    rows = [{"guest": one.name, "may start": f"{one.first} to {one.last}", "runs for": one.ticks} for one in bookings]
    because = "Found by trying every plan. Which one it is stays yours to find."
    return Answer(str(par(bookings)), table(rows), because)


# ------------------------------------------------------------- scene 3: commands by hand


def mailbox(host: Host, handle: int, slot: int) -> Callable[[str, str, str], None]:
    """What a `lab.machine` wants for its arrows: each is given to the firmware itself, past the kernel, for one guest and slot.

    Raises LookupError, in a sentence, where the firmware refuses and for what is no business of one guest's slot.
    """
    buffers: dict[str, tuple[Any, ...]] = {"ACTIVATE": (Activate(handle, slot),), "DEACTIVATE": (Handle(handle),), "DF_FLUSH": ()}

    def issue(_machine: str, command: str, _token: str) -> None:
        if command not in buffers:
            raise LookupError(f"{command} gives nobody a slot; here you have {', '.join(buffers)}")
        status = host.mailbox(getattr(Cmd, command), *buffers[command])
        if status:
            raise LookupError(f"the firmware says {status_name(status)}")

    return issue


# ------------------------------------------------------------- where a card's "look at" leads


def slot_in(board: Any) -> Look:
    """Of a `lab.timeline` of `asids.next`'s machine: the slot that waits, or the flush, that the words name.

    A reader who has not played the script sees the machine that has: the check has shown by then what each launch gets.
    """

    def look(words: str) -> None:
        picture = board.widget
        if not picture.slots.bars:
            host, _ = reader.case(find("asids.next")).played()
            played = timeline(host, names={n: f"guest {n}" for n in range(1, 11)}).widget
            picture.title = "the script, as the machine played it"
            picture.show(played.slots)
            played.close()
            host.close()
        number = re.search(r"slot (\d+)", words)
        if number is None:
            picture.selected = "flush 0" if "flush" in words else None
            return
        bars = [(bar.what != "waiting", i) for i, bar in enumerate(picture.slots.bars) if bar.slot == int(number[1])]
        if not bars:
            raise LookupError(f"nobody has had slot {number[1]} yet")
        picture.selected = picture.key(min(bars)[1])

    return look
