"""Lab `tour`: its exercises, in the order of the lab, and the machines that they are about."""

from __future__ import annotations

from typing import Any

from sevlab import vmm
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.hw.isa import hlt, program, store
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.bus import bus
from sevlab.lab.exercises.tour_errno import ERRNO
from sevlab.lab.exercises.tour_parties import PARTIES
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.prediction import Answer
from sevlab.lab.tour import kind

FIRST, PAGES, PAGE = 0x1_0000, 64, 4096
PRIVATE, SHARED, LINE = 0x1_0000, 0x2_0000, 16
MARK = b"password="
HEADER = b"notes of %s. nothing to see on this page. "
WORDS = (b"amber", b"birch", b"copper", b"fjord", b"garnet", b"harbor", b"indigo", b"juniper", b"lantern", b"marble")
READINGS = ("plaintext", "ciphertext", "EFAULT", "zeros")


@program
async def notebook_of(first: int, pages: int, header: bytes, page: int, secret: bytes) -> None:
    """Fill `pages` pages with a header each, and one of them with a password behind it."""
    for number in range(pages):
        await store(first + 4096 * number, header + (secret if number == page else b""), c=True)
    await hlt()


@program
async def two_notes(private: int, shared: int, text: bytes) -> None:
    """The same sentence in a private page and in a shared one."""
    await store(private, text, c=True)
    await store(shared, text, c=False)
    await hlt()


def _password(stream: Stream, label: str) -> bytes:
    draw = stream.draw(label, 3)
    return b"%s-%s-%02d" % (WORDS[draw[0] % len(WORDS)], WORDS[draw[1] % len(WORDS)], draw[2] % 100)


# ------------------------------------------------------------- tour.bus


class BusCase:
    """Two guests with a notebook of 64 pages from gpa `first` on, and a password in one page: `a` is ordinary, `b` is not."""

    gives: tuple[str, ...] = ("host", "a", "b", "first", "pages")
    first, pages = FIRST, PAGES

    def __init__(self, seed: int) -> None:
        stream = Stream(seed).fork("exercise/tour.bus")
        self.host = Host(seed=seed)
        self._password = _password(stream, "a")
        self.a = self._guest(stream, "vm-a", None, self._password)
        self.b = self._guest(stream, "vm-b", 1, _password(stream, "b"))

    def _guest(self, stream: Stream, name: str, policy: int | None, password: bytes) -> Any:
        args = FIRST, PAGES, HEADER % name.encode(), stream.draw(f"{name}/page", 1)[0] % PAGES, MARK + password + b"\0"
        vm = vmm.launch(self.host, program=notebook_of, args=args, policy=policy, name=name)
        if policy is not None:
            vm.finish()
        vm.run()
        return vm


def _bus_check(case: BusCase, answer: Any) -> Finding:
    right = answer == case._password  # what was to be found is not told to whoever has not found it
    machine = repr(case._password) if right else f"{len(case._password)} other bytes"
    return Finding([Row("password", repr(answer)[:40], machine, right)])


def _bus_reference(case: BusCase) -> bytes:
    found = b""
    for page in range(case.pages):
        hva = case.a.hva(case.first + 4096 * page)
        found += case.host.probe(case.host.hpa(case.a.process, hva), 4096)
    return found.partition(b"password=")[2].partition(b"\0")[0]


def _of_b(case: BusCase, answer: Any) -> bool:
    if not isinstance(answer, bytes) or len(answer) < 4:
        return False
    return any(answer in bus(case.host, case.b, FIRST + PAGE * page, PAGE) for page in range(PAGES))


BUS = Exercise(
    id="tour.bus",
    title="Read a stranger's password",
    minutes=2,
    level="core",
    kind="value",
    ask="case.a is an ordinary VM. Somewhere in its {pages} pages from gpa {first:#x} on its guest keeps password=...\n"
    "Read it off the bus, with case.host.probe: answer = b'...'",
    setup=BusCase,
    check=_bus_check,
    reference=_bus_reference,
    look="the pages of vm-a on the bus",
    hints=(
        "case.a.hva(gpa) is the VMM's pointer, case.host.hpa(case.a.process, hva) the machine address behind it.",
        "Each page starts with a readable header; `bytes.find` finds what you look for.",
    ),
    diagnoses=(
        Diagnosis(
            "padding",
            lambda case, answer, _: isinstance(answer, bytes) and case._password in answer,
            "You have it. Give only what stands after the `=` and before the first zero byte.",
        ),
        Diagnosis(
            "neighbour",
            lambda case, answer, _: _of_b(case, answer),
            "These bytes belong to vm-b, which is an SEV guest: that is ciphertext. Which VM is ordinary?",
        ),
        Diagnosis(
            "address",
            lambda case, answer, _: isinstance(answer, int),
            "That is where it lies. The question is what it says.",
        ),
    ),
)


# ------------------------------------------------------------- tour.pointer


class PointerCase:
    """An SEV guest with one sentence in two pages: at gpa `private` under its key, at gpa `shared` in the open."""

    gives: tuple[str, ...] = ("host", "vm", "private", "shared")
    private, shared = PRIVATE, SHARED

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed)
        self._text = _password(Stream(seed).fork("exercise/tour.pointer"), "text").ljust(LINE, b".")[:LINE]
        self.vm = vmm.launch(self.host, program=two_notes, args=(PRIVATE, SHARED, self._text), name="vm-b")
        self.vm.finish()
        self.vm.run()

    def _read(self, gpa: int) -> Answer:
        found = attempt(self.vm.process.read, self.vm.hva(gpa), LINE)
        if isinstance(found, Refusal):
            return Answer(found.errno_name)
        says = {"the sentence": "plaintext", "noise": "ciphertext"}.get(kind(found, self._text), "zeros")
        return Answer(says, found.hex())


def _pointer_check(case: PointerCase, answer: dict[str, str]) -> Finding:
    return Finding([Row(name, str(answer.get(name)), case._read(getattr(case, name)).says) for name in ("private", "shared")])


def _pointer_reference(case: PointerCase) -> dict[str, str]:
    return {"private": "ciphertext", "shared": "plaintext"}


def _pointer_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != {"private", "shared"}:
        return "Give a dict with the keys 'private' and 'shared'."
    odd = [value for value in answer.values() if value not in READINGS]
    return f"{odd[0]!r} is none of {', '.join(READINGS)}." if odd else ""


POINTER = Exercise(
    id="tour.pointer",
    title="No probe, only the VMM's own pointer",
    minutes=3,
    level="core",
    kind="value",
    ask="You are the VMM of an SEV guest and mapped its memory yourself. What does case.vm.process.read(hva, 16) give\n"
    "for the page at gpa {private:#x} (private), and for the one at {shared:#x} (shared)?\n"
    "answer = {{'private': ..., 'shared': ...}}, each of plaintext, ciphertext, EFAULT, zeros",
    setup=PointerCase,
    check=_pointer_check,
    reference=_pointer_reference,
    wants=_pointer_wants,
    look="the same page on the bus",
    hints=("The engine asks whose access this is.", "Read: case.vm.hva(gpa) is the pointer."),
    diagnoses=(
        Diagnosis(
            "fault",
            lambda case, answer, _: answer["private"] == "EFAULT",
            "The page is mapped and the read succeeds; nothing in the VMM's page table knows about SEV. Compare the bytes with "
            "the bus.",
        ),
        Diagnosis(
            "key",
            lambda case, answer, _: (
                answer["private"] == "plaintext" and {"text": case._text.decode(), "hex": case._read(PRIVATE).evidence}
            ),
            "The guest reads '{text}', your pointer reads {hex}. The key goes with the guest's slot, and you are not running in "
            "it.",
        ),
        Diagnosis(
            "erased",
            lambda case, answer, _: answer["private"] == "zeros",
            "Not erased, encrypted: look for the same bytes on the bus.",
        ),
    ),
)


EXERCISES = (BUS, POINTER, PARTIES, ERRNO)
