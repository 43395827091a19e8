"""The loop that runs vCPUs, and the few devices that a guest of the course meets.

One thread takes the vCPUs in turn, so that two runs of a notebook see the same
order. What a guest asks of the world it asks by ports and by memory that is not
there: a debug port prints, a start-up message written to the local APIC starts
another vCPU, everything else is an empty bus, which reads as ones and forgets
what is written.

The interrupt controllers are the VMM's (QEMU's kernel-irqchip=off): the kernel
then tells user space of every HLT, and of a processor that holds for a reset.
"""

from __future__ import annotations

from errno import EAGAIN, EINTR
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    KVM_EXIT_AP_RESET_HOLD,
    KVM_EXIT_HLT,
    KVM_EXIT_INTR,
    KVM_EXIT_IO,
    KVM_EXIT_IO_IN,
    KVM_EXIT_MMIO,
    KVM_RUN_UNION,
    kvm_run_io,
    kvm_run_mmio,
)
from sevlab.vmm.vm import Exit, Vcpu

if TYPE_CHECKING:
    from sevlab.vmm.vm import Vm

CONSOLE_PORTS = (0x402, 0xE9, 0x3F8)  # OVMF's debug port, Bochs's, the first serial line
ICR = 0xFEE0_0300  # the local APIC's command register; the target's number stands in the word at +0x10
STARTUP, MODE, OTHERS = 6 << 8, 7 << 8, 3 << 18
_WAITING = frozenset({KVM_EXIT_HLT, KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_INTR})


def run(vm: Vm, rounds: int) -> Exit:
    """Run the vCPUs in turn until none can go on, or one needs somebody; the exit that ended it.

    A vCPU that halts, is parked or waits is left alone until `run` is called
    again. Any exit that is no device's (SHUTDOWN, SYSTEM_EVENT, INTERNAL_ERROR
    and the like) ends the loop at once.
    """
    last: Exit | None = None
    for vcpu in vm.vcpus:
        vcpu.waiting = ""
    for _ in range(rounds):
        ready = [vcpu for vcpu in vm.vcpus if vcpu.started and not vcpu.waiting]
        if not ready:
            break
        for vcpu in ready:
            last = _enter(vcpu)
            if last is None or _device(vm, vcpu, last):
                continue
            if last.reason not in _WAITING:
                return last
            vcpu.waiting = last.name
    if last is None:
        return Exit(0, KVM_EXIT_INTR, "INTR")
    return last


def _enter(vcpu: Vcpu) -> Exit | None:
    """One KVM_RUN; None when it only has to be called again."""
    try:
        return vcpu.enter()
    except OSError as error:
        if error.errno == EAGAIN:
            return None
        if error.errno == EINTR:
            return Exit(vcpu.index, KVM_EXIT_INTR, "INTR", getattr(error, "why", None))
        raise


def _device(vm: Vm, vcpu: Vcpu, exit: Exit) -> bool:
    """Answer a port or memory access; whether it was one."""
    if exit.reason == KVM_EXIT_IO:
        _port(vm, vcpu, exit.detail)
    elif exit.reason == KVM_EXIT_MMIO:
        _mmio(vm, vcpu, exit.detail)
    else:
        return False
    return True


def _port(vm: Vm, vcpu: Vcpu, io: kvm_run_io) -> None:
    at, n = vcpu.run_hva + io.data_offset, io.size * io.count
    if io.direction == KVM_EXIT_IO_IN:
        vm.process.write(at, b"\xff" * n)
    elif io.port in CONSOLE_PORTS:
        vm.console += vm.process.read(at, n)


def _mmio(vm: Vm, vcpu: Vcpu, mmio: kvm_run_mmio) -> None:
    if not mmio.is_write:
        data = vcpu.run_hva + KVM_RUN_UNION + kvm_run_mmio.LAYOUT[1].offset
        vcpu.process.write(data, b"\xff" * 8)
    elif mmio.phys_addr == ICR + 0x10:
        vm.icr_target = mmio.data[3]
    elif mmio.phys_addr == ICR:
        _message(vm, vcpu, int.from_bytes(mmio.data[:4], "little"))


def _message(vm: Vm, sender: Vcpu, icr: int) -> None:
    """A message between vCPUs; only the one that starts a processor means anything here."""
    if icr & MODE != STARTUP:
        return
    for vcpu in vm.vcpus:
        if vcpu is not sender and not vcpu.started and (icr & OTHERS == OTHERS or vcpu.index == vm.icr_target):
            start(vm, vcpu, icr & 0xFF)


def start(vm: Vm, vcpu: Vcpu, vector: int) -> None:
    """A start-up message reaches a vCPU: it starts at page `vector`; a sealed one where its registers say, which were measured."""
    if not vm.es:
        regs, sregs = vcpu.registers()
        sregs.cs.selector, sregs.cs.base, regs.rip = vector << 8, vector << 12, 0
        vcpu.set_registers(regs, sregs)
    vcpu.started = True
