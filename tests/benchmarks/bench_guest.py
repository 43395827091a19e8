"""What an exit of a guest costs that the kernel handles itself, beside what a bare generator takes for as many words."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

from harness import Figure, pair

from sevlab.crypto import Stream
from sevlab.hw.cpu import exits
from sevlab.hw.isa import Program, cpuid, program
from sevlab.hw.soc import Soc
from sevlab.hw.vmcb import EXIT_INTR
from sevlab.kvm import designs
from sevlab.kvm.exits import HANDLERS
from sevlab.kvm.kernel import Kernel
from sevlab.kvm.vcpu import Vcpu
from sevlab.kvm.vm import Vm
from sevlab.trace import Trace

EXITS = 1_000  # exits of one measured call


@program
async def asks() -> None:
    while True:
        _eax, _ebx, _ecx, _edx = await cpuid(1, 0)


def bare(leaf: int, subleaf: int) -> Generator[tuple[str, int, int], tuple[int, int, int, int], None]:
    """A guest with nothing around it: a generator that asks the same, and takes the answer apart as `asks` does."""
    while True:
        _eax, _ebx, _ecx, _edx = yield ("cpuid", leaf, subleaf)


def machine(guest: Program) -> Vcpu:
    """A vCPU of a plain VM with `guest` at its reset vector; the trace is off."""
    soc = Soc("rome", Stream(1), Trace(on=False), 16 << 20)
    kernel = Kernel(soc, None, designs.LINUX_6_1)
    vm = Vm(kernel, kernel.process("bench").task, 0)
    vm.npt.fault = lambda gfn: 0x300 + (gfn & 0xFF)
    soc.dram.write(0x3FF000, soc.programs.add(guest))
    vcpu = Vcpu(vm, 0)
    vcpu.leaves = {1: (1, 2, 3, 4)}
    return vcpu


def handled(vcpu: Vcpu) -> Any:
    """KVM_RUN's inner loop (Vcpu._enter), for EXITS exits of a guest that begins anew, so that its log does not grow."""

    def run() -> None:
        vcpu.vmcb.thread = None
        soc, vmcb, trace, handlers = vcpu.vm.kernel.soc, vcpu.vmcb, vcpu.vm.kernel.soc.trace, HANDLERS
        for code in exits(soc, vmcb, EXITS):
            if trace.on:
                raise AssertionError("the trace is off here")
            if handlers[code](vcpu):
                break
        if vmcb.exit_code != EXIT_INTR:
            raise AssertionError(f"left with {vmcb.exit_code:#x}: {vmcb.why}")

    return run


def figures() -> Iterator[Figure]:
    send = bare(1, 0).send
    send(None)

    def limit() -> None:
        for _ in range(EXITS):
            send((1, 2, 3, 4))

    yield pair("a CPUID exit handled in the kernel / a generator send", 10.0, handled(machine(asks)), limit, per=EXITS)
