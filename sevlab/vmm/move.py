"""A new VMM for a guest that goes on running: the process changes, the machine and the memory do not.

    vm = vmm.launch(host, program=guest.counter, shared=True)
    vm = vmm.move(vm, to=host.process("qemu-2"))  # then: old.process.kill()

One ioctl hands over the key, the pins and the slot; for SEV-ES the sealed
registers too. The rest is user space's, and must be in hand *before*: afterwards
the old VM answers EIO and nothing else (kvm.md F).
"""

from __future__ import annotations

from errno import EINTR

from sevlab.abi.kvm import (
    KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM,
    KVM_GET_DEBUGREGS,
    KVM_GET_FPU,
    KVM_GET_LAPIC,
    KVM_GET_MP_STATE,
    KVM_SET_DEBUGREGS,
    KVM_SET_FPU,
    KVM_SET_LAPIC,
    KVM_SET_MP_STATE,
    kvm_debugregs,
    kvm_fpu,
    kvm_lapic_state,
    kvm_mp_state,
    kvm_run,
)
from sevlab.given import checked
from sevlab.kvm.process import Process
from sevlab.vmm import loop, steps
from sevlab.vmm.mirror import bare, enable, share_memory
from sevlab.vmm.vm import Vcpu, Vm

IMMEDIATE_EXIT = 1  # byte of kvm_run

CARRIED = (
    (KVM_GET_FPU, KVM_SET_FPU, kvm_fpu),
    (KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS, kvm_debugregs),
    (KVM_GET_MP_STATE, KVM_SET_MP_STATE, kvm_mp_state),
)


@checked
def move(vm: Vm, to: Process) -> Vm:
    """Move a guest to the VMM process `to` on the same host: memory, vCPUs and registers first, then the context.

    The guest goes on where it stands. The old `vm` is dead afterwards, and its
    process may be killed. The guest must have been launched with `shared=True`.

    Raises OSError as the kernel refuses, ValueError for memory that the other
    process cannot have, TypeError for what is no guest or process. After any the guest is where it was, and what was
    made here is gone.
    """
    made = bare(vm, to)
    try:
        share_memory(made, vm)
        if vm.irqchip:
            steps.add_irqchip(made)
        steps.add_vcpus(made, len(vm.vcpus))
        steps.reset_vcpus(made)
        for mine, theirs in zip(made.vcpus, vm.vcpus, strict=True):
            settle(vm, theirs)
            carry(mine, theirs, sealed=vm.es, irqchip=vm.irqchip)
        made.console[:], made.icr_target = vm.console, vm.icr_target
        take(made, vm)
    except BaseException:
        made.close()
        raise
    return made


def take(made: Vm, source: Vm) -> None:
    """The one ioctl: the encryption context of `source` becomes that of `made`."""
    enable(made, source, KVM_CAP_VM_MOVE_ENC_CONTEXT_FROM)


def settle(vm: Vm, vcpu: Vcpu) -> None:
    """Have the kernel finish what a vCPU's last exit began, and not enter the guest: an answer still in kvm_run would be lost."""
    at = vcpu.run_hva + IMMEDIATE_EXIT
    vcpu.process.write(at, b"\1")
    try:
        while True:
            loop.serve(vm, vcpu, vcpu.enter())  # an access in pieces: the next one
    except OSError as error:
        if error.errno != EINTR:
            raise
    finally:
        vcpu.process.write(at, b"\0")


def carry(mine: Vcpu, theirs: Vcpu, *, sealed: bool, irqchip: bool = False) -> None:
    """What user space can read of one vCPU, to another. A sealed one's registers move with the context; these say nothing true."""
    if not sealed:
        mine.set_registers(*theirs.registers())
    else:
        regs, sregs = mine.registers()
        sregs.apic_base = kvm_run.unpack(theirs.process.read(theirs.run_hva, kvm_run.SIZE)).apic_base or sregs.apic_base
        mine.set_registers(regs, sregs)  # of all that is set here, the base alone outlives the move
    if irqchip:
        apic = kvm_lapic_state()
        theirs.ioctl(KVM_GET_LAPIC, apic)
        mine.ioctl(KVM_SET_LAPIC, apic)
    for get, put, kind in CARRIED[-1:] if sealed else CARRIED:
        state = kind()
        theirs.ioctl(get, state)
        mine.ioctl(put, state)
    mine.started, mine.waiting = theirs.started, theirs.waiting
