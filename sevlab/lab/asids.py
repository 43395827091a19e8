"""Lab `asids`: tenants of key slots, machines that forgot a rule, a day to plan; and what the machine says to each question.

Answers (what a card reveals) only look. What changes a machine says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, count, product
from typing import Any, NamedTuple

from sevlab import guest, vmm
from sevlab.abi.sev import Cmd, Handle, status_name
from sevlab.crypto import Stream
from sevlab.guest.programs import SECRET
from sevlab.host import Host
from sevlab.hw import chips
from sevlab.hw.isa import hlt, load, program, store
from sevlab.kvm.asid import FREE, AsidPool
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.prediction import Answer
from sevlab.lab.show import Text, table
from sevlab.vmm import steps

WORDS = {"free": "free", "used": "in use", "reclaimable": "waiting"}
MEMORY = 64 << 10  # bytes of a tenant who only wants a slot
POLICY, POLICY_ES = 1, 5

# ------------------------------------------------------------- tenants


def naples(*, es: int = 5, slots: int = 15) -> chips.Chip:
    """A Naples whose BIOS gave its first `es` key slots to SEV-ES; with fewer `slots` than 15 it is one that never existed."""
    banner = "" if slots == chips.NAPLES.max_asid else f"a Naples with {slots} key slots: this chip never existed"
    return replace(chips.NAPLES, min_asid=es + 1, max_asid=slots, banner=banner)


def tenant(host: Host, *, es: bool = False, cgroup: str = "/") -> vmm.Vm:
    """A guest that only wants a key slot: a process and a VM, and launched no further than LAUNCH_START.

    Raises OSError as KVM_SEV_INIT refuses; then nobody is left behind.
    """
    name = next(one for one in chain(["tenant"], (f"tenant-{n}" for n in count(2))) if one not in host.processes)
    process = host.process(name, cgroup=cgroup, memlock=2 * MEMORY)
    try:
        vm = steps.create_vm(process, es=es)
        steps.launch_start(vm, POLICY_ES if es else POLICY)
    except OSError:
        process.kill()
        raise
    return vm


def slot_of(host: Host, vm: vmm.Vm) -> int:
    """The key slot of a VM: what its VMM is never told."""
    return int(host.kernel.vm_of(vm.process, vm.fd).sev.asid)


def slots(host: Host) -> Text:
    """How many slots of each kind are free, in use or waiting for a flush."""
    pool = host.asids
    kinds = [("SEV-ES", True), ("SEV", False)]
    return table([
        {"kind": name, "slots": f"{pool.slots(es).start} to {pool.slots(es)[-1]}",
         **{WORDS[state]: number for state, number in pool.counts(es).items()}}
        for name, es in kinds if pool.slots(es)
    ])  # fmt: skip


def books(host: Host, resource: str = "sev") -> Text:
    """The misc controller's files of every cgroup below the root, as rows."""
    rows, todo = [], list(host.kernel.root_cgroup.children.values())
    while todo:
        group = todo.pop(0)
        todo += group.children.values()
        names = ("max", "current", "events")
        rows.append({"cgroup": group.path, **{f"misc.{name}": getattr(group, name)[resource] for name in names}})
    return table(sorted(rows, key=lambda row: str(row["cgroup"])))


# ------------------------------------------------------------- machines that forgot


class _Hasty(AsidPool):
    """A kernel's books without the third state: what is given back can be had at once, and nobody flushes."""

    def give_back(self, asid: int, es: bool, cgroup: Any) -> None:
        super().give_back(asid, es, cgroup)
        self.states[asid] = FREE


def wbinvd(host: Host) -> None:
    """The host's kernel writes back and empties all caches."""
    host.wbinvd()


def forgetful_host(*, kernel: bool = True, firmware: bool = True, seed: int = 7) -> Host:
    """A Rome with cache lines on which `kernel` never flushes and `firmware` never asks. Neither ever existed."""
    host = Host("rome", seed=seed, memory=1 << 30, caches=True)
    if kernel:
        host.kernel.asids.__class__ = _Hasty
        setattr(host.soc, "wbinvd", lambda: None)  # noqa: B010
    if firmware:
        setattr(host.psp.asids, "clean", lambda asid: True)  # noqa: B010
    return host


@program
async def nosy(gpa: int = 0x1000) -> None:
    """Read a private page that it never wrote, and show what it found."""
    await store(0x2000, await load(gpa, 16, c=True), c=False)
    while True:
        await hlt()


def next_tenant(host: Host) -> dict[str, Any]:
    """A guest keeps a diary and leaves; the next one reads where it lay. Changes the machine.

    The row has both slots, both frames, and what the second guest found (16 bytes), or the refusal of its launch.
    """
    first = vmm.launch(host, program=guest.hello, memory=MEMORY)
    first.finish()
    first.run()
    row: dict[str, Any] = {"slot": slot_of(host, first), "frame": host.npt(first).translate(0x1000)}
    first.process.kill()
    image = bytes(4096) + steps.program_image(nosy)  # a page longer: its program lies where no line of the first one's is left
    second = attempt(vmm.launch, host, firmware=image, program=nosy, memory=MEMORY)
    if isinstance(second, Refusal):
        return row | {"next slot": 0, "next frame": 0, "found": second}
    second.finish()
    row["next slot"] = slot_of(host, second)
    second.run()
    row["next frame"] = host.npt(second).translate(0x1000)
    return row | {"found": second.read(0x2000, 16)}


PLACES = ("before the WBINVD", "between the two", "after the DF_FLUSH")


def flush_with_a_leaver(place: str, seed: int = 7) -> str:
    """The firmware's answer to a DF_FLUSH when a guest's DEACTIVATE falls at `place`: a kernel without the lock.

    Raises ValueError for a place that is none of PLACES.
    """
    at = PLACES.index(place)
    with Host(naples(), seed=seed, memory=1 << 30) as host:
        vm = tenant(host)

        def leave(now: int) -> None:
            if now == at:
                host.mailbox(Cmd.DEACTIVATE, Handle(vm.handle))

        leave(0)
        wbinvd(host)
        leave(1)
        status = host.mailbox(Cmd.DF_FLUSH)
        leave(2)
        return status_name(status)


# ------------------------------------------------------------- a day


class Booking(NamedTuple):
    """A guest that wants to run for `ticks` ticks, and to start no earlier than `first` and no later than `last`."""

    name: str
    first: int
    last: int
    ticks: int


class Played(NamedTuple):
    """What became of a plan: the flushes it took, who was refused, and the machine on which it was played."""

    flushes: int
    refused: tuple[str, ...]
    host: Host

    def __repr__(self) -> str:
        refused = f", refused: {', '.join(self.refused)}" if self.refused else ""
        return f"{self.flushes} flush{'es' * (self.flushes != 1)}{refused}"


SLOTS = 4  # of the machine that a day is played on


def day(seed: int, guests: int = 8) -> list[Booking]:
    """The bookings of a day, drawn from `seed`: at most four guests can run at a time, so not every plan will do."""
    stream = Stream(seed)
    found = []
    for number in range(guests):
        a, b, c = stream.draw(f"lab/day/{number}", 3)
        first = number * 2 + a % 2
        found.append(Booking("ABCDEFGHIJKLMNOP"[number], first, first + 1 + b % 3, 2 + c % 4))
    return found


def _events(bookings: Sequence[Booking], plan: Mapping[str, int]) -> list[tuple[int, int, Booking]]:
    """(tick, 0 leaves or 1 arrives, who) in their order: at one tick those who leave go first."""
    coming = [(plan[one.name], 1, one) for one in bookings]
    return sorted(coming + [(start + one.ticks, 0, one) for start, _, one in coming])


def play(bookings: Sequence[Booking], plan: Mapping[str, int], seed: int = 7) -> Played:
    """Play a plan (name to starting tick) on a machine of four key slots; it is handed back with the result.

    Raises ValueError for a guest without a start, or with one outside its window.
    """
    for one in bookings:
        if not one.first <= plan.get(one.name, -1) <= one.last:
            raise ValueError(f"{one.name} must start between {one.first} and {one.last}, not at {plan.get(one.name)}")
    host = Host(naples(es=0, slots=SLOTS), seed=seed, memory=1 << 30)
    running: dict[str, vmm.Vm] = {}
    refused: list[str] = []
    for _, arrives, one in _events(bookings, plan):
        if arrives:
            vm = attempt(tenant, host)
            if isinstance(vm, Refusal):
                refused.append(one.name)
            else:
                running[one.name] = vm
        elif one.name in running:
            running.pop(one.name).process.kill()
    return Played(host.asids.flushes, tuple(refused), host)


def flushes_of(bookings: Sequence[Booking], plan: Mapping[str, int]) -> int | None:
    """How many flushes a plan takes, by counting alone; None where somebody would be refused."""
    used = dirty = flushes = 0
    for _, arrives, _one in _events(bookings, plan):
        if not arrives:
            used, dirty = used - 1, dirty + 1
        elif used == SLOTS:
            return None
        else:
            if used + dirty == SLOTS:
                dirty, flushes = 0, flushes + 1
            used += 1
    return flushes


def par(bookings: Sequence[Booking]) -> int:
    """The fewest flushes with which everybody runs, found by trying every plan. Raises ValueError where no plan does."""
    windows = [range(one.first, one.last + 1) for one in bookings]
    names = [one.name for one in bookings]
    tried = (flushes_of(bookings, dict(zip(names, starts, strict=True))) for starts in product(*windows))
    return min(found for found in tried if found is not None)


# ------------------------------------------------------------- the answers


def next_slot(host: Host, vm: vmm.Vm, freed: int) -> Answer:
    """Scene 1: which slot did `vm` get after slot `freed` was given back?"""
    because = f"The lowest free one. Slot {freed} is lower, and nobody has it; but it is not free, it waits. Scene 3 says for what."
    return Answer(str(slot_of(host, vm)), slots(host), because)


def sixteenth(refusal: Any) -> Answer:
    """Scene 2: what is the sixteenth guest told?"""
    says = refusal.errno_name if isinstance(refusal, Refusal) else "it gets a slot"
    because = (
        "The kernel counts before it searches: a guest is charged in its cgroup and up to the root, which has the fifteen that the "
        "machine has. A flush would help nobody, and none is made."
    )
    return Answer(says, refusal, because)


def free_now(host: Host) -> Answer:
    """Scene 2: how many slots are free?"""
    because = (
        "Every guest has given its slot back and none of them is free. To flush costs all cores their caches, so the kernel "
        "puts it off until somebody has to."
    )
    return Answer(str(host.asids.counts()["free"]), slots(host), because)


def after_flush(host: Host, before: int) -> Answer:
    """Scene 2: how many slots are free after one more launch? `before` counts the flushes until then."""
    made = host.asids.flushes - before
    because = (
        f"It found none free, so the kernel made {made} flush, for all slots at once; then it took the lowest. That is "
        f"the sawtooth."
    )
    return Answer(str(host.asids.counts()["free"]), slots(host), because)


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


def window(rows: Mapping[str, str]) -> Answer:
    """Scene 5: where does a DEACTIVATE spoil the DF_FLUSH? `rows`: each place and the firmware's answer."""
    bad = [place for place, answer in rows.items() if answer != "SUCCESS"]
    because = (
        "Before: covered by the WBINVD. After: it waits for the next flush. In between, the caches were emptied too early for it. "
        "So the kernel holds a lock from WBINVD to DF_FLUSH, and every DEACTIVATE wants it too."
    )
    evidence = table([{"the DEACTIVATE falls": place, "DF_FLUSH says": answer} for place, answer in rows.items()])
    return Answer(" and ".join(bad) or "nowhere", evidence, because)


def other_kind(host: Host, refusal: Any) -> Answer:
    """Scene 6: what becomes of the sixth SEV-ES guest?"""
    says = refusal.errno_name if isinstance(refusal, Refusal) else "it gets a slot of plain SEV"
    because = (
        "Each kind is counted by itself, and neither may borrow: the firmware compares the slot's number with the "
        "BIOS's border when "
        "it activates a guest."
    )
    return Answer(says, f"{refusal}\n\n{slots(host)}", because)


def both_kinds(host: Host) -> Answer:
    """Scene 6: which waiting slots did the flush clean?"""
    waiting = {es: host.asids.counts(es)["reclaimable"] for es in (True, False)}
    says = "both" if not any(waiting.values()) else "SEV only" if waiting[True] else "SEV-ES only"
    return Answer(says, slots(host), "WBINVD and DF_FLUSH know no kinds: they empty all caches of everything.")


def tenants_refused(host: Host, tried: Mapping[str, Any]) -> Answer:
    """Scene 7: which launches were refused? `tried`: what each came to, in their order."""
    no = [name for name, vm in tried.items() if isinstance(vm, Refusal)]
    because = (
        "The third found /t/a full, the fifth found /t full, although /t/b had room. The level that is full counts an "
        "event, and all above it."
    )
    return Answer(" and ".join(no) or "none", books(host), because)


def charged_until(host: Host) -> Answer:
    """Scene 7: is a tenant still charged for a slot that waits?"""
    current = host.kernel.root_cgroup.find("/t/a").current["sev"]
    because = "The charge ends with the VM, not with the flush. A waiting slot is nobody's, and nobody pays for it."
    return Answer("no" if current == 0 else "yes", f"{slots(host)}\n\n{books(host)}", because)


def fewest(bookings: Sequence[Booking]) -> Answer:
    """Scene 8: with how few flushes does everybody run?"""
    rows = [{"guest": one.name, "may start": f"{one.first} to {one.last}", "runs for": one.ticks} for one in bookings]
    because = "Found by trying every plan. Which one it is stays yours to find."
    return Answer(str(par(bookings)), table(rows), because)
