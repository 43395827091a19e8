"""What an exit of a guest costs, beside what a bare generator takes for as many words, or a page for its registers."""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from harness import Figure, pair

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the machines that the tests stand on

from kvm.guests import Guest
from sev_rig import Rig

from sevlab.abi.kvm import KVM_RUN, kvm_cpuid_entry2
from sevlab.abi.vmsa import initial_vmsa
from sevlab.crypto import Stream
from sevlab.guest.ghcb import open_ghcb
from sevlab.guest.vc import handle_vc
from sevlab.hw.cpu import exits
from sevlab.hw.isa import Program, cpuid, hlt, program
from sevlab.hw.soc import Soc
from sevlab.hw.vmcb import EXIT_INTR
from sevlab.kvm import designs
from sevlab.kvm.exits import HANDLERS
from sevlab.kvm.kernel import Kernel
from sevlab.kvm.vcpu import Vcpu
from sevlab.kvm.vm import Vm
from sevlab.trace import Trace

EXITS = 1_000  # exits of one measured call
ASKS = 20  # requests of one measured call of an SEV-ES guest


@program
async def asks() -> None:
    while True:
        _eax, _ebx, _ecx, _edx = await cpuid(1, 0)


@program(vc=handle_vc)
async def sealed_asks(n: int) -> None:
    """Ask n times, stop, and begin again with nothing remembered."""
    await open_ghcb(0x3000)
    while True:
        for _ in range(n):
            await cpuid(1, 0)
        await hlt()


@program
async def stops() -> None:
    while True:
        await hlt()


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


def running(guest: Program, *args: Any, kind: str, trace: bool) -> tuple[Rig, Any]:
    """A whole machine with one guest: the machine, and one KVM_RUN of it."""
    rig = Rig()
    machine = Guest(rig, guest, *args, kind=kind)
    machine.set_cpuid(kvm_cpuid_entry2(1, eax=1, ebx=2, ecx=3, edx=4))
    rig.trace.on = trace
    ioctl, fd = rig.qemu.ioctl, machine.fds[0]
    ioctl(fd, KVM_RUN, 0)
    return rig, lambda: ioctl(fd, KVM_RUN, 0)


def figures() -> Iterator[Figure]:
    send = bare(1, 0).send
    send(None)

    def limit() -> None:
        for _ in range(EXITS):
            send((1, 2, 3, 4))

    yield pair("a CPUID exit handled in the kernel / a generator send", 10.0, handled(machine(asks)), limit, per=EXITS)

    rig, run = running(sealed_asks, ASKS, kind="es", trace=False)
    rig.soc.engine.install(7, bytes(16))
    vmsa, engine = initial_vmsa(0xFFFF_FFF0, signature=1), rig.soc.engine

    def page() -> None:
        for _ in range(ASKS):
            vmsa.pack()
            engine.encrypt(7, 0x80_0000, 4096)

    yield pair("an SEV-ES CPUID, #VC to answer / VMSA pack + XEX", 3.0, run, page, per=ASKS)

    _, run = running(stops, kind="plain", trace=True)

    def words() -> None:
        for _ in range(EXITS):
            send((1, 2, 3, 4))

    yield pair("KVM_RUN to HLT, traced / 1,000 generator sends", 1.0, run, words, note="an ioctl with its journal and trace")
