"""Lab `es`: its exercises, in the order of the lab; those about requests are here, those about processors beside it."""

from __future__ import annotations

from typing import Any

from sevlab.abi.ghcb import OFFSETS, SVM_EXIT_CPUID, SVM_EXIT_IOIO, SVM_EXIT_MSR, VALID_BITS, Ghcb
from sevlab.crypto import Stream
from sevlab.host import Host
from sevlab.kvm.ghcb import VmgexitEnter
from sevlab.lab.exercises.es_boot import BOOT
from sevlab.lab.exercises.es_ghost import GHOST
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row
from sevlab.lab.sealed import ask

CODES = ("sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")
REGISTERS = ("rax", "rbx", "rcx", "rdx", "rsi", "xcr0")

# ------------------------------------------------------------- es.decode

KEYS = ("exit", "info1", "info2", "registers")
EVENTS = (  # exit code, info1, the registers that the request needs
    (SVM_EXIT_CPUID, 0, ("rax", "rcx")),
    (SVM_EXIT_MSR, 0, ("rcx",)),
    (SVM_EXIT_MSR, 1, ("rcx", "rax", "rdx")),
    (SVM_EXIT_IOIO, 0x0402_0010, ("rax",)),  # one byte to port 0x402
)
MSRS = (0xC000_0082, 0x10, 0x1B)  # LSTAR, which takes any number; the time-stamp counter, the APIC's base
LEAVES = (0, 1, 7, 0x8000_001F)


class DecodeCase:
    """`page`: 4,096 bytes that a sealed guest put into its GHCB, with leftovers of its last request."""

    gives = ("page",)

    def __init__(self, seed: int) -> None:
        drawn = Stream(seed).fork("exercise/es.decode").draw("request", 96)
        code, info1, needs = EVENTS[drawn[0] % len(EVENTS)]
        request = Ghcb(sw_exit_code=code, sw_exit_info_1=info1)
        old = [name for name in REGISTERS[:5] if name not in needs]
        left = [old[drawn[1] % len(old)], old[(drawn[1] + 1) % len(old)]]
        for number, name in enumerate([*needs, *left]):
            setattr(request, name, 1 + int.from_bytes(drawn[8 + 4 * number : 12 + 4 * number], "little"))
        if code == SVM_EXIT_CPUID:
            request.rax, request.rcx = LEAVES[drawn[2] % len(LEAVES)], drawn[3] % 4
        elif code == SVM_EXIT_MSR:
            request.rcx = MSRS[0] if info1 else MSRS[drawn[2] % len(MSRS)]
        self.page = request.mark(*CODES, *needs).pack()

    @property
    def request(self) -> Ghcb:
        """The page with names."""
        return Ghcb.unpack(self.page)

    def stale(self) -> dict[str, int]:
        """The registers that have bytes and no bit, with their bytes."""
        page = self.request
        return {name: getattr(page, name) for name in REGISTERS if getattr(page, name) and not page.is_valid(name)}

    def heard(self) -> dict[str, Any]:
        """What a kernel makes of the page: a guest sends it, and the row of its trace and the bits are read."""
        page = self.request
        with Host(seed=7, memory=1 << 30) as host:
            ask(host, page)
            row = host.trace.rows(VmgexitEnter)[-1]
        registers = {name: getattr(page, name) for name in REGISTERS if page.is_valid(name)}
        return {"exit": row["exit_reason"], "info1": row["info1"], "info2": row["info2"], "registers": registers}


def _decode_wants(answer: Any) -> str:
    if not isinstance(answer, dict) or set(answer) != set(KEYS):
        return f"A dict with these keys: {', '.join(map(repr, KEYS))}."
    if not isinstance(answer["registers"], dict) or not set(answer["registers"]) <= set(REGISTERS):
        return f'"registers" is a dict too, from a name to a number; the names are {", ".join(REGISTERS)}.'
    if not all(isinstance(number, int) for number in (*(answer[key] for key in KEYS[:3]), *answer["registers"].values())):
        return "Each value is a number; int.from_bytes(..., \"little\") makes one of eight bytes."
    return ""


def _shown(number: int | None) -> str:
    return "not shown" if number is None else f"{number:#x}"


def _decode_check(case: DecodeCase, answer: dict[str, Any]) -> Finding:
    truth = case.heard()
    rows = [Row(key, f"{answer[key]:#x}", f"{truth[key]:#x}") for key in KEYS[:3]]
    for name in REGISTERS:
        you, machine = answer["registers"].get(name), truth["registers"].get(name)
        if you is not None or machine is not None:
            rows.append(Row(name, _shown(you), _shown(machine)))
    return Finding(rows, {"truth": truth})


def _decode_reference(case: DecodeCase) -> dict[str, Any]:
    def number(offset: int) -> int:
        return int.from_bytes(case.page[offset : offset + 8], "little")

    bitmap = int.from_bytes(case.page[0x3F0:0x400], "little")
    places = {"rax": 0x1F8, "rcx": 0x308, "rdx": 0x310, "rbx": 0x318, "rsi": 0x330, "xcr0": 0x3E8}
    shown = {name: number(offset) for name, offset in places.items() if bitmap >> offset // 8 & 1}
    return {"exit": number(0x390), "info1": number(0x398), "info2": number(0x3A0), "registers": shown}


def _stale(case: DecodeCase, answer: dict[str, Any], found: Finding) -> object:
    name = next((name for name in case.stale() if name in answer["registers"]), None)
    return name is not None and {"off": f"{OFFSETS[name]:#x}", "b": VALID_BITS[name]}


def _per_byte(case: DecodeCase, answer: dict[str, Any], found: Finding) -> bool:
    """The names are those of a bitmap that has a bit a byte; most of its bits would lie beyond its end."""
    bits = int.from_bytes(case.request.valid_bitmap, "little")
    wrapped = {name for name in REGISTERS if bits >> OFFSETS[name] % 128 & 1}
    return set(answer["registers"]) in (set(), wrapped) and set(answer["registers"]) != set(found.facts["truth"]["registers"])


def _shifted(case: DecodeCase, answer: dict[str, Any], found: Finding) -> bool:
    """A number that is not the right one stands elsewhere in the page."""
    truth = found.facts["truth"]
    given = [(answer[key], truth[key]) for key in KEYS[:3]]
    given += [(number, truth["registers"].get(name)) for name, number in answer["registers"].items()]
    words = {int.from_bytes(case.page[at : at + 8], "little") for at in range(0, len(case.page), 8)}
    words |= {int.from_bytes(case.page[at : at + 8], "little") for at in range(4, len(case.page) - 8, 8)}
    return any(you != right and you in words for you, right in given)


DECODE = Exercise(
    id="es.decode",
    title="Read a GHCB",
    minutes=5,
    level="core",
    kind="value",
    ask="case.page has the 4,096 bytes of a GHCB as a guest has sent them. Which event, which two information words, and which "
    "registers does the guest vouch for?\n"
    'A dict: answer = {{"exit": ..., "info1": ..., "info2": ..., "registers": {{"rax": ..., ...}}}}; only registers that count.',
    setup=DecodeCase,
    check=_decode_check,
    reference=_decode_reference,
    wants=_decode_wants,
    heads=("field", "you", "the kernel"),
    look="the request of scene 3",
    hints=(
        "Exit code, info1 and info2 are eight bytes each, from 0x390 on; the registers' places stand in scene 3.",
        "The bitmap has 16 bytes from 0x3F0 on; bit n stands for the eight bytes at 8 n.",
        "lab.layout(Ghcb.unpack(case.page)) draws a dot for each field that counts.",
    ),
    diagnoses=(
        Diagnosis(
            "stale",
            _stale,
            "There are bytes at {off}, but bit {b} is not set: left over from the last request. The host must not use them, and "
            "neither should you.",
        ),
        Diagnosis("bytes", _per_byte, "One bit stands for eight bytes: offset / 8."),
        Diagnosis("shifted", _shifted, "Offsets count from the start of the page; the bitmap is at 0x3F0."),
    ),
)


# ------------------------------------------------------------- es.missing


class MissingCase:
    """`request` asks CPUID leaf 0xD and is told info1 = 2, info2 = 4. `ask(request)` has a guest send one: (info1, info2)."""

    gives = ("host", "request", "ask")

    def __init__(self, seed: int) -> None:
        self.host = Host(seed=seed, memory=1 << 30)
        drawn = Stream(seed).fork("exercise/es.missing").draw("request", 8)
        self.leaf, self.subleaf = 0xD, drawn[0] % 3
        request = Ghcb(sw_exit_code=SVM_EXIT_CPUID, rax=self.leaf, rcx=self.subleaf, rbx=drawn[1] << 8)
        self.request = request.mark(*CODES, "rax", "rcx")
        self._sent = self.request.pack()  # as it was: the reader may mend the other one

    def ask(self, request: Ghcb) -> Any:
        """Have a new guest on the case's host send a request: info1 and info2 as it finds them."""
        return ask(self.host, request)

    def lacking(self) -> str:
        """The register without which it is refused: found by trying each, on a machine of its own."""
        for name in REGISTERS:
            tried = Ghcb.unpack(self._sent)
            if tried.is_valid(name):
                continue
            setattr(tried, name, 1)
            with Host(seed=7, memory=1 << 30) as host:
                if ask(host, tried.mark(name)) == (0, 0):
                    return name
        return "none"


def _missing_wants(answer: Any) -> str:
    if not isinstance(answer, tuple) or len(answer) != 2 or not isinstance(answer[0], str | int):
        return 'Two things: the register\'s name, as "rax", and the corrected request.'
    return "" if isinstance(answer[1], Ghcb) else "The second is a request: a Ghcb, for example case.request after a mark()."


def _missing_check(case: MissingCase, answer: tuple[Any, Ghcb]) -> Finding:
    name, request = answer
    said = case.ask(request)
    asked = f"CPUID {request.rax:#x}, {request.rcx}" if request.sw_exit_code == SVM_EXIT_CPUID else f"{request.sw_exit_code:#x}"
    rows = [
        Row("the register", str(name), case.lacking()),
        Row("the question", asked, f"CPUID {case.leaf:#x}, {case.subleaf}"),
        Row("info1, info2", ", ".join(map(str, said)) if isinstance(said, tuple) else str(said), "0, 0"),
    ]
    return Finding(rows)


def _missing_reference(case: MissingCase) -> tuple[str, Ghcb]:
    case.request.xcr0 = 1
    case.request.mark("xcr0")
    return "xcr0", case.request


MISSING = Exercise(
    id="es.missing",
    title="One bit short",
    minutes=4,
    level="core",
    kind="state",
    ask="The guest that sends case.request asks CPUID leaf 0xD, subleaf {subleaf}, and finds info1 = 2, info2 = 4. Which register "
    "did it forget to show? Correct the request; case.ask(request) sends it again.\n"
    'Two things: answer = "its name"; request = the corrected one.',
    setup=MissingCase,
    check=_missing_check,
    reference=_missing_reference,
    wants=_missing_wants,
    look="the ladder of scene 4",
    hints=(
        "The answer depends on which extended state the guest has switched on. A register says that.",
        "request.xcr0 = 1 fills in the field, request.mark(...) sets its bit.",
    ),
    diagnoses=(
        Diagnosis(
            "answers",
            lambda case, answer, _: answer[0] in ("rbx", "rdx"),
            "Those are answers, not questions; the host fills them and sets their bits itself.",
        ),
        Diagnosis(
            "rcx",
            lambda case, answer, _: answer[0] in ("rcx", "rax"),
            "Set already. Leaf 0xD depends on one register more than other leaves.",
        ),
        Diagnosis(
            "result",
            lambda case, answer, _: str(answer[0]) in ("4", "0x4", "none", "nothing"),
            "info1 = 2 means the request was not understood; info2 says why: 4, something is missing.",
        ),
        Diagnosis(
            "unmarked",
            lambda case, answer, found: found.rows[0].ok and not answer[1].is_valid(found.rows[0].machine),
            "You named it. Now show it: fill in the field and mark it, or the host may not look.",
        ),
    ),
)

EXERCISES = (DECODE, MISSING, BOOT, GHOST)
