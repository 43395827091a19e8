"""Lab `tour`: a guest with a sentence to hide, the four names of one byte, and what the machine says to each question.

The questions stand in the notebook, the answers here, so that reading on spoils
nothing. An answer only looks; what acts is said to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from sevlab.abi.sev import cmd_name
from sevlab.guest.pagetable import ROOT, c_bit_mask, identity, map_page, share, unshare
from sevlab.host import Host
from sevlab.hw.engine import KeyInstalled
from sevlab.hw.isa import hlt, load_cr3, program, store
from sevlab.hw.paging import walk
from sevlab.kvm.asid import AsidTaken
from sevlab.kvm.vcpu import VmExit
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import search
from sevlab.lab.prediction import Answer
from sevlab.lab.show import Text, table
from sevlab.lab.views_caches import keyless
from sevlab.psp.firmware import CommandDone
from sevlab.psp.launch import Loaded

GVA, GPA = 0x7000_0000, 0x4000  # the page of the sentence, as the guest's program and as the guest's kernel names it
LINE = 16  # bytes of the sentence, one block of the cipher


@program
async def notepad(text: bytes) -> None:
    """Store `text` at GVA. Woken once, make that page shared; woken again, store once more; then private again, and so on."""
    mask = await c_bit_mask()
    await identity(ROOT, mask)
    await map_page(ROOT, GVA, GPA, mask)
    await load_cr3(ROOT)
    while True:
        await store(GVA, text)
        await hlt()
        await share(ROOT, GVA, mask)
        await hlt()
        await store(GVA, text)
        await hlt()
        await unshare(ROOT, GVA, mask)


# ------------------------------------------------------------------ one byte, four names


def _control(host: Host, vm: Any) -> Any:
    """The control block of the first vCPU: the processor's view of the guest, which no VMM has."""
    return host.kernel.vm_of(vm.process, vm.fd).vcpus[0].vmcb


def addresses(host: Host, vm: Any, gva: int = GVA) -> dict[str, int]:
    """The four names of one byte: gva, gpa, hva, hpa. The guest's table is walked as its processor walks it."""
    gpa, _ = walk(host.soc, _control(host, vm), gva)
    return {"gva": gva, "gpa": gpa, "hva": vm.hva(gpa), "hpa": host.npt(vm).translate(gpa)}


def names(host: Host, vm: Any, gva: int = GVA) -> Text:
    """`addresses` as a table: each name, who uses it, and which table gave it."""
    found = addresses(host, vm, gva)
    says = {
        "gva": ("the guest's program", "-"),
        "gpa": ("the guest's kernel", "the guest's page table, from gva"),
        "hva": ("the VMM", "the memory slot, from gpa"),
        "hpa": ("the memory chips", "the nested page table, from gpa"),
    }
    rows = [
        {"name": name, "address": f"{found[name]:#_x}", "who says it": who, "found by": by} for name, (who, by) in says.items()
    ]
    return table(rows)


def private(host: Host, vm: Any, gva: int = GVA) -> bool:
    """Whether the guest's page table has the C-bit set for this page."""
    return walk(host.soc, _control(host, vm), gva)[1]


def guest_sees(host: Host, vm: Any, gva: int = GVA, n: int = LINE) -> bytes:
    """What the guest would load at `gva`: through its key where its page table says so. The x-ray reads it, and notes so."""
    control = _control(host, vm)
    return host.xray.read(control.asid if private(host, vm, gva) else 0, addresses(host, vm, gva)["hpa"], n)


class Seen(NamedTuple):
    """What three readers find at one moment: the guest, the VMM's own pointer, the memory bus."""

    guest: bytes
    vmm: bytes
    bus: bytes

    def __str__(self) -> str:
        read = (("guest", "gva", self.guest), ("VMM", "hva", self.vmm), ("bus", "hpa", self.bus))
        return str(table([{"reader": who, "by": name, "bytes": data.hex(), "text": legible(data)} for who, name, data in read]))


def seen(host: Host, vm: Any, n: int = LINE) -> Seen:
    """The sentence as three readers find it now. Kept for a question that is answered later, when the machine has gone on."""
    where = addresses(host, vm)
    return Seen(guest_sees(host, vm, n=n), vmm_sees(host, vm, where["gpa"], n), host.probe(where["hpa"], n))


def vmm_sees(host: Host, vm: Any, gpa: int, n: int = LINE) -> bytes:
    """What the VMM's pointer to `gpa` gives, by the VMM's own page table and without a key. A look: no entry in the journal.

    Raises OSError EFAULT where that pointer leads nowhere.
    """
    return keyless(host, host.hpa(vm.process, vm.hva(gpa, n)), n)


def legible(data: bytes) -> str:
    """Bytes as text, with a dot for each that is no letter."""
    return "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)


def kind(data: bytes, text: bytes) -> str:
    """What a reader has found: the sentence, zeros, or noise."""
    wanted = text[: len(data)].ljust(len(data), b"\0")
    return "the sentence" if data == wanted else "zeros" if not any(data) else "noise"


def steps(vm: Any, gva: int = GVA, levels: int = 4, load: Callable[[int, int], bytes] | None = None) -> list[dict[str, str]]:
    """The first `levels` steps through a guest's page table, read through the VMM's pointer: a row for each.

    `load(gpa, n)` reads it in another way than the VMM, whose reads are entries of the journal. Of an SEV guest's table
    the VMM reads ciphertext: the first row makes no sense, and there is no second one.
    """
    rows, at, load = [], ROOT, load or vm.read
    for level, low in tuple(zip((4, 3, 2, 1), (39, 30, 21, 12), strict=True))[:levels]:
        place = at + (gva >> low & 511) * 8
        value = int.from_bytes(load(place, 8), "little")
        rows.append({"level": str(level), "index": str(gva >> low & 511), "entry at gpa": f"{place:#x}", "entry": f"{value:#x}"})
        at = value & (1 << 47) - 0x1000
    return rows


# ------------------------------------------------------------------ acts


def disturb(host: Host, vm: Any) -> None:
    """A hostile kernel flips one bit of the sentence's ciphertext, straight in the memory chips."""
    hpa = addresses(host, vm)["hpa"]
    host.dram.write(hpa, bytes([host.probe(hpa, 1)[0] ^ 1]))


def refusals(calls: dict[str, Callable[[], Any]]) -> list[Refusal]:
    """What each call is refused with. Raises ValueError for one that is not refused."""
    found = []
    for words, call in calls.items():
        answer = attempt(call)
        if not isinstance(answer, Refusal):
            raise ValueError(f"nobody refused: {words}")
        found.append(answer)
    return found


def moments(host: Host, vm: Any, text: bytes, since: int = 1) -> list[dict[str, Any]]:
    """What lay on the bus in the sentence's place, from entry `since` of the journal on: a row for each change."""
    hpa = addresses(host, vm)["hpa"]
    rows: list[dict[str, Any]] = []
    for n in sorted({since, *_writers(host, since)}):
        found = kind(host.at(n).probe(hpa, len(text)), text)
        if not rows or rows[-1]["on the bus"] != found:
            rows.append({"after entry": n, "on the bus": found})
    return rows


def _writers(host: Host, since: int) -> set[int]:
    """The entries that can have changed a guest's memory: it ran, the firmware loaded, or somebody wrote."""
    ran = {row["n"] for row in host.trace.rows(VmExit, Loaded)}
    wrote = {row["n"] for row in host.journal if row["what"] in ("write", "dram.write")}
    return {n for n in ran | wrote if n >= since}


# ------------------------------------------------------------------ answers


def _event(row: dict[str, Any]) -> dict[str, str]:
    """A row of the trace as party and deed."""
    match row["kind"]:
        case "AsidTaken":
            who, deed = "kernel", f"chooses key slot {row['asid']}"
        case "KeyInstalled":
            who, deed = "engine", f"has a key in slot {row['asid']}"
        case _:
            who, deed = "PSP", f"has done {cmd_name(row['cmd'])}"
    return {"who": who, "does what": deed}


def mapped(host: Host, vm: Any) -> Answer:
    """Scene 2: how many page tables stand between a guest's pointer and the memory chips?"""
    because = "Both are walked by the processor at every access: first the guest's, gva to gpa, then the host's, gpa to hpa."
    where = addresses(host, vm)
    tables = (where["gva"] != where["gpa"]) + (where["gpa"] != where["hpa"])
    return Answer({1: "one", 2: "two"}[tables], names(host, vm), because)


def same_frame(host: Host, vm: Any) -> Answer:
    """Scene 2: does the VMM's pointer reach the same frame as the guest's?"""
    where = addresses(host, vm)
    mine = host.hpa(vm.process, where["hva"])
    because = "One frame, reached by two roads. The VMM mapped that memory itself, and never unmapped it."
    evidence = f"by the nested table  {where['hpa']:#x}\nby the VMM's table   {mine:#x}"
    return Answer("the same frame" if mine == where["hpa"] else "another one", evidence, because)


def ordinary(host: Host, vm: Any, text: bytes) -> Answer:
    """Scene 2: who reads the sentence of an ordinary guest?"""
    where = addresses(host, vm)
    readers = [vmm_sees(host, vm, where["gpa"]), host.probe(where["hpa"], LINE)]
    count = 1 + sum(kind(data, text) == "the sentence" for data in readers)
    because = "An ordinary VM is kept from its host's memory. Nothing keeps the host from the VM's."
    return Answer({1: "the guest alone", 2: "the guest and the VMM"}.get(count, "all three"), str(seen(host, vm)), because)


def pointer(host: Host, vm: Any, text: bytes) -> Answer:
    """Scene 3: what does the VMM's pointer give for a private page?"""
    found = attempt(vmm_sees, host, vm, GPA)
    says = "EFAULT" if isinstance(found, Refusal) else kind(found, text)
    because = "The page is mapped and the read succeeds: nothing in the VMM's page table knows of SEV. The key goes with the guest."
    return Answer(says, found if isinstance(found, Refusal) else found.hex(" "), because)


def walked(host: Host, plain: Any, sealed: Any) -> Answer:
    """Scene 3: can the VMM read the guest's page table, to see which pages are private?"""
    first, other = (steps(vm, levels=1, load=partial(vmm_sees, host, vm)) for vm in (plain, sealed))
    evidence = f"ordinary guest\n{table(first)}\n\nSEV guest\n{table(other)}"
    good = int(other[0]["entry"], 16) & 0xFFF == 3
    because = "The table lies in guest memory, and the processor reads it through the guest's key. To the host it is noise as well."
    return Answer("yes" if good else "no", evidence, because)


def cleared(found: Seen, text: bytes) -> Answer:
    """Scene 3: the C-bit was cleared and nothing stored. What does the guest itself read now?"""
    because = "The bit changes how bytes are read, not the bytes. Who wants to keep the text must store it once more."
    return Answer(kind(found.guest, text), str(found), because)


def stored_again(found: Seen, text: bytes) -> Answer:
    """Scene 3: and after the guest has stored it again?"""
    because = "One bit of a table that only the guest can write. Sharing is a decision of the guest, page by page."
    return Answer("yes" if kind(found.bus, text) == "the sentence" else "no", str(found), because)


def who_made_the_key(host: Host, vm: Any) -> Answer:
    """Scene 4: which event put a key into the engine, and whose was the command?"""
    rows = host.trace.rows(CommandDone, AsidTaken, KeyInstalled)
    place = max(i for i, row in enumerate(rows) if row["kind"] == "KeyInstalled")
    shown = [_event(row) for row in rows[: place + 2][-4:]]
    because = "The kernel chose the slot and asked; the PSP drew the key in LAUNCH_START and gave it to the engine in ACTIVATE."
    return Answer("the PSP", table(shown), because)


def key_in_memory(host: Host, vm: Any) -> Answer:
    """Scene 4: does the guest's key lie anywhere in the machine's memory?"""
    copies = search(host, host.xray.guest(vm.handle).vek)
    because = "It was made inside the chip and stays there. Whoever has all of memory has all of the ciphertext, and no key."
    return Answer("yes" if copies else "no", f"{len(copies)} copies in all memory that is in use", because)


def disturbed(before: bytes, after: bytes, last: Any) -> Answer:
    """Scene 4: one bit of the ciphertext was flipped. What does the guest notice?"""
    lines = [f"before  {before.hex(' ')}  {legible(before)}", f"after   {after.hex(' ')}  {legible(after)}"]
    evidence = "\n".join([*lines, f"the guest's last exit: {last.name}"])
    because = "Sixteen bytes are noise, and nobody told the guest: encrypted does not mean protected against change."
    return Answer("nothing" if last.name == "HLT" and before != after else "an error", evidence, because)


def five(calls: Sequence[str], found: Sequence[Refusal]) -> Text:
    """Scene 5: the five refusals as a table."""
    rows = [{"you tried": words, "errno": no.errno_name, "why": no.why} for words, no in zip(calls, found, strict=True)]
    return table(rows)


def refused(found: Refusal) -> Answer:
    """Scene 5: with which number was it refused?"""
    because = "The kernel goes down a ladder of checks, and the first rung that says no gives the number."
    return Answer(found.errno_name, found.why, because)


def vanished(host: Host, rows: Sequence[dict[str, Any]]) -> Answer:
    """Scene 6: what was going on in the entry after which the sentence was gone? `rows` are those of `moments`."""
    gone = [after["after entry"] for before, after in pairwise(rows) if before["on the bus"] == "the sentence"][-1]
    ran = any(row["n"] == gone for row in host.trace.rows(VmExit))
    because = "It stored the sentence once more, through a mapping with the C-bit set. No kernel and no VMM took part in that."
    return Answer("the guest ran" if ran else "a command to the PSP", f"entry {gone}\n{table(rows)}", because)
