"""A processor on a bare board for tests: a chip, some memory, one nested page table, no kernel and no firmware.

Guest frames 0 to 0xFF lie at the machine's frames 0 to 0xFF, the last sixteen below 4 GiB at 0x200 and up; behind
everything else there is nothing.
"""

from __future__ import annotations

from typing import Any

from sevlab.crypto import Stream
from sevlab.hw.cpu import vmrun
from sevlab.hw.npt import Npt
from sevlab.hw.program import Program
from sevlab.hw.savearea import seal
from sevlab.hw.soc import Soc
from sevlab.hw.vmcb import Vmcb
from sevlab.kvm.vcpu_regs import reset_state
from sevlab.trace import Trace

ASID, KEY = 5, bytes(range(16))
OTHER, OTHER_KEY = 7, bytes(range(50, 66))
RESET = 0xFFFF_FFF0
PAGE = 0x1000
TMR = 0x500000  # where the check values of sealed save areas lie


def frame(gfn: int) -> int | None:
    if gfn < 0x100:
        return gfn
    return 0x200 + (gfn & 0xF) if 0xFFFF0 <= gfn < 0x100000 else None


class Board:
    """`guest` loads a program and gives the control block of a processor about to fetch it."""

    def __init__(self, chip: str = "rome", seed: int = 1) -> None:
        self.trace = Trace()
        self.soc = Soc(chip, Stream(seed), self.trace, 8 << 20)
        self.npt = Npt(frame)
        self.soc.engine.install(ASID, KEY)
        self.soc.engine.install(OTHER, OTHER_KEY)

    def hpa(self, gpa: int) -> int:
        return self.npt.translate(gpa)

    def load(self, gpa: int, page: bytes, asid: int = ASID) -> None:
        """Put a page where a guest with this key sees it at `gpa`."""
        self.soc.engine.write(asid, self.hpa(gpa & -PAGE), page)

    def guest(self, program: Program, *args: Any, asid: int = ASID, at: int = RESET) -> Vmcb:
        """A processor whose CS:RIP is `at`, where `program` lies under the key of slot `asid` (0: a guest without SEV)."""
        self.load(at, self.soc.programs.add(program, args=args), asid)
        return self.vmcb(asid, at)

    def vmcb(self, asid: int = ASID, at: int = RESET) -> Vmcb:
        vmcb = Vmcb(self.npt, reset_state(), asid=asid, sev=asid != 0)
        vmcb.save.cs.base, vmcb.regs.rip = at & -0x10000, at & 0xFFFF
        return vmcb

    def es(self, program: Program, *args: Any, at: int = RESET, vmsa_hpa: int = 0x300000) -> Vmcb:
        """A processor of an SEV-ES guest: its state is a sealed page, and nothing of it is in the control block."""
        self.load(at, self.soc.programs.add(program, args=args))
        save = reset_state()
        save.cs.base, save.rip = at & -0x10000, at & 0xFFFF
        seal(self.soc, ASID, vmsa_hpa, save.pack(), TMR + (vmsa_hpa >> 12) % 64 * 64)
        return Vmcb(self.npt, reset_state(), asid=ASID, sev=True, es=True, vmsa_hpa=vmsa_hpa)

    def run(self, vmcb: Vmcb, budget: int = 10_000) -> int:
        return vmrun(self.soc, vmcb, budget)

    def bus(self, gpa: int, n: int) -> bytes:
        """What the memory bus carries for a guest's bytes."""
        return self.soc.dram.read(self.hpa(gpa), n)
