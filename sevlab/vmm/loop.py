"""The loop that runs vCPUs, and the few devices that a guest of the course meets.

The vCPUs take turns in the order of their numbers, each in a KVM_RUN of its own that
goes on until it waits, so that two runs of a notebook see the same order. What a guest
asks of the world it asks by ports and by memory that is not there: a debug port
prints, a start-up message written to the local APIC starts another vCPU, everything
else is an empty bus, which reads as ones and forgets what is written.

Without `irqchip` the interrupt controllers are the VMM's (QEMU's kernel-irqchip=off):
the kernel tells user space of every HLT, and of a processor that holds for a reset,
which user space has no way to complete: run again, it finds that nothing has come.
With it (QEMU's default) processors halt, hold and start inside KVM_RUN.
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
from sevlab.given import having
from sevlab.vmm.vm import Exit, Vcpu

if TYPE_CHECKING:
    from sevlab.vmm.vm import Vm

CONSOLE_PORTS = (0x402, 0xE9, 0x3F8)  # OVMF's debug port, Bochs's, the first serial line
ICR = 0xFEE0_0300  # the local APIC's command register; the target's number stands in the word at +0x10
INIT, STARTUP, MODE, OTHERS = 5 << 8, 6 << 8, 7 << 8, 3 << 18
PATIENCE = 32  # turns that a guest may compute, or wait for another, without an exit
_WAITING = frozenset({KVM_EXIT_HLT, KVM_EXIT_AP_RESET_HOLD, KVM_EXIT_INTR})


def run(vm: Vm, rounds: int) -> Exit:
    """Run the vCPUs in turn until none can go on, or one needs somebody; the exit that ended it.

    A vCPU that halts, is parked or waits is left alone until `run` is called
    again. Any exit that is no device's (SHUTDOWN, SYSTEM_EVENT, INTERNAL_ERROR
    and the like) ends the loop at once.
    """
    return together(vm, rounds=rounds)[0]


def together(*vms: Vm, rounds: int = 10_000) -> list[Exit]:
    """Run several VMs, of one process or of many, turn by turn: for each the exit that ended it, as `run` says.

    The order is that of `vms` and of their vCPUs, so that two runs of a notebook see the same one. A VM
    that needs somebody stands still while the others go on. A mistake in a guest's program is raised as it is met
    (GuestError), and no KVM_RUN is under way after it.
    """
    last: dict[int, Exit] = {}
    ended: set[int] = set()
    for vm in vms:
        for vcpu in having("vm", vm, ("vcpus",), "a VM, such as vmm.launch returns").vcpus:
            vcpu.waiting = ""
    quiet = 0  # turns of all in which no KVM_RUN came back
    try:
        for _ in range(rounds):
            ready = [
                (number, vm, vcpu)
                for number, vm in enumerate(vms)
                for vcpu in vm.vcpus
                if number not in ended and vcpu.started and not vcpu.waiting
            ]
            moved, quiet = False, quiet + 1
            for number, vm, vcpu in ready:
                if number in ended:
                    continue
                moved |= vcpu.go_on(alone=len(ready) == 1)
                found = _left(vcpu) if vcpu.came_back else None
                if found is not None:
                    last[number], quiet = found, 0
                    if serve(vm, vcpu, found):
                        continue
                    if found.reason not in _WAITING:
                        ended.add(number)
                    else:
                        vcpu.waiting = found.name
            if not moved or quiet > PATIENCE:
                break
    except BaseException:
        for vm in vms:
            for vcpu in vm.vcpus:
                vcpu.give_up()
        raise
    held = {number: [vcpu.stop() for vcpu in vm.vcpus if vcpu.call is not None] for number, vm in enumerate(vms)}
    exits = []
    for number in range(len(vms)):
        exit, stopped = last.get(number), held[number]
        if number not in ended and stopped and (exit is None or exit.reason not in _WAITING):
            exit = stopped[0]
        exits.append(exit or Exit(0, KVM_EXIT_INTR, "INTR"))
    return exits


def _left(vcpu: Vcpu) -> Exit | None:
    """What a KVM_RUN that came back says; None when it only has to be called again."""
    try:
        return vcpu.left()
    except OSError as error:
        if error.errno == EAGAIN:
            return None
        if error.errno == EINTR:
            return Exit(vcpu.index, KVM_EXIT_INTR, "INTR", getattr(error, "why", None))
        raise


def serve(vm: Vm, vcpu: Vcpu, exit: Exit) -> bool:
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
    """A message between vCPUs: one starts a processor that nobody has started, any wakes one that waits; INIT does nothing yet."""
    for vcpu in vm.vcpus:
        if vcpu is sender or not (icr & OTHERS == OTHERS or vcpu.index == vm.icr_target) or icr & MODE == INIT:
            continue
        if not vcpu.started and icr & MODE == STARTUP:
            start(vm, vcpu, icr & 0xFF)
        vcpu.waiting = ""


def start(vm: Vm, vcpu: Vcpu, vector: int) -> None:
    """A start-up message reaches a vCPU: it starts at page `vector`; a sealed one where its registers say, which were measured."""
    if not vm.es:
        regs, sregs = vcpu.registers()
        sregs.cs.selector, sregs.cs.base, regs.rip = vector << 8, vector << 12, 0
        vcpu.set_registers(regs, sregs)
    vcpu.started = True
