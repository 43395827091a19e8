"""What KVM does about each thing that makes a guest leave: answered here, or passed to user space.

A handler answers RESUME (0) to run the guest again, or why not: USER, the exit is
user space's and kvm_run says which; BLOCK, the vCPU has halted; TICK, its time
slice is over; LATER, a continuation waits in `vcpu.later`. `exits.py` has the table
of who handles what. Source: kvm.md A3, A10, G8 (svm_exit_handlers, x86.c).
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL
from typing import TYPE_CHECKING

from sevlab.abi.kvm import (
    KVM_EXIT_FAIL_ENTRY,
    KVM_EXIT_HLT,
    KVM_EXIT_INTERNAL_ERROR,
    KVM_EXIT_IO,
    KVM_EXIT_IO_IN,
    KVM_EXIT_IO_OUT,
    KVM_EXIT_MMIO,
    KVM_EXIT_SHUTDOWN,
    KVM_INTERNAL_ERROR_EMULATION,
    KVM_MP_STATE_HALTED,
    kvm_run_fail_entry,
    kvm_run_internal,
    kvm_run_io,
    kvm_run_mmio,
)
from sevlab.hw.isa import GP, Fault
from sevlab.hw.vmcb import (
    IOIO_IN,
    IOIO_STR,
    NPF_FETCH,
    NPF_GUEST_TABLE,
    NPF_WRITE,
)
from sevlab.kvm import irqchip, lapic
from sevlab.kvm.fd import KvmError
from sevlab.kvm.mp_state import halt
from sevlab.kvm.vcpu_regs import reset

if TYPE_CHECKING:
    from sevlab.kvm.vcpu import Vcpu

RESUME, USER, TICK, LATER = 0, 1, 3, 4  # and BLOCK, 2

U32 = 0xFFFF_FFFF
PIO_PAGE = 0x1000  # where in the mmap of a vCPU the data of port I/O lie (KVM_PIO_PAGE_OFFSET)
FRAGMENT = 8  # bytes of one KVM_EXIT_MMIO
UNEXPECTED_EXIT_REASON = 4  # KVM_INTERNAL_ERROR_UNEXPECTED_EXIT_REASON
KVM_HC_VAPIC_POLL_IRQ, KVM_HC_KICK_CPU = 1, 5
KVM_ENOSYS = 1000
NOTHING = (0, 0, 0, 0)


def cpuid(vcpu: Vcpu) -> int:
    """CPUID: what user space has set for this vCPU, zeros for a leaf it has not (kvm_emulate_cpuid)."""
    vmcb = vcpu.vmcb
    regs = vmcb.regs
    leaf = vcpu.leaves.get(regs.rax, NOTHING)
    if leaf.__class__ is dict:
        leaf = leaf.get(regs.rcx, NOTHING)
    regs.rax, regs.rbx, regs.rcx, regs.rdx = leaf
    vmcb.skip = True
    return RESUME


def hlt(vcpu: Vcpu) -> int:
    """HLT: wait in the kernel where the interrupt controller is, else tell user space (kvm_emulate_halt)."""
    vcpu.vmcb.skip = True
    return halt(vcpu, KVM_MP_STATE_HALTED, KVM_EXIT_HLT)


def msr(vcpu: Vcpu) -> int:
    """RDMSR and WRMSR: a register that is not there is #GP (kvm_emulate_rdmsr, kvm_emulate_wrmsr)."""
    vmcb = vcpu.vmcb
    regs = vmcb.regs
    try:
        if vmcb.exit_info_1:
            vcpu.write_msr(regs.rcx, regs.rdx << 32 | regs.rax & U32)
        else:
            value = vcpu.read_msr(regs.rcx)
            regs.rax, regs.rdx = value & U32, value >> 32
    except KeyError:
        vmcb.event = Fault(GP)
        return RESUME
    vmcb.skip = True
    return RESUME


# ------------------------------------------------------------- port I/O


def ioio(vcpu: Vcpu) -> int:
    """IN and OUT: user space has all the ports (kvm_fast_pio); strings are emulated (emulator_pio_in_out)."""
    vmcb = vcpu.vmcb
    info = vmcb.exit_info_1
    port, size, reading = info >> 16 & 0xFFFF, info >> 4 & 7, bool(info & IOIO_IN)
    if info & IOIO_STR and vmcb.thread is not None:
        _, _, operand, _ = vmcb.thread.pending
        return string_io(vcpu, bytearray(operand * size if reading else operand), 0, size, port, reading, _string_done)
    if not reading:
        vcpu.pio[:size] = vmcb.regs.rax.to_bytes(8, "little")[:size]
    vcpu.complete = _pio_in if reading else _pio_out
    return vcpu.exit(KVM_EXIT_IO, kvm_run_io(KVM_EXIT_IO_IN if reading else KVM_EXIT_IO_OUT, size, port, 1, PIO_PAGE))


def string_io(
    vcpu: Vcpu, data: bytearray, done: int, size: int, port: int, reading: bool, end: Callable[[Vcpu, bytearray], int]
) -> int:
    """The next page of a string of port I/O, or its end. (CVE-2021-4093: once there was no such border for SEV-ES.)"""
    if done == len(data):
        return end(vcpu, data)
    n = min(PIO_PAGE // size * size, len(data) - done)
    if not reading:
        vcpu.pio[:n] = data[done : done + n]

    def complete(vcpu: Vcpu) -> int:
        if reading:
            data[done : done + n] = vcpu.pio[:n]
        return string_io(vcpu, data, done + n, size, port, reading, end)

    vcpu.complete = complete
    direction = KVM_EXIT_IO_IN if reading else KVM_EXIT_IO_OUT
    return vcpu.exit(KVM_EXIT_IO, kvm_run_io(direction, size, port, n // size, PIO_PAGE))


def _string_done(vcpu: Vcpu, data: bytearray) -> int:
    vcpu.vmcb.data, vcpu.vmcb.skip = bytes(data), True
    return RESUME


def _pio_in(vcpu: Vcpu) -> int:
    """KVM_RUN after an IN: user space has put the data there (complete_fast_pio_in)."""
    size, regs = vcpu.vmcb.exit_info_1 >> 4 & 7, vcpu.vmcb.regs
    keep = 0 if size == 4 else -1 << 8 * size & (1 << 64) - 1  # a 32-bit write clears the upper half
    regs.rax = regs.rax & keep | int.from_bytes(vcpu.pio[:size], "little")
    vcpu.vmcb.skip = True
    return RESUME


def _pio_out(vcpu: Vcpu) -> int:
    vcpu.vmcb.skip = True
    return RESUME


# ------------------------------------------------------------- MMIO


def npf(vcpu: Vcpu) -> int:
    """No memory behind a gpa: a device's, so the instruction is emulated with user space's help (kvm_mmu_page_fault).

    An instruction *fetched* from there cannot be emulated, nor a page table read there.
    """
    vmcb = vcpu.vmcb
    if vmcb.exit_info_1 & (NPF_FETCH | NPF_GUEST_TABLE) or vmcb.thread is None:
        return internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION, vmcb.exit_info_2)
    vmcb.data = b""
    return _mmio(vcpu)


def _mmio(vcpu: Vcpu) -> int:
    """The next piece of an access to a device, or its end (emulator_read_write, complete_emulated_mmio)."""
    vmcb = vcpu.vmcb
    assert vmcb.thread is not None
    _, gpa, operand, c = vmcb.thread.pending
    if c is None and vmcb.save.cr3:
        gpa = vmcb.gpa  # the instruction names a virtual address
    write = bool(vmcb.exit_info_1 & NPF_WRITE)
    done, total = len(vmcb.data), len(operand) if write else operand
    if done == total:
        vmcb.skip = True
        return RESUME
    if vcpu.vm.slots.find(gpa + done >> 12) is not None:  # one half memory, one half device
        return internal_error(vcpu, KVM_INTERNAL_ERROR_EMULATION, gpa)
    size = min(total - done, FRAGMENT, 0x1000 - (gpa + done & 0xFFF))
    data = operand[done : done + size] if write else bytes(8)
    if write and lapic.mmio_write(vcpu, gpa + done, data):
        vmcb.data += data
        return _mmio(vcpu)
    found = None if write else lapic.mmio_read(vcpu, gpa + done, size)
    if found is not None:
        vmcb.data += found
        return _mmio(vcpu)
    data = data.ljust(8, b"\0")
    vcpu.complete = _mmio_done
    return vcpu.exit(KVM_EXIT_MMIO, kvm_run_mmio(gpa + done, data, size, int(write)))


def _mmio_done(vcpu: Vcpu) -> int:
    """KVM_RUN after a piece: what was read is in kvm_run."""
    piece: kvm_run_mmio = kvm_run_mmio.unpack(vcpu.shared, 32)
    size = min(piece.len, FRAGMENT)
    vcpu.vmcb.data += piece.data[:size]
    return _mmio(vcpu)


# ------------------------------------------------------------- the rest


def vmmcall(vcpu: Vcpu) -> int:
    """A hypercall: the oldest one, and the kick of a processor that waits for a lock (kvm_emulate_hypercall)."""
    regs = vcpu.vmcb.regs
    known = regs.rax in (KVM_HC_VAPIC_POLL_IRQ, KVM_HC_KICK_CPU)
    if regs.rax == KVM_HC_KICK_CPU:
        irqchip.kick(vcpu.vm, regs.rcx)
    regs.rax = 0 if known else -KVM_ENOSYS & (1 << 64) - 1
    vcpu.vmcb.skip = True
    return RESUME


def shutdown(vcpu: Vcpu) -> int:
    """A triple fault. Registers that the kernel may see are reset; a sealed vCPU's cannot be (shutdown_interception)."""
    vm = vcpu.vm
    if not vm.sev.es:
        reset(vcpu)
    elif not vm.kernel.design.init.has_vm_types:
        raise KvmError(EINVAL)  # sev_es_guest(vcpu->kvm), until 6.10: no exit reason says that the guest is gone
    return vcpu.exit(KVM_EXIT_SHUTDOWN)


def invalid(vcpu: Vcpu) -> int:
    """VMRUN refused to enter: the state it was given is none (svm_handle_exit: SVM_EXIT_ERR)."""
    vcpu.vm.kernel.log("set kvm_amd.dump_invalid_vmcb=1 to dump internal KVM state.")
    return vcpu.exit(KVM_EXIT_FAIL_ENTRY, kvm_run_fail_entry(U32, 0))


def interrupted(vcpu: Vcpu) -> int:
    """The guest's time slice is over: others may run."""
    return TICK


def unexpected(vcpu: Vcpu) -> int:
    """An exit that nobody handles (svm_handle_invalid_exit)."""
    return internal_error(vcpu, UNEXPECTED_EXIT_REASON, vcpu.vmcb.exit_code, 0)


def internal_error(vcpu: Vcpu, suberror: int, *data: int) -> int:
    """KVM_EXIT_INTERNAL_ERROR: what happened has no better name."""
    return vcpu.exit(KVM_EXIT_INTERNAL_ERROR, kvm_run_internal(suberror, len(data), data + (0,) * (16 - len(data))))


def wbinvd(vcpu: Vcpu) -> int:
    """WBINVD and INVD: emulated as if the guest had done it (kvm_emulate_wbinvd)."""
    vcpu.vmcb.skip = True
    return RESUME
