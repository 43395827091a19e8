"""The table of exits: what a guest can leave with, who handles it, and what the emulation leaves out.

Every code that the processor can say has a row. What an SEV-ES guest asks for through
its GHCB has a table of its own, in `vmgexit.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sevlab.hw.vmcb import (
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_INTR,
    EXIT_INVALID,
    EXIT_IOIO,
    EXIT_MSR,
    EXIT_NPF,
    EXIT_SHUTDOWN,
    EXIT_VMGEXIT,
    EXIT_VMMCALL,
    EXIT_WBINVD,
)
from sevlab.kvm.intercepts import (
    LATER,
    RESUME,
    TICK,
    USER,
    cpuid,
    hlt,
    interrupted,
    invalid,
    ioio,
    msr,
    npf,
    shutdown,
    vmmcall,
    wbinvd,
)
from sevlab.kvm.vmgexit import vmgexit

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

__all__ = ["EXITS", "HANDLERS", "LATER", "RESUME", "TICK", "USER", "ExitRow"]


class ExitRow(NamedTuple):
    """One exit of the processor: who handles it, and what the emulation leaves out."""

    handler: Callable[[Vcpu], int]
    leaves_out: str = ""


EXITS: dict[int, ExitRow] = {
    EXIT_INTR: ExitRow(interrupted, "the host's interrupts are a count of instructions"),
    EXIT_CPUID: ExitRow(cpuid),
    EXIT_HLT: ExitRow(hlt, "no interrupt handler runs in a guest: an interrupt only ends the wait"),
    EXIT_IOIO: ExitRow(ioio, "no device in the kernel answers"),
    EXIT_MSR: ExitRow(msr, "a dozen registers; no MSR filters"),
    EXIT_SHUTDOWN: ExitRow(shutdown),
    EXIT_VMMCALL: ExitRow(vmmcall, "every hypercall but VAPIC_POLL_IRQ and KICK_CPU is unknown"),
    EXIT_NPF: ExitRow(npf, "no access that is half memory and half device; no dirty bits"),
    EXIT_WBINVD: ExitRow(wbinvd, "nothing to write back: no device bypasses the caches"),
    EXIT_VMGEXIT: ExitRow(vmgexit, "see the table of VMGEXITs"),
    EXIT_INVALID: ExitRow(invalid, "the checks that tell a save area from noise"),
}
HANDLERS: dict[int, Callable[[Vcpu], int]] = {code: row.handler for code, row in EXITS.items()}
