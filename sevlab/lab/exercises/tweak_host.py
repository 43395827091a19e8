"""`tweak.replay` and `tweak.remap`: what a host does to memory that it cannot read. An attack is run on three machines."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab import vmm
from sevlab.crypto import Stream
from sevlab.guest.pagetable import ROOT, c_bit_mask, identity
from sevlab.host import Host
from sevlab.hw.isa import hlt, load, load_cr3, program, sha256, store
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import bus
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row, student
from sevlab.lab.tour import legible

BLOCK, PAGE = 16, 4096
REPORT = 0x6000  # in the open: what the guest tells its screen
ACCOUNT = 0x5000
A, B = 0x8000, 0x9000
TABLES = range(ROOT, ROOT + 0x1_0000)  # where the comparing guest keeps its page table
SPENDS = 750


def balance(amount: int) -> bytes:
    """An account's block: 16 bytes."""
    return b"balance %8d" % amount


@program
async def accountant(amount: int) -> None:
    """Keep an account with a checksum; each time it is woken, check it, say it, and spend. What does not fit stops it for good."""
    day = 1
    while True:
        await store(ACCOUNT, balance(amount) + sha256(balance(amount))[:BLOCK], c=True)
        await hlt()
        day += 1
        block = await load(ACCOUNT, BLOCK, c=True)
        checksum = await load(ACCOUNT + BLOCK, BLOCK, c=True)
        fits = checksum == sha256(block)[:BLOCK]
        await store(REPORT, (b"runs" if fits else b"stop") + bytes([day]) + block, c=False)
        while not fits:
            await hlt()
        amount = int(block[8:]) - SPENDS


@program
async def doorkeeper(one: bytes, other: bytes) -> None:
    """Two names in two pages, behind page tables of its own. Woken, open if the first is "admin" and the second is not."""
    mask = await c_bit_mask()
    await identity(ROOT, mask)
    await load_cr3(ROOT)
    await store(A, one)
    await store(B, other)
    while True:
        await hlt()
        first, second = await load(A, BLOCK), await load(B, BLOCK)
        known = first in (one, other) and second in (one, other)
        says = b"noise" if not known else b"twice" if first == second else b"opens" if first == other else b"shuts"
        await store(REPORT, says, c=False)
        while says in (b"noise", b"twice"):  # somebody has tampered
            await hlt()


def _launch(host: Host, guest: Any, *args: Any) -> Any:
    vm = vmm.launch(host, program=guest, args=args, name="vm-a")
    vm.finish()
    vm.run()
    return vm


def _report(vm: Any, n: int) -> bytes:
    """What stands on the guest's screen after it was woken once more; zeros where it is gone."""
    attempt(vm.write, REPORT, bytes(n))
    attempt(vm.run)
    found = attempt(vm.read, REPORT, n)
    return bytes(n) if isinstance(found, Refusal) else bytes(found)


def _writes(host: Host, since: int) -> list[tuple[int, bytes]]:
    """What a host has put straight into memory after entry `since`: (hpa, bytes)."""
    rows = [row for row in host.journal if row["n"] > since and row["what"] == "dram.write"]
    return [(row["args"][0], getattr(row["args"][1], "read", lambda row=row: row["args"][1])()) for row in rows]


# ------------------------------------------------------------- tweak.replay


class ReplayCase:
    """A guest with an account at gpa `account`: the balance in one block, its checksum in the next. It halts after each day."""

    gives: tuple[str, ...] = ("host", "vm", "account")
    account = ACCOUNT

    def __init__(self, seed: int) -> None:
        self.host = Host("rome", seed=seed, memory=1 << 30)
        self._amount = 2_000 + int.from_bytes(Stream(seed).fork("exercise/tweak.replay").draw("amount", 2), "little") % 7_000
        self.vm = _launch(self.host, accountant, self._amount)


def _replay_check(case: ReplayCase, answer: Callable[[Any, Any], Any]) -> Finding:
    hpa, since = case.host.npt(case.vm).translate(ACCOUNT), case.host.n
    yesterday = case.host.probe(hpa, 2 * BLOCK)
    student(answer, case.host, case.vm, answers=False)
    left = attempt(bus, case.host, case.vm, ACCOUNT, 2 * BLOCK)
    said = _report(case.vm, 5 + BLOCK)
    again = _report(case.vm, 5)
    state, day, block = said[:4].decode("latin-1"), said[4], said[5:]
    rows = [
        Row("spent meanwhile", "yes" if day > 2 else "no", "yes"),
        Row("the guest", {"runs": "runs", "stop": "stopped"}.get(state, "is gone"), "runs"),
        Row("it goes by", legible(block), balance(case._amount).decode()),
        Row("a day later", "runs" if again[:4] == b"runs" and again[4] == day + 1 else "stopped", "runs"),
    ]
    facts = {
        "left": b"" if isinstance(left, Refusal) else left, "yesterday": yesterday, "block": legible(block), "hpa": hpa,
        "elsewhere": [at for at, data in _writes(case.host, since) if len(data) >= BLOCK and data[:BLOCK] in yesterday],
    }  # fmt: skip
    return Finding(rows, facts)


def _only_the_balance(case: ReplayCase, answer: Any, found: Finding) -> object:
    left, old = found.facts["left"], found.facts["yesterday"]
    return left[:BLOCK] == old[:BLOCK] and left[BLOCK:] != old[BLOCK:]


def _elsewhere(case: ReplayCase, answer: Any, found: Finding) -> object:
    return [at for at in found.facts["elsewhere"] if at not in (found.facts["hpa"], found.facts["hpa"] + BLOCK)]


def _in_clear(case: ReplayCase, answer: Any, found: Finding) -> object:
    clear = b"balance" in found.facts["left"]
    return clear and {"block": found.facts["block"]}


def _replay_reference(case: ReplayCase) -> Callable[[Any, Any], None]:
    def attack(host: Any, vm: Any) -> None:
        hpa = host.npt(vm).translate(0x5000)
        yesterday = host.probe(hpa, 32)  # the balance, and its checksum
        vm.run()  # the guest spends
        host.dram.write(hpa, yesterday)

    return attack


def _function(answer: Any) -> str:
    return "" if callable(answer) else "Give the function itself: answer = attack."


REPLAY = Exercise(
    id="tweak.replay",
    title="Set the balance back",
    minutes=8,
    level="core",
    kind="fresh",
    ask="The guest case.vm keeps an account at gpa {account:#x}: 16 bytes of balance, then 16 of its checksum.\n"
    "Each time you run it (vm.run()), it checks the account, spends, and halts. Write attack(host, vm):\n"
    "let it spend once, then make it believe the balance of before. It must run on. The check does it on\n"
    "three machines with other balances. answer = attack",
    setup=ReplayCase,
    check=_replay_check,
    reference=_replay_reference,
    wants=_function,
    heads=("what", "your attack", "wanted"),
    look="scene 2: the same text at the same address",
    hints=(
        "host.npt(vm).translate(gpa) is the machine address; host.probe(hpa, n) reads there, host.dram.write(hpa, data) writes.",
        "Two things have to fit each other, and each has a block of its own.",
        "Read before the guest spends, write after.",
    ),
    diagnoses=(
        Diagnosis(
            "half",
            _only_the_balance,
            "The guest stopped: its checksum, 16 bytes further, is of today. Blocks are 16 bytes; restore both.",
        ),
        Diagnosis(
            "elsewhere",
            _elsewhere,
            "The block decrypts elsewhere to something else. Same address, other time: that is all a replay is.",
        ),
        Diagnosis(
            "clear",
            _in_clear,
            "The bus now carries your number in clear, and the guest reads {block}: it decrypts whatever it finds.",
        ),
    ),
)


# ------------------------------------------------------------- tweak.remap


class RemapCase:
    """A guest that compares two of its pages, at gpa `a` and `b`, and opens where the first one says "admin"."""

    gives: tuple[str, ...] = ("host", "vm", "a", "b")
    a, b = A, B

    def __init__(self, seed: int) -> None:
        name = b"guest no. %05d " % int.from_bytes(Stream(seed).fork("exercise/tweak.remap").draw("name", 2), "little")
        self.host = Host("rome", seed=seed, memory=1 << 30)
        self.vm = _launch(self.host, doorkeeper, name, b"admin".ljust(BLOCK))

    def _frames(self) -> list[int]:
        """Where the guest's memory lies in the machine, but for its screen: the hpa of each page that it has touched."""
        host, vm = self.host, self.vm
        touched = (attempt(host.hpa, vm.process, slot.hva + at) for slot in vm.slots for at in range(0, slot.size, PAGE))
        return [hpa for hpa in touched if not isinstance(hpa, Refusal) and hpa != host.hpa(vm.process, vm.hva(REPORT))]


def _frame(case: RemapCase, gpa: int) -> int:
    found = attempt(case.host.npt(case.vm).translate, gpa)
    return -1 if isinstance(found, Refusal) else int(found)


def _remap_check(case: RemapCase, answer: Callable[[Any, Any], Any]) -> Finding:
    before = {hpa: case.host.dram.read(hpa, PAGE) for hpa in case._frames()}
    slots = {(slot.gpa, slot.hva) for slot in case.vm.slots}
    tables, second = {_frame(case, gpa) for gpa in TABLES[::PAGE]} - {-1}, _frame(case, B)
    student(answer, case.host, case.vm, answers=False)
    changed = [hpa for hpa, data in before.items() if case.host.dram.read(hpa, PAGE) != data]
    says = _report(case.vm, 5).decode("latin-1")
    words = {"opens": "opens", "shuts": "stays shut", "twice": "reads one name twice", "noise": "reads noise"}.get(says, "is gone")
    rows = [
        Row("the guest", words, "opens"),
        Row("pages changed", str(len(changed)), "0"),
    ]
    if slots != {(slot.gpa, slot.hva) for slot in case.vm.slots}:
        rows.append(Row("with", "memory slots", "slots or nested table: a VMM can do this without its kernel", True))
    return Finding(rows, {"changed": changed, "tables": tables, "twice": says == "twice", "admins": _frame(case, A) == second})


def _swapped(case: RemapCase, answer: Any, found: Finding) -> object:
    changed = [hpa for hpa in found.facts["changed"] if hpa not in found.facts["tables"]]
    return bool(changed) and {"where": ", ".join(f"{hpa:#x}" for hpa in changed[:2])}


def _table_gone(case: RemapCase, answer: Any, found: Finding) -> object:
    return found.facts["tables"] & set(found.facts["changed"])


def _one_mapping(case: RemapCase, answer: Any, found: Finding) -> object:
    return found.facts["twice"] and {"who": "admins" if found.facts["admins"] else "guests"}


def _remap_reference(case: RemapCase) -> Callable[[Any, Any], None]:
    def attack(host: Any, vm: Any) -> None:
        table = host.npt(vm)
        one, other = table.translate(0x8000), table.translate(0x9000)
        table.remap(0x8000, other)
        table.remap(0x9000, one)

    return attack


REMAP = Exercise(
    id="tweak.remap",
    title="Two pages change places, and no byte moves",
    minutes=8,
    level="core",
    kind="fresh",
    ask="Woken, the guest case.vm compares the page at gpa {a:#x} with the one at gpa {b:#x}, and opens if\n"
    'the first is "admin". It is the second that says so. Write attack(host, vm): make it open. The\n'
    "guest's memory must be the same before and after, byte by byte. Do not run the guest; the check\n"
    "does. answer = attack",
    setup=RemapCase,
    check=_remap_check,
    reference=_remap_reference,
    wants=_function,
    heads=("what", "your attack", "wanted"),
    look="scene 6: the mapping, not the bytes",
    hints=(
        "Between the gpa and the frame stands a table of the host's own: host.npt(vm).",
        "table.translate(gpa) is the frame behind a page, table.remap(gpa, hpa) points the page to another one.",
        "Two pages change places: that takes both mappings.",
    ),
    diagnoses=(
        Diagnosis(
            "table",
            _table_gone,
            "You wrote into a private page: the table decrypts to noise and the guest is gone. There is a second table, below "
            "that one, which is yours.",
        ),
        Diagnosis(
            "swapped",
            _swapped,
            "DRAM changed at {where}, and the guest reads neither page any more. What could change while every byte stays?",
        ),
        Diagnosis(
            "one mapping",
            _one_mapping,
            "Now A and B are the same frame; the guest found two {who} and stopped. Both mappings must change.",
        ),
    ),
)
