"""Instructions that leave the guest: their operands on the way out, their results once the hypervisor has moved RIP past them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sevlab.hw.isa import Instruction
from sevlab.hw.vmcb import (
    EXIT_CPUID,
    EXIT_HLT,
    EXIT_IOIO,
    EXIT_MSR,
    EXIT_VMGEXIT,
    EXIT_VMMCALL,
    EXIT_WBINVD,
    IOIO_IN,
    IOIO_REP,
    IOIO_STR,
    Vmcb,
)


def _cpuid(vmcb: Vmcb, instruction: Instruction) -> int:
    _, vmcb.regs.rax, vmcb.regs.rcx = instruction
    return vmcb.exit(EXIT_CPUID)


def _msr(vmcb: Vmcb, instruction: Instruction) -> int:
    write = instruction[0] == "wrmsr"
    vmcb.regs.rcx = instruction[1]
    if write:
        vmcb.regs.rax, vmcb.regs.rdx = instruction[2] & 0xFFFF_FFFF, instruction[2] >> 32
    return vmcb.exit(EXIT_MSR, int(write))


def _out(vmcb: Vmcb, instruction: Instruction) -> int:
    _, port, data = instruction
    vmcb.regs.rax = vmcb.regs.rax & -1 << 8 * len(data) & 0xFFFF_FFFF_FFFF_FFFF | int.from_bytes(data, "little")
    return vmcb.exit(EXIT_IOIO, port << 16 | len(data) << 4)


def _in(vmcb: Vmcb, instruction: Instruction) -> int:
    return vmcb.exit(EXIT_IOIO, instruction[1] << 16 | instruction[2] << 4 | IOIO_IN)


def _string(vmcb: Vmcb, instruction: Instruction) -> int:
    op, port, what, size = instruction
    reading = op == "ins"
    info = port << 16 | size << 4 | IOIO_STR | IOIO_REP | (IOIO_IN if reading else 0)
    return vmcb.exit(EXIT_IOIO, info, what if reading else len(what) // size)


def _vmmcall(vmcb: Vmcb, instruction: Instruction) -> int:
    for register, value in zip(("rax", "rbx", "rcx", "rdx", "rsi"), instruction[1:], strict=False):
        setattr(vmcb.regs, register, value)
    return vmcb.exit(EXIT_VMMCALL)


LEAVE: dict[str, Callable[[Vmcb, Instruction], int]] = {
    "cpuid": _cpuid,
    "rdmsr": _msr,
    "wrmsr": _msr,
    "out": _out,
    "in": _in,
    "outs": _string,
    "ins": _string,
    "wbinvd": lambda vmcb, instruction: vmcb.exit(EXIT_WBINVD),
    "hlt": lambda vmcb, instruction: vmcb.exit(EXIT_HLT),
    "vmmcall": _vmmcall,
    "vmgexit": lambda vmcb, instruction: vmcb.exit(EXIT_VMGEXIT if vmcb.es else EXIT_VMMCALL),
}

# What becomes #VC in an SEV-ES guest before anybody outside hears of it: the non-automatic exits.
NON_AUTOMATIC = {
    "cpuid": EXIT_CPUID,
    "rdmsr": EXIT_MSR,
    "wrmsr": EXIT_MSR,
    "out": EXIT_IOIO,
    "in": EXIT_IOIO,
    "outs": EXIT_IOIO,
    "ins": EXIT_IOIO,
    "wbinvd": EXIT_WBINVD,
    "vmmcall": EXIT_VMMCALL,
}

# What an instruction gives its program once the hypervisor has moved RIP past it.
RESULT: dict[str, Callable[[Vmcb, Instruction], Any]] = {
    "cpuid": lambda vmcb, instruction: (vmcb.regs.rax, vmcb.regs.rbx, vmcb.regs.rcx, vmcb.regs.rdx),
    "rdmsr": lambda vmcb, instruction: vmcb.regs.rdx << 32 | vmcb.regs.rax & 0xFFFF_FFFF,
    "in": lambda vmcb, instruction: vmcb.regs.rax.to_bytes(8, "little")[: instruction[2]],
    "vmmcall": lambda vmcb, instruction: vmcb.regs.rax,
    "load": lambda vmcb, instruction: vmcb.data,
    "ins": lambda vmcb, instruction: vmcb.data,
    **dict.fromkeys(("wrmsr", "out", "outs", "wbinvd", "hlt", "vmgexit", "store"), lambda vmcb, instruction: None),
}
