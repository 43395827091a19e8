"""Lab `mirror`: its exercises, in the order of the lab, and the machines that they are about."""

from __future__ import annotations

from typing import Any

from sevlab import vmm
from sevlab.crypto import Stream
from sevlab.guest.programs import SECRET
from sevlab.host import Host
from sevlab.hw.isa import hlt, load, program, store
from sevlab.lab.bus import bus
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.launches import two_pages
from sevlab.lab.mirror import HELPER, PRIVATE, SHARED, THEIRS, guest_with_helper, see, stranger
from sevlab.vmm import steps
from sevlab.vmm.mirror import bare, begin_at, enable

# ------------------------------------------------------------- mirror.table

PARTS = ("slot", "handle", "memory key", "memory slots", "vCPUs", "regions", "charge")
KINDS = ("shared", "own", "absent")


class TableCase:
    """A guest `vm` and its `mirror`, made by another process of another cgroup."""

    gives = ("host", "vm", "mirror")

    def __init__(self, seed: int) -> None:
        cgroups = {"/a": {"sev": 1}, "/b": {"sev": 1}}
        self.host = Host(seed=seed, memory=1 << 30, cgroups=cgroups)
        self.vm = guest_with_helper(self.host, process=self.host.process("qemu", cgroup="/a"), shared=True)
        self.mirror = vmm.mirror(self.vm, self.host.process("helper", cgroup="/b"), start=HELPER)
        self.handle = self.vm.handle

    def kinds(self) -> dict[str, str]:
        """What each part is, read off both VMs."""
        one, two = (self.host.kernel.vm_of(vm.process, vm.fd) for vm in (self.vm, self.mirror))
        same = {"slot": one.sev.asid == two.sev.asid, "handle": one.sev.handle == two.sev.handle}
        same["memory key"] = same["slot"] and same["handle"]
        has = {
            "memory slots": bool(list(two.slots)),
            "vCPUs": bool(two.vcpus),
            "regions": bool(two.sev.regions),
            "charge": two.sev.misc_cg is not None,
        }
        return {part: "shared" if same.get(part) else "own" if has.get(part, True) else "absent" for part in PARTS}


def _table_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(PARTS):
        return f"A dict with these keys: {', '.join(map(repr, PARTS))}."
    if not set(answer.values()) <= set(KINDS):
        return f"Each is one of {', '.join(map(repr, KINDS))}."
    return ""


def _table_check(case: TableCase, answer: dict[str, str]) -> Finding:
    return Finding([Row(part, answer[part], kind) for part, kind in case.kinds().items()])


def _table_reference(case: TableCase) -> dict[str, str]:
    return {
        **dict.fromkeys(["slot", "handle", "memory key"], "shared"),
        **dict.fromkeys(["memory slots", "vCPUs"], "own"),
        **dict.fromkeys(["regions", "charge"], "absent"),
    }


TABLE = Exercise(
    id="mirror.table",
    title="Shared or own?",
    minutes=4,
    level="core",
    kind="value",
    ask="case.vm of /a has a mirror, case.mirror, made by a process of /b. What is each of these in the mirror: "
    '"shared" with its owner, '
    'its "own", or "absent"?\nThe keys: "slot", "handle", "memory key", "memory slots", "vCPUs", "regions", "charge".',
    setup=TableCase,
    check=_table_check,
    reference=_table_reference,
    wants=_table_wants,
    heads=("part", "you", "both VMs"),
    look="topology(host)",
    hints=("`topology(case.host)` shows most of it.", "Pins are the owner's business: REG_REGION on a mirror is EINVAL."),
    diagnoses=(
        Diagnosis(
            "regions",
            lambda case, answer, _: answer["regions"] != "absent",
            "The mirror's list is empty, and REG_REGION there says EINVAL: pins are the owner's business.",
        ),
        Diagnosis(
            "charge",
            lambda case, answer, _: answer["charge"] != "absent",
            "misc.current of both cgroups is unchanged. One slot, one charge, and it is the owner's.",
        ),
        Diagnosis(
            "handle",
            lambda case, answer, _: answer["handle"] != "shared" and {"h": case.handle},
            "Both name firmware guest {h}; that is what makes it the same key.",
        ),
    ),
)


# ------------------------------------------------------------- mirror.readers

WHO = ("primary", "mirror", "stranger", "VMM")
SEES = ("plaintext", "ciphertext", "noise")
FAR = 0x4000_0000


@program
async def far_helper() -> None:
    """A helper whose VM has the guest's memory at another address."""
    await store(0x40002000, await load(0x40001000, 16, c=True), c=False)
    while True:
        await hlt()


@program
async def reading_guest() -> None:
    """A guest that keeps a sentence, and looks at it again."""
    await store(0x1000, b"my diary, page 1", c=True)
    await store(0x4000, await load(0x1000, 16, c=True), c=False)
    while True:
        await hlt()


class ReadersCase:
    """The frame behind gpa 0x1000 of a guest, and three more readers of it; its mirror has it at 0x40001000."""

    gives = ("host", "vm", "mirror", "other")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30)
        for n in range(Stream(seed).fork("exercise/mirror.readers").draw("guests", 1)[0] % 4):
            steps.create_vm(self.host.process(f"neighbour-{n}"))
        image = two_pages(self.host, below=far_helper, top=reading_guest)
        self.vm = vmm.launch(self.host, firmware=image, name="qemu")
        self.vm.finish()
        self.vm.run()
        self.mirror = bare(self.vm, self.vm.process)
        enable(self.mirror, self.vm, 197)
        ram, firmware = self.vm.slots
        see(self.mirror, 0, FAR, ram.hva, ram.size)
        see(self.mirror, 1, firmware.gpa, firmware.hva, firmware.size)
        steps.add_vcpus(self.mirror, 1)
        steps.reset_vcpus(self.mirror)
        begin_at(self.mirror, HELPER)
        self.mirror.run()
        self.other = stranger(self.host, self.vm)
        self.slot = self.host.kernel.vm_of(self.other.process, self.other.fd).sev.asid
        self.hex = self.found()["stranger"].hex(" ", 4)

    def found(self) -> dict[str, bytes]:
        """What each reader has."""
        return {
            "primary": self.vm.read(0x4000, 16),
            "mirror": self.vm.read(SHARED, 16),
            "stranger": self.vm.read(THEIRS, 16),
            "VMM": self.vm.read(PRIVATE, 16),
        }

    def kinds(self) -> dict[str, str]:
        """The same in words."""
        on_the_bus = bus(self.host, self.vm, PRIVATE, 16)
        kinds = {SECRET: "plaintext", on_the_bus: "ciphertext"}
        return {who: kinds.get(data, "noise") for who, data in self.found().items()}


def _readers_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(WHO):
        return f"A dict with these keys: {', '.join(map(repr, WHO))}."
    if not set(answer.values()) <= set(SEES):
        return f"Each is one of {', '.join(map(repr, SEES))}."
    return ""


def _readers_check(case: ReadersCase, answer: dict[str, str]) -> Finding:
    return Finding([Row(who, answer[who], kind) for who, kind in case.kinds().items()])


def _readers_reference(case: ReadersCase) -> dict[str, str]:
    return {"primary": "plaintext", "mirror": "plaintext", "stranger": "noise", "VMM": "ciphertext"}


READERS = Exercise(
    id="mirror.readers",
    title="Four readers",
    minutes=4,
    level="core",
    kind="value",
    ask="One frame: the primary has it at gpa 0x1000, its mirror at 0x40001000, a stranger with a key of its own at "
    "0x1000, and the VMM "
    'through its pointer. What does each read: "plaintext", "ciphertext" or "noise"?\n'
    'answer = {{"primary": ..., "mirror": ..., "stranger": ..., "VMM": ...}}',
    setup=ReadersCase,
    check=_readers_check,
    reference=_readers_reference,
    wants=_readers_wants,
    heads=("reader", "you", "it reads"),
    look="the frame on the bus",
    hints=(
        "The engine knows machine addresses and slots, no guest's addresses.",
        "Decrypted with another key is not the same as not decrypted.",
    ),
    diagnoses=(
        Diagnosis(
            "mirror",
            lambda case, answer, _: answer["mirror"] != "plaintext",
            "Another gpa, but the same frame and the same slot. The tweak knows frames.",
        ),
        Diagnosis(
            "stranger",
            lambda case, answer, _: answer["stranger"] == "ciphertext" and {"hex": case.hex},
            "The engine does decrypt for the stranger, only with the wrong key: {hex} is neither text nor what the bus carries.",
        ),
        Diagnosis(
            "VMM",
            lambda case, answer, _: answer["VMM"] != "ciphertext",
            "The VMM's pointer reads what is on the bus, byte for byte: ciphertext.",
        ),
    ),
)


# ------------------------------------------------------------- mirror.pays

STEPS = ("launch", "mirror", "the owner's process is killed", "the mirror's is killed")


class PaysCase:
    """/a has `a` guests and /b has `b` before all this, and they stay."""

    gives = ("host", "a", "b")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30)
        drawn = Stream(seed).fork("exercise/mirror.pays").draw("guests", 2)
        self.a, self.b = drawn[0] % 3, drawn[1] % 3

    def run(self) -> list[tuple[int, int]]:
        """misc.current of both after each step, on a machine of its own."""
        cgroups = {path: {"sev": 9} for path in ("/a", "/b")}
        with Host(seed=7, memory=1 << 30, cgroups=cgroups) as host:
            for name, number in (("a", self.a), ("b", self.b)):
                for n in range(number):
                    steps.create_vm(host.process(f"{name}-{n}", cgroup=f"/{name}"))

            def books() -> tuple[int, int]:
                a, b = (host.kernel.root_cgroup.find(path).current["sev"] for path in ("/a", "/b"))
                return a, b

            vm = guest_with_helper(host, process=host.process("qemu", cgroup="/a"), shared=True)
            found = [books()]
            mirror = vmm.mirror(vm, host.process("helper", cgroup="/b"), start=HELPER)
            found.append(books())
            for process in (vm.process, mirror.process):
                process.kill()
                found.append(books())
            return found


def _pays_wants(answer: Any) -> str:
    good = (
        isinstance(answer, list) and len(answer) == 4 and all(isinstance(pair, tuple | list) and len(pair) == 2 for pair in answer)
    )
    return "" if good else "A list of four pairs: misc.current of (/a, /b) after each step."


def _pays_check(case: PaysCase, answer: list[tuple[int, int]]) -> Finding:
    return Finding([Row(step, str(tuple(you)), str(books)) for step, you, books in zip(STEPS, answer, case.run(), strict=True)])


def _pays_reference(case: PaysCase) -> list[tuple[int, int]]:
    more, same = (case.a + 1, case.b), (case.a, case.b)
    return [more, more, more, same]


PAYS = Exercise(
    id="mirror.pays",
    title="Whose cgroup?",
    minutes=4,
    level="core",
    kind="value",
    ask="/a has {a} guests, /b has {b}, and they stay. Now: a launch in /a; a mirror of it, made by a process of /b; "
    "the owner's process is "
    "killed; the mirror's process is killed. misc.current of (/a, /b) after each step?\nanswer = [(..., ...), (..., "
    "...), (..., ...), (..., ...)]",
    setup=PaysCase,
    check=_pays_check,
    reference=_pays_reference,
    wants=_pays_wants,
    heads=("after", "you", "the books"),
    look="misc.current of both",
    hints=("A charge is made for a slot.", "Who holds the owner, when its process is dead?"),
    diagnoses=(
        Diagnosis(
            "mirror",
            lambda case, answer, _: tuple(answer[1]) == (case.a + 1, case.b + 1),
            "A mirror takes no slot, so nobody is charged for it.",
        ),
        Diagnosis(
            "survivor",
            lambda case, answer, _: tuple(answer[2]) == (case.a, case.b + 1),
            "The charge does not follow the survivor; only MOVE carries a charge over.",
        ),
        Diagnosis(
            "owner",
            lambda case, answer, _: tuple(answer[2]) == (case.a, case.b),
            "The owner lives on, kept by the mirror, and so does its charge.",
        ),
    ),
)


EXERCISES = (TABLE, READERS, PAYS)
