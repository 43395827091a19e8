"""Lab `es`, exercise `boot`: where a sealed AP starts, and how it comes to run a routine of the guest's own."""

from __future__ import annotations

from typing import Any

from sevlab import vmm
from sevlab.abi.boot import RESET_BLOCK
from sevlab.abi.kvm import KVM_MP_STATE_UNINITIALIZED
from sevlab.crypto import Stream
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.smp import GHCBS, ICR, INIT, OTHERS, PAGE, RESET_PAGE, STARTUP, on_vc, x2apic_on
from sevlab.host import Host
from sevlab.hw.access import Fetched
from sevlab.hw.isa import hlt, program, store, wrmsr
from sevlab.hw.program import Program
from sevlab.kvm.ap import SipiDelivered
from sevlab.lab.attempt import Refusal, attempt
from sevlab.lab.grading import Diagnosis, Exercise, Finding, Row, student

SHARED, WORD = 0x6000, 8  # where the routine leaves its word, and how long it is
ROUNDS = 40


@program
async def routine(word: bytes) -> None:
    """Leave a word where the host can read it, and halt."""
    await store(SHARED, word, c=False)
    while True:
        await hlt()


class BootCase:
    """`code`: a routine for AP 1, which leaves a word in shared memory. `vector`: the one to send."""

    gives = ("code", "vector")

    def __init__(self, seed: int) -> None:
        drawn = Stream(seed).fork("exercise/es.boot").draw("boot", 1 + WORD)
        self.vector, self.word = 0x10 + drawn[0] % 0x60, drawn[1:]
        self.seed = seed
        self.code = routine.image(self.word).rstrip(b"\0")

    def run(self, bsp: Program) -> dict[str, Any]:
        """A sealed guest of two processors begins with `bsp`, given vector and code: where the AP went, and what it left."""
        with Host("rome", seed=self.seed, memory=1 << 30) as host:
            host.register(routine, args=(self.word,))
            args = (self.vector, self.code)
            vm = vmm.launch(host, program=bsp, args=args, policy=5, vcpus=2, irqchip=True)
            vm.finish()
            last = attempt(vm.run, rounds=ROUNDS)  # a processor that finds no code ends KVM_RUN
            ap = host.kernel.vm_of(vm.process, vm.fd).vcpus[1]
            fetched = [row["gpa"] for row in host.trace.rows(Fetched) if row["program"] == "routine"]
            return {
                "started": bool(host.trace.rows(SipiDelivered)),
                "asleep": ap.mp_state == KVM_MP_STATE_UNINITIALIZED,
                "first": fetched[0] if fetched else 0,
                "word": vm.read(SHARED, WORD),
                "last": last.errno_name if isinstance(last, Refusal) else last.name,
            }


def _boot_wants(answer: Any) -> str:
    if not isinstance(answer, tuple) or len(answer) != 2:
        return "Two things: the address at which AP 1 starts, and the BSP's program."
    if not isinstance(answer[0], int):
        return "The first is a number: CS base plus IP, as the AP finds them."
    return "" if isinstance(answer[1], Program) else "The second is a program: @program(vc=on_vc), async def bsp(vector, code)."


def _boot_check(case: BootCase, answer: tuple[int, Program]) -> Finding:
    found = student(case.run, answer[1])
    ran = found["word"] == case.word
    rows = [
        Row("AP 1 starts at", f"{answer[0]:#x}", f"{RESET_BLOCK:#x}"),
        Row("AP 1 was started", "yes" if found["started"] else "no", "yes"),
        Row("the routine's word", found["word"].hex() if any(found["word"]) else "none", case.word.hex()),
    ]
    if not ran:
        rows.append(Row("the guest's last exit", found["last"], "HLT"))
    else:
        rows.append(Row("first fetch of the routine", f"{found['first']:#x}", f"{RESET_BLOCK:#x}"))
    return Finding(rows, {**found, "ran": ran})


def _boot_reference(case: BootCase) -> tuple[int, Program]:
    @program(vc=on_vc)
    async def bsp(vector: int, code: bytes) -> None:
        await open_ghcb(GHCBS)
        await x2apic_on()
        await store(RESET_PAGE, code.ljust(PAGE, b"\0"), c=True)  # where the AP was measured to start
        await wrmsr(ICR, OTHERS | INIT)
        await wrmsr(ICR, OTHERS | STARTUP | vector)
        while True:
            await hlt()

    return 0x80B004, bsp


BOOT = Exercise(
    id="es.boot",
    title="Where does it start?",
    minutes=6,
    level="core",
    kind="fresh",
    ask="A sealed guest has two processors. Its BSP sends vector {vector:#x}. Where does AP 1 start? Then write the BSP's program, "
    "so that AP 1 runs the routine in case.code (the rest of its page is zeros); it is run on guests with other vectors.\n"
    "Two things: address = ...; and @program(vc=on_vc) above async def bsp(vector, code).",
    setup=BootCase,
    check=_boot_check,
    reference=_boot_reference,
    wants=_boot_wants,
    look="the first SIPI of an AP in scene 5",
    hints=(
        "Scene 5: the firmware's table names the address, and the save area was measured with it.",
        "Before anything else: await open_ghcb(GHCBS), await x2apic_on().",
        "await store(page, code.ljust(4096, b'\\0'), c=True) puts it into private memory; wrmsr(ICR, OTHERS | INIT) comes first.",
    ),
    diagnoses=(
        Diagnosis(
            "vector",
            lambda case, answer, _: answer[0] % PAGE == 0 and 0 < answer[0] >> 12 <= 0xFF and {"reset": f"{RESET_BLOCK:#x}"},
            "So it was, before ES. The save area was measured with CS:IP = {reset}; nobody may change it, the sender of a "
            "SIPI least of all.",
        ),
        Diagnosis(
            "init",
            lambda case, answer, found: found.facts["asleep"],
            "mp_state stays UNINITIALIZED, the SIPI is dropped.",
        ),
        Diagnosis(
            "elsewhere",
            lambda case, answer, found: found.facts["started"] and not found.facts["ran"],
            "The AP runs the firmware's reset code. That code decides; tell *it* where to go, through memory that only the guest "
            "can write.",
        ),
    ),
)
