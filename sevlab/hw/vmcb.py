"""The control block of a virtual processor: what its hypervisor sets, and what an exit says.

Exit codes carry AMD's numbers (APM volume 2, appendix C), as far as a guest here
can cause them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sevlab.abi.kvm_vcpu import kvm_regs
from sevlab.abi.vmsa import Vmsa
from sevlab.hw import xstate
from sevlab.hw.isa import Fault
from sevlab.hw.npt import Npt
from sevlab.hw.thread import Thread

if TYPE_CHECKING:
    from sevlab.hw.savearea import SaveArea

EXIT_INTR = 0x60  # a physical interrupt: the time given to the guest is used up
EXIT_CPUID = 0x72
EXIT_HLT = 0x78
EXIT_IOIO = 0x7B  # exit_info_1: bit 0 IN, bit 2 string, bit 3 repeated, bits 4 to 6 size 1, 2 or 4, bits 31:16 port
EXIT_MSR = 0x7C  # exit_info_1: 1 for a write
EXIT_SHUTDOWN = 0x7F
EXIT_VMMCALL = 0x81
EXIT_WBINVD = 0x89
EXIT_NPF = 0x400  # exit_info_1: NPF_ bits; exit_info_2: the gpa
EXIT_VMGEXIT = 0x403
EXIT_INVALID = -1  # VMRUN did not enter

NPF_WRITE, NPF_FETCH, NPF_GUEST_PAGE, NPF_GUEST_TABLE = 1 << 1, 1 << 4, 1 << 32, 1 << 33
IOIO_IN, IOIO_STR, IOIO_REP = 1, 1 << 2, 1 << 3


class Vmcb:
    """One virtual processor's control block: what the hypervisor sets, and what an exit says.

    Set: `asid`, `sev`, `es`, `npt`, `regs` (general registers), `save` (the save area: segments, control registers), `vmsa_hpa` and
    `ghcb_gpa` (SEV-ES), `skip` (RIP is past the pending instruction: its result is in the registers, or in `data`
    for a load), `event` (a Fault to inject). `save.cr3` not 0 means that the guest's page tables are in use.
    Said: `exit_code`, `exit_info_1`, `exit_info_2`. `thread` is who runs; `code` the gpa it was fetched from.
    """

    __slots__ = (
        *("asid", "code", "data", "es", "event", "exit_code", "exit_info_1", "exit_info_2", "ghcb_gpa", "gpa", "npt"),
        *("regs", "save", "seen", "sev", "skip", "thread", "vmsa", "vmsa_hpa", "why", "xsave"),
    )

    def __init__(self, npt: Npt, save: Vmsa, *, asid: int = 0, sev: bool = False, es: bool = False, vmsa_hpa: int = 0) -> None:
        self.asid, self.sev, self.es = asid, sev, es
        self.npt = npt
        self.regs = kvm_regs(rflags=2)
        self.save = save
        self.vmsa_hpa = vmsa_hpa
        self.vmsa: SaveArea | None = None  # the sealed state, from the first VMRUN on
        self.ghcb_gpa = 0
        self.exit_code = self.exit_info_1 = self.exit_info_2 = 0
        self.why = ""
        self.skip = False
        self.event: Fault | None = None
        self.data = b""
        self.xsave = xstate.initial()  # floating-point and vector registers (of a sealed processor: in its save area)
        self.thread: Thread | None = None
        self.code = 0
        self.gpa = 0  # where the access under way begins, as the guest's own page tables have it
        self.seen: tuple[Any, ...] = ()  # what the code page looked like when it was last fetched

    def exit(self, code: int, info_1: int = 0, info_2: int = 0) -> int:
        """Leave the guest: the exit code and what it says."""
        self.exit_code, self.exit_info_1, self.exit_info_2 = code, info_1, info_2
        return code
